// Owns: filling arrays with random numbers on the CPU, and adding them.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/cpu/philox.hpp>
#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/random.hpp>
#include <meft/base/normal.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

template <Real T>
void fill_normal(Cpu, Index n, T* out, Key key, double deviation) {
  parallel_chunks(n, 4096, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) out[i] = static_cast<T>(deviation * normal(key, static_cast<std::uint64_t>(i)));
  });
}

namespace cpu {

/// y[i] = keep·x[i] + scale·z of element first + i, for i in [0, n), on this thread. `y` may be x.
template <class T>
MEFT_INLINE inline void noise_run(Key key, std::uint64_t first, Index n, T keep, T scale, const T* x, T* y) {
  constexpr int half = 16, group = 2 * half;
  for (Index i = -static_cast<Index>(first % group); i < n; i += group) {
    std::uint32_t words[group];
    philox_words(key, (first + static_cast<std::uint64_t>(i)) / 4, group / 4, words);
    float radius[half], cosine[half], sine[half], z[group];
    std::uint32_t quarter[half];
    for (int j = 0; j < half; ++j) radius[j] = meft::detail::normal_radius(words[j]);
    for (int j = 0; j < half; ++j) {
      const meft::detail::Turn turn(words[half + j]);
      quarter[j] = turn.quarter;
      cosine[j] = meft::detail::small_cosine(turn.t);
      sine[j] = meft::detail::small_sine(turn.t);
    }
    for (int j = 0; j < half; ++j) z[j] = radius[j] * meft::detail::turned(quarter[j], cosine[j], sine[j], false);
    for (int j = 0; j < half; ++j) z[half + j] = radius[j] * meft::detail::turned(quarter[j], cosine[j], sine[j], true);
    const auto move = [&](const T* in, T* out) MEFT_INLINE {
      for (int j = 0; j < group; ++j) out[j] = multiply_add(scale, static_cast<T>(z[j]), product(keep, in[j]));
    };
    const Index from = std::max<Index>(0, -i), to = std::min<Index>(group, n - i);
    T in[group] = {}, out[group];
    if (from == 0 && to == group) {
      move(x + i, out);
      for (int j = 0; j < group; ++j) y[i + j] = out[j];
    } else {
      std::copy(x + i + from, x + i + to, in + from);
      move(in, out);
      std::copy(out + from, out + to, y + i + from);
    }
  }
}

}  // namespace cpu

template <Real T>
void add_noise(Cpu, Index rows, Index width, const std::int32_t* numbers, Index first, Key key, double keep,
               double scale, const T* x, T* y) {
  const auto run = [&](Index element, Index n, const T* from, T* to) {
    vectorised([&]() MEFT_INLINE {
      cpu::noise_run(key, static_cast<std::uint64_t>(element), n, static_cast<T>(keep), static_cast<T>(scale), from,
                     to);
    });
  };
  if (numbers) {
    parallel_chunks(rows, 1 + 8192 / std::max<Index>(1, width), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) run(numbers[i] * width, width, x + i * width, y + i * width);
    });
    return;
  }
  parallel_chunks(rows * width, 8192,
                  [&](Index begin, Index end) { run(first * width + begin, end - begin, x + begin, y + begin); });
}

}  // namespace meft
