// Owns: reductions on the CPU: sums and maxima over an axis, softmax and layer norm over rows. Every sum runs in an
// order that depends on the shape alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>

namespace meft {

namespace cpu {

/// fold(f(0), f(1) …) over [0, n): 16 running results side by side, joined in a fixed tree.
template <class T, class Fold, class F>
MEFT_INLINE inline T fold(Index n, T initial, const Fold& join, const F& f) {
  T lane[16];
  for (T& x : lane) x = initial;
  Index i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) lane[j] = join(lane[j], f(i + j));
  for (; i < n; ++i) lane[i % 16] = join(lane[i % 16], f(i));
  for (int width = 8; width; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] = join(lane[j], lane[j + width]);
  return lane[0];
}

struct Plus {
  template <class T>
  MEFT_INLINE T operator()(T a, T b) const {
    return a + b;
  }
};
/// A NaN wins.
struct Larger {
  template <class T>
  MEFT_INLINE T operator()(T a, T b) const {
    const T larger = a > b ? a : b;  // of the right where either is NaN
    return a != a ? a : larger;
  }
};

template <class T, class F>
MEFT_INLINE inline T sum_of(Index n, const F& f) {
  return fold(n, T(0), Plus{}, f);
}

inline Index rows_grain(Index columns) { return std::max<Index>(1, map_grain / std::max<Index>(columns, 1)); }

}  // namespace cpu

/// out[o, j] = Σ_i x[o, i, j]
template <Real T>
void sum(Cpu, Index outer, Index n, Index inner, const T* x, T* out) {
  if (inner == 1) {
    constexpr Index block = 4096;  // long rows: sums of blocks, then of those
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
    T* to = out + o * inner;
    std::fill(to + j0, to + j1, T(0));
    for (Index i = 0; i < n; ++i) cpu::map_here(Add{}, j1 - j0, to + j0, to + j0, x + (o * n + i) * inner + j0);
  });
}

/// out[o, i, j] = x[o, j] for i in [0, n): what a sum's gradient does.
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

/// out[o, j] = max_i x[o, i, j], at[o, j] the first i where it stands. n ≥ 1. A NaN wins.
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

/// Rows of [rows, n]: y = exp(x − max) / Σ, or its logarithm. `y` may be `x`.
template <Real T>
void softmax(Cpu, Index rows, Index n, const T* x, T* y, bool logarithm) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T* in = x + r * n;
        T* out = y + r * n;
        const T top = cpu::fold(n, -std::numeric_limits<T>::infinity(), cpu::Larger{},
                                [in](Index i) MEFT_INLINE { return in[i]; });
        if (logarithm) {
          const T total = cpu::sum_of<T>(n, [in, top](Index i) MEFT_INLINE { return Exp{}(in[i] - top); });
          cpu::map_run([shift = top + Log{}(total)](T v) MEFT_INLINE { return v - shift; }, n, out, in);
        } else {
          cpu::map_run([top](T v) MEFT_INLINE { return Exp{}(v - top); }, n, out, in);
          const T total = cpu::sum_of<T>(n, [out](Index i) MEFT_INLINE { return out[i]; });
          cpu::map_run([scale = T(1) / total](T v) MEFT_INLINE { return v * scale; }, n, out, out);
        }
      }
    });
  });
}

/// Softmax: dx = y ⊙ (dy − Σ y dy). Log-softmax: dx = dy − exp(y) Σ dy.
template <Real T>
void softmax_backward(Cpu, Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T *out = y + r * n, *d = dy + r * n;
        if (logarithm) {
          const T total = cpu::sum_of<T>(n, [d](Index i) MEFT_INLINE { return d[i]; });
          cpu::map_run([total](T v, T g) MEFT_INLINE { return g - Exp{}(v)*total; }, n, dx + r * n, out, d);
        } else {
          const T total = cpu::sum_of<T>(n, [out, d](Index i) MEFT_INLINE { return out[i] * d[i]; });
          cpu::map_run([total](T v, T g) MEFT_INLINE { return v * (g - total); }, n, dx + r * n, out, d);
        }
      }
    });
  });
}

/// Rows of [rows, n]: y = (x − mean) · rstd · gamma + beta, rstd = 1/√(variance + epsilon). Keeps mean and rstd.
/// A null `mean` here and in the two functions below stands for 0, also in the variance: RMS norm. `beta` may be null.
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

/// dx = rstd · (g − mean(g) − x̂ · mean(g x̂)), without mean(g) in RMS norm; g = dy · gamma, x̂ = (x − mean) · rstd. `dx`
/// may be `dy`.
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

/// dgamma[j] = Σ_r dy[r, j] · x̂[r, j], dbeta[j] = Σ_r dy[r, j]; either may be null.
template <Real T>
void layer_norm_weights(Cpu, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
                        T* dbeta) {
  constexpr Index width = 64;
  parallel_chunks(n, width, [&](Index begin, Index end) {
    if (dgamma) std::fill(dgamma + begin, dgamma + end, T(0));
    if (dbeta) std::fill(dbeta + begin, dbeta + end, T(0));
    vectorised([&]() MEFT_INLINE {
      for (Index r = 0; r < rows; ++r) {
        const T *in = x + r * n + begin, *d = dy + r * n + begin;
        const T m = mean ? mean[r] : T(0), s = rstd[r];
        if (dgamma)
          cpu::map_run([m, s](T sum, T xi, T di) MEFT_INLINE { return sum + di * ((xi - m) * s); }, end - begin,
                       dgamma + begin, dgamma + begin, in, d);
        if (dbeta) cpu::map_run(cpu::Plus{}, end - begin, dbeta + begin, dbeta + begin, d);
      }
    });
  });
}

}  // namespace meft
