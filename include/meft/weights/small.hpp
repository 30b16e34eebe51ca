// Owns: GGUF's formats of 32 numbers a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0. Source: ggml's ggml-common.h and
// ggml-quants.c.
#pragma once

#include <cmath>

#include <meft/weights/format.hpp>

namespace meft::weights {

namespace detail {

/// Numbers of four bits, of five with `fifth`: scale·(q − zero), or scale·q + least. Half a block has the low, the
/// other half the high four bits.
template <bool has_least, bool has_fifth>
struct Small {
  static constexpr std::size_t numbers = 32, head = has_least ? 4 : 2, extra = has_fifth ? 4 : 0,
                               bytes = head + extra + 16;
  static constexpr unsigned bits = has_fifth ? 5 : 4;
  static constexpr int zero = has_least ? 0 : has_fifth ? 16 : 8;

  static constexpr auto scales = [] {
    std::array<std::size_t, has_least ? 2 : 1> at{};
    for (std::size_t i = 0; i < at.size(); ++i) at[i] = 2 * i;
    return at;
  }();

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float* s) {
    std::uint32_t q = byte_at(block + head + extra + i % 16) >> (i < 16 ? 0 : 4) & 15;
    if constexpr (has_fifth) q |= (byte_at(block + head + i / 8) >> i % 8 & 1) << 4;
    const float by = s[0] * static_cast<float>(static_cast<int>(q) - zero);
    if constexpr (has_least) return by + s[1];
    else return by;
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t i, const float* s, Float8& low, Float8& high) {
    const auto eight = [&](std::size_t j, Float8& to) MEFT_INLINE {
      Int8 q;
      load_bits(q, block + head + extra + j, i ? 4 : 0, 15);
      if constexpr (has_fifth) {
        const Int8 bit = {0, 1, 2, 3, 4, 5, 6, 7};
        q |= ((Int8{} + static_cast<std::int32_t>(byte_at(block + head + 2 * i + j / 8))) >> bit & 1) << 4;
      }
      scaled(to, s[0], q - zero);
      if constexpr (has_least) to += s[1];
    };
    eight(0, low);
    eight(8, high);
  }
#endif
};

}  // namespace detail

/// scale·(q − 8), q of four bits.
struct Q4_0 : detail::Small<false, false> {
  static constexpr std::string_view dtype = "Q4_0";

  /// The scale of several near the usual one, at which the largest number is −8, with the least squared error.
  static void encode(const float* x, std::byte* block) {
    float largest = 0, squares = 0;
    for (std::size_t i = 0; i < numbers; ++i) {
      if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
      squares += x[i] * x[i];
    }
    std::int8_t best[numbers] = {};
    float best_scale = 0, best_error = squares;
    for (int tried = -6; tried <= 2 && largest != 0; ++tried) {
      const float s = as_half(largest / (-8.0f + 0.25f * static_cast<float>(-tried)));
      if (s == 0) continue;
      std::int8_t q[numbers];
      float error = 0;
      for (std::size_t i = 0; i < numbers; ++i) {
        const float near = std::min(7.0f, std::max(-8.0f, std::nearbyint(x[i] / s)));
        q[i] = static_cast<std::int8_t>(near);
        error += (s * near - x[i]) * (s * near - x[i]);
      }
      if (best_scale != 0 && !(error < best_error)) continue;
      best_error = error, best_scale = s;
      std::copy(q, q + numbers, best);
    }
    store_half(block, best_scale);
    for (std::size_t i = 0; i < 16; ++i) block[2 + i] = static_cast<std::byte>((best[i] + 8) | (best[i + 16] + 8) << 4);
  }
};
/// scale·q + least, q of four bits.
struct Q4_1 : detail::Small<true, false> {
  static constexpr std::string_view dtype = "Q4_1";
};
/// scale·(q − 16), q of five bits.
struct Q5_0 : detail::Small<false, true> {
  static constexpr std::string_view dtype = "Q5_0";
};
/// scale·q + least, q of five bits.
struct Q5_1 : detail::Small<true, true> {
  static constexpr std::string_view dtype = "Q5_1";
};

/// scale·q, q of eight bits with a sign.
struct Q8_0 {
  static constexpr std::string_view dtype = "Q8_0";
  static constexpr std::size_t numbers = 32, bytes = 34;
  static constexpr unsigned bits = 8;

  static constexpr std::array<std::size_t, 1> scales = {0};

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float* s) {
    return s[0] * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t i, const float* s, Float8& low, Float8& high) {
    Int8 first, second;
    load_signed(first, block + 2 + 16 * i);
    load_signed(second, block + 10 + 16 * i);
    scaled(low, s[0], first);
    scaled(high, s[0], second);
  }
#endif
  static void encode(const float* x, std::byte* block) {
    float most = 0;
    for (std::size_t i = 0; i < numbers; ++i) most = std::max(most, std::fabs(x[i]));
    const float s = as_half(most / 127);
    store_half(block, s);
    for (std::size_t i = 0; i < numbers; ++i) {
      const float near = s > 0 ? std::min(127.0f, std::max(-127.0f, std::nearbyint(x[i] / s))) : 0.0f;
      block[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(near));
    }
  }
};

}  // namespace meft::weights
