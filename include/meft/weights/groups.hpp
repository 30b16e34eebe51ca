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

  MEFT_INLINE static void part(const std::byte* block, std::size_t i, float* out) {
    const std::size_t g = i / 2, half = i % 2 * 16;
    const std::byte *packed = block + 4, *fifth = block + 16, *q = fifth + (has_fifth ? 32 : 0);
    std::uint32_t scale = 0, least = 0;
    if (g < 4) {
      scale = byte_at(packed + g) & 63;
      least = byte_at(packed + g + 4) & 63;
    } else {
      scale = (byte_at(packed + g + 4) & 15) | (byte_at(packed + g - 4) >> 6) << 4;
      least = byte_at(packed + g + 4) >> 4 | (byte_at(packed + g) >> 6) << 4;
    }
    const float by = half_at(block) * static_cast<float>(scale), less = half_at(block + 2) * static_cast<float>(least);
    for (std::size_t j = 0; j < 16; j += 8) {
      Int8 value;
      load_bits(value, q + g / 2 * 32 + half + j, g % 2 ? 4 : 0, 15);
      if constexpr (has_fifth) {
        Int8 bits;
        load_bits(bits, fifth + half + j, static_cast<std::uint32_t>(g), 1);
        value |= bits << 4;
      }
      store_scaled(out + j, by, value, -less);
    }
  }
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

  MEFT_INLINE static void part(const std::byte* block, std::size_t i, float* out) {
    const std::byte *low = block, *high = block + 128, *scales = block + 192;
    const std::size_t half = i / 8, quarter = i / 2 % 4, at = i % 2 * 16;
    const float by = half_at(block + 208) * static_cast<float>(static_cast<std::int8_t>(scales[i]));
    for (std::size_t j = 0; j < 16; j += 8) {
      Int8 four, two;
      load_bits(four, low + half * 64 + quarter % 2 * 32 + at + j, quarter < 2 ? 0 : 4, 15);
      load_bits(two, high + half * 32 + at + j, static_cast<std::uint32_t>(2 * quarter), 3);
      store_scaled(out + j, by, (four | two << 4) - 32);
    }
  }
};

}  // namespace meft::weights
