// Owns: layer norm and RMS norm over rows on the CPU.
#pragma once

#include <algorithm>
#include <cmath>

#include <meft/backend/cpu/dropout.hpp>
#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/kernels/norm.hpp>

namespace meft {

template <Real T>
void layer_norm(Cpu, Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean,
                T* rstd) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T* in = x + r * n;
        const T m = mean ? cpu::sum_of<T>(n, [in](Index i) MEFT_INLINE { return in[i]; }) / T(n) : T(0);
        const T v = cpu::sum_of<T>(n, [in, m](Index i) MEFT_INLINE { return (in[i] - m) * (in[i] - m); }) / T(n);
        const T s = T(1) / std::sqrt(v + epsilon);
        if (mean) mean[r] = m;
        rstd[r] = s;
        if (beta)
          cpu::map_run([m, s](T xi, T g, T b) MEFT_INLINE { return (xi - m) * s * g + b; }, n, y + r * n, in, gamma,
                       beta);
        else cpu::map_run([m, s](T xi, T g) MEFT_INLINE { return (xi - m) * s * g; }, n, y + r * n, in, gamma);
      }
    });
  });
}

template <Real T>
void layer_norm_backward(Cpu, Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd,
                         const T* dy, T* dx) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T *in = x + r * n, *d = dy + r * n;
        const T m = mean ? mean[r] : T(0), s = rstd[r];
        const T g = mean ? cpu::sum_of<T>(n, [d, gamma](Index i) MEFT_INLINE { return d[i] * gamma[i]; }) / T(n) : T(0);
        const T gx = cpu::sum_of<T>(
                         n, [d, gamma, in, m, s](Index i) MEFT_INLINE { return d[i] * gamma[i] * ((in[i] - m) * s); }) /
                     T(n);
        cpu::map_run([m, s, g, gx](T xi, T di, T wi) MEFT_INLINE { return s * (di * wi - g - (xi - m) * s * gx); }, n,
                     dx + r * n, in, d, gamma);
      }
    });
  });
}

template <Real T>
void layer_norm_weights(Cpu, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
                        T* dbeta) {
  constexpr Index width = 64, block = 4096;  // of more rows: sums of blocks, then of those
  parallel_chunks(n, width, [&](Index begin, Index end) {
    const Index count = end - begin;
    T of_gamma[width], of_beta[width];
    for (Index b = 0; b == 0 || b < rows; b += block) {
      T* const gamma = !dgamma ? nullptr : b == 0 ? dgamma + begin : of_gamma;
      T* const beta = !dbeta ? nullptr : b == 0 ? dbeta + begin : of_beta;
      if (gamma) std::fill(gamma, gamma + count, T(0));
      if (beta) std::fill(beta, beta + count, T(0));
      vectorised([&]() MEFT_INLINE {
        for (Index r = b, last = std::min(rows, b + block); r < last; ++r) {
          const T *in = x + r * n + begin, *d = dy + r * n + begin;
          const T m = mean ? mean[r] : T(0), s = rstd[r];
          if (gamma)
            cpu::map_run([m, s](T sum, T xi, T di) MEFT_INLINE { return sum + di * ((xi - m) * s); }, count, gamma,
                         gamma, in, d);
          if (beta) cpu::map_run(Add{}, count, beta, beta, d);
        }
        if (b > 0 && gamma) cpu::map_run(Add{}, count, dgamma + begin, dgamma + begin, gamma);
        if (b > 0 && beta) cpu::map_run(Add{}, count, dbeta + begin, dbeta + begin, beta);
      });
    }
  });
}

template <Real T>
void residual_norm(Cpu, Index rows, Index n, const T* x, const T* t, const T* also, double p, Key key,
                   std::uint64_t first, const T* gamma, const T* beta, T epsilon, T* s, T* y, T* mean, T* rstd) {
  add_dropped(Cpu{}, rows * n, x, t, s, p, key, first, also);
  layer_norm(Cpu{}, rows, n, static_cast<const T*>(s), gamma, beta, epsilon, y, mean, rstd);
}

}  // namespace meft
