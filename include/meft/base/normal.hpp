// Owns: standard normal deviates in float, as a function of a key and an element, 32 at a time: element j and 16 + j of
// a group are made of words j and 16 + j of the group's eight Philox blocks. Box, Muller, "A note on the generation of
// random normal deviates", 1958.
#pragma once

#include <meft/base/random.hpp>
#include <meft/base/vector_math.hpp>

namespace meft {

namespace detail {

/// √(−2 ln u), u in (0, 1] from a word, within 2e-7.
MEFT_HD float normal_radius(std::uint32_t word) {
  const float u = (static_cast<float>(static_cast<std::int32_t>(word >> 1)) + 0.5f) * 0x1p-31f;
  const float a = -2.0f * fast::log(u), h = -0.5f * a;
  float y = fast::detail::real(0x5f375a86u - (fast::detail::bits(a) >> 1));  // 1/√a by Newton's iteration
  y *= multiply_add(h * y, y, 1.5f);
  y *= multiply_add(h * y, y, 1.5f);
  y *= multiply_add(h * y, y, 1.5f);
  return a * y;
}

/// cos and sin of 2π·v, v in [0, 1) from a word: of t, |t| ≤ 1/8 of a turn from the nearest quarter, then turned.
struct Turn {
  std::uint32_t quarter;
  float t;

  MEFT_HD explicit Turn(std::uint32_t word)
      : quarter((word + 0x20000000u) >> 30),
        t(static_cast<float>(static_cast<std::int32_t>(word - (quarter << 30))) * 0x1p-32f) {}
};
MEFT_HD float small_cosine(float t) {
  return fast::detail::polynomial(product(t, t), 1.0f, -19.7392088f, 64.9393940f, -85.4568172f, 60.2446414f,
                                  -26.4262568f);
}
MEFT_HD float small_sine(float t) {
  return product(
      t, fast::detail::polynomial(product(t, t), 6.28318531f, -41.3417022f, 81.6052493f, -76.7058598f, 42.0586939f));
}
/// The cosine, or the sine, by those of t.
MEFT_HD float turned(std::uint32_t quarter, float cosine, float sine, bool second) {
  const std::uint32_t q = quarter + (second ? 3u : 0u);  // sin x = cos (x − π/2)
  const float value = select((q & 1u) != 0, sine, cosine);
  return fast::detail::real(fast::detail::bits(value) ^ (((q + 1u) >> 1 & 1u) << 31));
}

}  // namespace detail

/// The deviate of one element of a group, of word j and word 16 + j of its words.
MEFT_HD float normal_of(std::uint32_t low, std::uint32_t high, bool second) {
  const detail::Turn turn(high);
  return detail::normal_radius(low) *
         detail::turned(turn.quarter, detail::small_cosine(turn.t), detail::small_sine(turn.t), second);
}

/// The deviate of one element; `normal` of base/random.hpp gives others, in double.
MEFT_HD float normal_float(Key key, std::uint64_t element) {
  return normal_of(random_bits(key, element & ~std::uint64_t{16}), random_bits(key, element | 16), (element & 16) != 0);
}

}  // namespace meft
