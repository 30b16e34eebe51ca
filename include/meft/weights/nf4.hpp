// Owns: NF4, four bits of a normal distribution's quantiles: Dettmers et al., "QLoRA", arXiv 2305.14314, section 3;
// the numbers are those of its code.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include <meft/weights/format.hpp>

namespace meft::weights {

namespace detail {

/// The quantiles.
struct Nf4Code {
  float at[16] = {-1.0f,
                  -0.6961928009986877f,
                  -0.5250730514526367f,
                  -0.39491748809814453f,
                  -0.28444138169288635f,
                  -0.18477343022823334f,
                  -0.09105003625154495f,
                  0.0f,
                  0.07958029955625534f,
                  0.16093020141124725f,
                  0.24611230194568634f,
                  0.33791524171829224f,
                  0.44070982933044434f,
                  0.5626170039176941f,
                  0.7229568362236023f,
                  1.0f};
};

}  // namespace detail

/// largest·code[q] in blocks of 64, the largest magnitude a half; numbers 2j and 2j + 1 are a byte, the first in its
/// low four bits.
struct Nf4 {
  static constexpr std::string_view dtype = "NF4";
  static constexpr std::size_t numbers = 64, bytes = 34;
  static constexpr unsigned bits = 4;
  static constexpr std::array<std::size_t, 1> scales = {0};

  static constexpr detail::Nf4Code code{};

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float* s) {
    constexpr detail::Nf4Code here{};  // a device has no code of the host's
    return here.at[byte_at(block + 2 + i / 2) >> i % 2 * 4 & 15] * s[0];
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t i, const float* s, Float8& low, Float8& high) {
    const auto eight = [&](std::size_t j, Float8& to) MEFT_INLINE {
      const Word8 places = {0, 4, 8, 12, 16, 20, 24, 28};
      std::uint32_t word;
      std::memcpy(&word, block + 2 + 8 * i + j / 2, sizeof word);
      look_up(to, code.at, reinterpret_cast<Int8>(((Word8{} + word) >> places) & 15u));
      to *= s[0];
    };
    eight(0, low);
    eight(8, high);
  }
#endif
  /// The scale of several with the least squared error: the largest magnitude, a little less, and the best for what
  /// either gives.
  static void encode(const float* x, std::byte* block) {
    float most = 0, best_error = 0;
    bool taken = false;
    for (std::size_t i = 0; i < numbers; ++i) most = std::max(most, std::fabs(x[i]));
    const auto take = [&](float scale) {
      const float s = as_half(scale), by = s > 0 ? 1 / s : 0;
      std::byte q[numbers];
      float error = 0, found = 0, squares = 0;
      for (std::size_t i = 0; i < numbers; ++i) {
        unsigned at = 0;
        for (unsigned step = 8; step; step /= 2)
          if (x[i] * by > 0.5f * (code.at[at + step - 1] + code.at[at + step])) at += step;
        q[i] = static_cast<std::byte>(at);
        const float c = code.at[at], far = s * c - x[i];
        error += far * far, found += x[i] * c, squares += c * c;
      }
      if (!taken || error < best_error) {
        best_error = error, taken = true;
        store_half(block, s);
        for (std::size_t j = 0; j < numbers / 2; ++j) block[2 + j] = q[2 * j] | q[2 * j + 1] << 4;
      }
      return squares > 0 ? found / squares : 0;
    };
    for (const float share : {1.0f, 0.9f}) take(take(share * most));
  }
};

}  // namespace meft::weights
