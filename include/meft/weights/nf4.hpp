// Owns: NF4, four bits of a normal distribution's quantiles: Dettmers et al., "QLoRA", arXiv 2305.14314, section 3;
// the numbers are those of its code.
#pragma once

#include <array>
#include <cmath>

#include <meft/weights/format.hpp>

namespace meft::weights {

/// largest·code[q] in blocks of 64, the largest magnitude a half; numbers 2j and 2j + 1 are a byte, the first in its
/// low four bits.
struct Nf4 {
  static constexpr std::string_view dtype = "NF4";
  static constexpr std::size_t numbers = 64, bytes = 34;
  static constexpr float code[16] = {-1.0f,
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

  /// The two numbers of a byte.
  static constexpr std::array<std::array<float, 2>, 256> pairs = [] {
    std::array<std::array<float, 2>, 256> out{};
    for (std::size_t byte = 0; byte < 256; ++byte) out[byte] = {code[byte & 15], code[byte >> 4]};
    return out;
  }();

  MEFT_INLINE static void part(const std::byte* block, std::size_t i, float* out) {
    const float largest = half_at(block);
    const std::byte* from = block + 2 + 8 * i;
    for (std::size_t j = 0; j < 8; ++j) {
      const auto& two = pairs[byte_at(from + j)];
      out[2 * j] = two[0] * largest;
      out[2 * j + 1] = two[1] * largest;
    }
  }
  static void encode(const float* x, std::byte* block) {
    float most = 0;
    for (std::size_t i = 0; i < numbers; ++i) most = std::max(most, std::fabs(x[i]));
    const half largest(most);
    const float s = static_cast<float>(largest);
    store_half(block, s);
    const auto nearest = [&](float v) {
      unsigned q = 0;
      while (q < 15 && v > 0.5f * (code[q] + code[q + 1])) ++q;
      return q;
    };
    for (std::size_t j = 0; j < numbers / 2; ++j) {
      const float by = s > 0 ? 1 / s : 0;
      block[2 + j] = static_cast<std::byte>(nearest(x[2 * j] * by) | nearest(x[2 * j + 1] * by) << 4);
    }
  }
};

}  // namespace meft::weights
