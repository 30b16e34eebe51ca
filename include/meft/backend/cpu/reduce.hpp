// Owns: sums and maxima over an axis on the CPU.
#pragma once

#include <algorithm>

#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/kernels/reduce.hpp>

namespace meft {

template <Real T>
void sum(Cpu, Index outer, Index n, Index inner, const T* x, T* out) {
  constexpr Index block = 4096;  // of more: sums of blocks, then of those
  if (inner == 1) {
    return parallel_chunks(outer, cpu::rows_grain(n), [&](Index begin, Index end) {
      vectorised([&]() MEFT_INLINE {
        for (Index o = begin; o < end; ++o) {
          T total = 0;
          for (Index b = 0; b < n; b += block) {
            const T* row = x + o * n + b;
            total += cpu::sum_of<T>(std::min(block, n - b), [row](Index i) MEFT_INLINE { return row[i]; });
          }
          out[o] = total;
        }
      });
    });
  }
  constexpr Index width = 256;
  const Index parts = (inner + width - 1) / width;
  parallel_for(outer * parts, [&](Index task) {
    const Index o = task / parts, j0 = task % parts * width, j1 = std::min(inner, j0 + width);
    T *to = out + o * inner + j0, part[width];
    std::fill(to, to + (j1 - j0), T(0));
    for (Index b = 0; b < n; b += block) {
      T* sum = b == 0 ? to : part;
      if (b > 0) std::fill(part, part + width, T(0));
      for (Index i = b, end = std::min(n, b + block); i < end; ++i)
        cpu::map_here(Add{}, j1 - j0, sum, sum, x + (o * n + i) * inner + j0);
      if (b > 0) cpu::map_here(Add{}, j1 - j0, to, to, part);
    }
  });
}

template <Real T>
void repeat(Cpu, Index outer, Index n, Index inner, const T* x, T* out) {
  parallel_chunks(outer, cpu::rows_grain(n * inner), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o) {
      T* to = out + o * n * inner;
      if (inner == 1) std::fill(to, to + n, x[o]);
      else
        for (Index i = 0; i < n; ++i)
          Cpu::copy(to + i * inner, x + o * inner, static_cast<std::size_t>(inner) * sizeof(T));
    }
  });
}

template <Real T>
void max(Cpu, Index outer, Index n, Index inner, const T* x, T* out, std::int32_t* at) {
  parallel_chunks(outer, cpu::rows_grain(n * inner), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o)
      for (Index j = 0; j < inner; ++j) {
        Index best = 0;
        for (Index i = 1; i < n; ++i) {
          const T v = x[(o * n + i) * inner + j], b = x[(o * n + best) * inner + j];
          if (v > b || (v != v && b == b)) best = i;
        }
        out[o * inner + j] = x[(o * n + best) * inner + j];
        at[o * inner + j] = static_cast<std::int32_t>(best);
      }
  });
}

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
