// Owns: rotary position on the CPU. Angles advance by rotations in double from every 64th position, so that a row's
// bits depend on its position alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/kernels/rotary.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

namespace cpu {

/// The cosines and sines of a row's pairs.
template <class T>
class Turns {
 public:
  Turns(const RotarySpec& spec, bool back) : pairs_(spec.pairs()), magnitude_(spec.magnitude) {
    for (Index i = 0; i < pairs_; ++i) {
      angle_[i] = back ? -spec.frequency(i) : spec.frequency(i);
      step_c_[i] = std::cos(angle_[i]);
      step_s_[i] = std::sin(angle_[i]);
    }
  }
  MEFT_INLINE void go_to(Index position) {
    if (position != at_ + 1 || position % every == 0) start(position / every * every);
    while (at_ < position) advance();
    const auto scaled = [m = magnitude_](double v) MEFT_INLINE { return static_cast<T>(m * v); };
    map_run(scaled, pairs_, cosine, c_);
    map_run(scaled, pairs_, sine, s_);
  }
  T cosine[RotarySpec::most] = {}, sine[RotarySpec::most] = {};

 private:
  static constexpr Index every = 64;
  MEFT_INLINE void start(Index position) {
    at_ = position;
    for (Index i = 0; i < pairs_; ++i) {
      c_[i] = std::cos(static_cast<double>(position) * angle_[i]);
      s_[i] = std::sin(static_cast<double>(position) * angle_[i]);
    }
  }
  MEFT_INLINE void advance() {
    ++at_;
    double next[RotarySpec::most];
    map_run([](double c, double s, double step_c, double step_s)
                MEFT_INLINE { return multiply_add(c, step_c, -product(s, step_s)); },
            pairs_, next, c_, s_, step_c_, step_s_);
    map_run([](double c, double s, double step_c, double step_s)
                MEFT_INLINE { return multiply_add(s, step_c, product(c, step_s)); },
            pairs_, s_, c_, s_, step_c_, step_s_);
    std::copy(next, next + pairs_, c_);
  }

  Index pairs_, at_ = -2;
  double magnitude_;
  double angle_[RotarySpec::most] = {}, step_c_[RotarySpec::most] = {},
         step_s_[RotarySpec::most] = {};  // of position 1
  double c_[RotarySpec::most] = {}, s_[RotarySpec::most] = {};
};

/// One head.
template <class T>
MEFT_INLINE inline void turn(const RotarySpec& spec, Index width, const T* cosine, const T* sine, const T* x, T* y) {
  const Index pairs = spec.pairs();
  if (spec.interleaved)
    for (Index i = 0; i < pairs; ++i) {
      const T a = x[2 * i], b = x[2 * i + 1];
      y[2 * i] = multiply_add(a, cosine[i], -product(b, sine[i]));
      y[2 * i + 1] = multiply_add(b, cosine[i], product(a, sine[i]));
    }
  else {
    T first[RotarySpec::most];
    map_run([](T a, T b, T c, T s) MEFT_INLINE { return multiply_add(a, c, -product(b, s)); }, pairs, first, x,
            x + pairs, cosine, sine);
    map_run([](T a, T b, T c, T s) MEFT_INLINE { return multiply_add(b, c, product(a, s)); }, pairs, y + pairs, x,
            x + pairs, cosine, sine);
    std::copy(first, first + pairs, y);
  }
  if (x != y) std::copy(x + spec.rotated, x + width, y + spec.rotated);
}

}  // namespace cpu

template <Real T>
void rotate_pairs(Cpu, Index rows, Index heads, Index width, const RotarySpec& spec, bool back,
                  const std::int32_t* position, const T* x, T* y) {
  const Index grain = std::max<Index>(1, cpu::map_grain / std::max<Index>(1, heads * width));
  const cpu::Turns<T> before(spec, back);
  parallel_chunks(rows, grain, [&](Index begin, Index end) {
    auto turns = before;
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        turns.go_to(position[r]);
        for (Index h = 0; h < heads; ++h) {
          const Index at = (r * heads + h) * width;
          cpu::turn(spec, width, turns.cosine, turns.sine, x + at, y + at);
        }
      }
    });
  });
}

}  // namespace meft
