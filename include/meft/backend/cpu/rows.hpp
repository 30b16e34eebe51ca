// Owns: rows taken by number, and runs of rows averaged, on the CPU, each with its way back. Gradients that meet in one
// row are added in the order of the taken rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/base/compose.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

inline Index first_outside(Cpu, Index n, const std::int32_t* numbers, Index limit) {
  for (Index i = 0; i < n; ++i)
    if (numbers[i] < 0 || numbers[i] >= limit) return i;
  return -1;
}

template <Scalar T>
void gather_rows(Cpu, Index n, Index width, const T* x, const std::int32_t* rows, T* y) {
  const Index grain = std::max<Index>(1, cpu::map_grain / std::max<Index>(1, width));
  parallel_chunks(n, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) std::copy(x + rows[i] * width, x + (rows[i] + Index{1}) * width, y + i * width);
  });
}

template <Real T>
void scatter_rows(Cpu, Index n, Index width, const T* dy, const std::int32_t* rows, T* dx) {
  parallel_chunks(width, 128, [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index i = 0; i < n; ++i) {
        T* to = dx + rows[i] * width + begin;
        cpu::map_run(Add{}, end - begin, to, to, dy + i * width + begin);
      }
    });
  });
}

template <Real T>
void mean_rows(Cpu, Index runs, Index width, Index skip, const T* x, const std::int32_t* starts, T* y) {
  parallel_for(runs, [&](Index s) {
    T* to = y + s * width;
    const Index end = starts[s + 1], begin = averaged_from(starts[s], end, skip);
    const WithRight<Mul, T> by{{}, T(1) / static_cast<T>(end - begin)};
    vectorised([&]() MEFT_INLINE {
      for (Index j = 0; j < width; ++j) to[j] = x[begin * width + j];
      for (Index r = begin + 1; r < end; ++r) cpu::map_run(Add{}, width, to, to, x + r * width);
      cpu::map_run(by, width, to, to);
    });
  });
}

template <Real T>
void mean_rows_backward(Cpu, Index runs, Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx) {
  parallel_for(runs, [&](Index s) {
    const Index end = starts[s + 1], begin = averaged_from(starts[s], end, skip);
    const WithRight<Mul, T> by{{}, T(1) / static_cast<T>(end - begin)};
    std::fill(dx + starts[s] * width, dx + begin * width, T(0));
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) cpu::map_run(by, width, dx + r * width, dy + s * width);
    });
  });
}

}  // namespace meft
