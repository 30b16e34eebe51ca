// Owns: GGUF's formats of 256 numbers a block, in groups with scales of their own: Q4_K, Q5_K, Q6_K. Source: ggml's
// ggml-common.h and ggml-quants.c.
#pragma once

#include <meft/weights/format.hpp>

namespace meft::weights {

namespace detail {

/// Eight groups of 32, each with a scale and a least value of six bits: d·scale·q − m·least.
template <bool has_fifth>
struct Grouped {
  static constexpr std::size_t numbers = 256, bytes = has_fifth ? 176 : 144;
  static constexpr unsigned bits = has_fifth ? 5 : 4;

  static constexpr std::array<std::size_t, 2> scales = {0, 2};

  /// Group g's scale and least value.
  struct Group {
    float by, less;
    MEFT_HD Group(const std::byte* block, std::size_t g, const float* s) {
      const std::byte* packed = block + 4;
      std::uint32_t scale = 0, least = 0;
      if (g < 4) {
        scale = byte_at(packed + g) & 63;
        least = byte_at(packed + g + 4) & 63;
      } else {
        scale = (byte_at(packed + g + 4) & 15) | (byte_at(packed + g - 4) >> 6) << 4;
        least = byte_at(packed + g + 4) >> 4 | (byte_at(packed + g) >> 6) << 4;
      }
      by = s[0] * static_cast<float>(scale);
      less = s[1] * static_cast<float>(least);
    }
  };

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float* s) {
    const std::size_t g = i / 32, at = i % 32;
    const std::byte *fifth = block + 16, *q = fifth + (has_fifth ? 32 : 0) + g / 2 * 32;
    const Group group(block, g, s);
    std::uint32_t value = byte_at(q + at) >> (g % 2 ? 4 : 0) & 15;
    if (has_fifth) value |= (byte_at(fifth + at) >> g & 1) << 4;
    return group.by * static_cast<float>(value) - group.less;
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t i, const float* s, Float8& low, Float8& high) {
    const std::size_t g = i / 2, half = i % 2 * 16;
    const std::byte *fifth = block + 16 + half, *q = block + 16 + (has_fifth ? 32 : 0) + g / 2 * 32 + half;
    const Group group(block, g, s);
    Int8 first, second;
    load_bits(first, q, g % 2 ? 4 : 0, 15);
    load_bits(second, q + 8, g % 2 ? 4 : 0, 15);
    if constexpr (has_fifth) {
      Int8 bits;
      load_bits(bits, fifth, static_cast<std::uint32_t>(g), 1);
      first |= bits << 4;
      load_bits(bits, fifth + 8, static_cast<std::uint32_t>(g), 1);
      second |= bits << 4;
    }
    scaled(low, group.by, first);
    scaled(high, group.by, second);
    low -= group.less;
    high -= group.less;
  }
#endif
};

}  // namespace detail

/// d·scale·q − m·least, q of four bits.
struct Q4_K : detail::Grouped<false> {
  static constexpr std::string_view dtype = "Q4_K";
};
/// The same, q of five bits.
struct Q5_K : detail::Grouped<true> {
  static constexpr std::string_view dtype = "Q5_K";
};

/// d·scale·(q − 32), q of six bits: sixteen groups of 16, each with a signed scale of eight bits.
struct Q6_K {
  static constexpr std::string_view dtype = "Q6_K";
  static constexpr std::size_t numbers = 256, bytes = 210;
  static constexpr unsigned bits = 6;

  static constexpr std::array<std::size_t, 1> scales = {208};

  MEFT_HD static float scale(const std::byte* block, std::size_t i, const float* s) {
    return s[0] * static_cast<float>(static_cast<std::int8_t>(block[192 + i]));
  }
  MEFT_HD static float number(const std::byte* block, std::size_t i, const float* s) {
    const std::size_t half = i / 128, quarter = i / 32 % 4, at = i % 32;
    const std::uint32_t four = byte_at(block + half * 64 + quarter % 2 * 32 + at) >> (quarter < 2 ? 0 : 4) & 15,
                        two = byte_at(block + 128 + half * 32 + at) >> 2 * quarter & 3;
    return scale(block, i / 16, s) * static_cast<float>(static_cast<int>(four | two << 4) - 32);
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t i, const float* s, Float8& low, Float8& high) {
    const std::size_t half = i / 8, quarter = i / 2 % 4, at = i % 2 * 16;
    const std::byte *fours = block + half * 64 + quarter % 2 * 32 + at, *twos = block + 128 + half * 32 + at;
    const float by = scale(block, i, s);
    const std::uint32_t bit = quarter < 2 ? 0 : 4, pair = static_cast<std::uint32_t>(2 * quarter);
    Int8 four, two;
    load_bits(four, fours, bit, 15);
    load_bits(two, twos, pair, 3);
    scaled(low, by, (four | two << 4) - 32);
    load_bits(four, fours + 8, bit, 15);
    load_bits(two, twos + 8, pair, 3);
    scaled(high, by, (four | two << 4) - 32);
  }
#endif
};

}  // namespace meft::weights
