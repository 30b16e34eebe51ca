// Owns: rows taken by number, and runs of rows averaged, on the CPU, each with its way back. Gradients that meet in one
// row are added in the order of the taken rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

namespace cpu {

struct AddTo {
  template <class T>
  MEFT_INLINE T operator()(T a, T b) const {
    return a + b;
  }
};
template <class T>
struct Times {
  T factor;
  MEFT_INLINE T operator()(T a) const { return a * factor; }
};

}  // namespace cpu

/// The first position whose number is outside [0, limit), or -1.
inline Index first_outside(Cpu, Index n, const std::int32_t* numbers, Index limit) {
  for (Index i = 0; i < n; ++i)
    if (numbers[i] < 0 || numbers[i] >= limit) return i;
  return -1;
}

/// y[i, :] = x[rows[i], :] for i in [0, n).
template <Scalar T>
void gather_rows(Cpu, Index n, Index width, const T* x, const std::int32_t* rows, T* y) {
  const Index grain = std::max<Index>(1, cpu::map_grain / std::max<Index>(1, width));
  parallel_chunks(n, grain, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) std::copy(x + rows[i] * width, x + (rows[i] + Index{1}) * width, y + i * width);
  });
}

/// dx[rows[i], :] += dy[i, :] for i in [0, n), ascending. Columns are divided among threads.
template <Real T>
void scatter_rows(Cpu, Index n, Index width, const T* dy, const std::int32_t* rows, T* dx) {
  parallel_chunks(width, 128, [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index i = 0; i < n; ++i) {
        T* to = dx + rows[i] * width + begin;
        cpu::map_run(cpu::AddTo{}, end - begin, to, to, dy + i * width + begin);
      }
    });
  });
}

/// y[s, :] = mean of x[starts[s] + skip … starts[s + 1], :], added in ascending order. No run is empty.
template <Real T>
void mean_rows(Cpu, Index runs, Index width, Index skip, const T* x, const std::int32_t* starts, T* y) {
  parallel_for(runs, [&](Index s) {
    T* to = y + s * width;
    const Index begin = starts[s] + skip, end = starts[s + 1];
    vectorised([&]() MEFT_INLINE {
      for (Index j = 0; j < width; ++j) to[j] = x[begin * width + j];
      for (Index r = begin + 1; r < end; ++r) cpu::map_run(cpu::AddTo{}, width, to, to, x + r * width);
      cpu::map_run(cpu::Times<T>{T(1) / static_cast<T>(end - begin)}, width, to, to);
    });
  });
}

/// dx[r, :] = dy[s, :] / (rows averaged) for the rows r of run s, 0 for those skipped.
template <Real T>
void mean_rows_backward(Cpu, Index runs, Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx) {
  parallel_for(runs, [&](Index s) {
    const Index begin = starts[s] + skip, end = starts[s + 1];
    std::fill(dx + starts[s] * width, dx + begin * width, T(0));
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r)
        cpu::map_run(cpu::Times<T>{T(1) / static_cast<T>(end - begin)}, width, dx + r * width, dy + s * width);
    });
  });
}

/// dx[o, at[o, j], j] = dy[o, j], 0 elsewhere: the way back of a maximum over the middle axis of [outer, n, inner].
template <Real T>
void max_backward(Cpu, Index outer, Index n, Index inner, const T* dy, const std::int32_t* at, T* dx) {
  const Index grain = std::max<Index>(1, cpu::map_grain / std::max<Index>(1, n * inner));
  parallel_chunks(outer, grain, [&](Index begin, Index end) {
    std::fill(dx + begin * n * inner, dx + end * n * inner, T(0));
    for (Index o = begin; o < end; ++o)
      for (Index j = 0; j < inner; ++j) dx[(o * n + at[o * inner + j]) * inner + j] = dy[o * inner + j];
  });
}

}  // namespace meft
