// Owns: a residual's sums on the CPU, with dropout in the same pass.
#pragma once

#include <meft/backend/cpu/dropout.hpp>
#include <meft/backend/cpu/reduce.hpp>

namespace meft {

/// y[i] = x[i] + dropout(t)[i], where element i of t is number first + i of the key; 0 ≤ p < 1. `y` may be x or t.
template <Real T>
void add_dropped(Cpu, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first) {
  if (p == 0) return map(Cpu{}, Add{}, n, y, x, t);
  const Keep<T> keep(p);
  cpu::for_random_words(n, key, first, [&](Index i, Index count, const std::uint32_t* words) {
    vectorised([&]() MEFT_INLINE {
      cpu::map_run([keep](T a, T b, std::uint32_t w) MEFT_INLINE { return a + keep(b, w); }, count, y + i, x + i, t + i,
                   words);
    });
  });
}

/// s = x + dropout(t), y = its layer norm over rows of n elements.
template <Real T>
void residual_norm(Cpu, Index rows, Index n, const T* x, const T* t, double p, Key key, std::uint64_t first,
                   const T* gamma, const T* beta, T epsilon, T* s, T* y, T* mean, T* rstd) {
  add_dropped(Cpu{}, rows * n, x, t, s, p, key, first);
  layer_norm(Cpu{}, rows, n, static_cast<const T*>(s), gamma, beta, epsilon, y, mean, rstd);
}

}  // namespace meft
