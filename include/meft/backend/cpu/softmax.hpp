// Owns: softmax over rows on the CPU.
#pragma once

#include <meft/backend/cpu/exponential.hpp>
#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/kernels/softmax.hpp>

namespace meft {

template <Real T>
void softmax(Cpu, Index rows, Index n, const T* x, T* y, bool logarithm) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T* in = x + r * n;
        T* out = y + r * n;
        const T top = cpu::largest(n, in);
        if (logarithm) {
          const T total = cpu::exp_row(n, in, top, static_cast<T*>(nullptr));
          cpu::map_run([top, spread = Log{}(total)](T v) MEFT_INLINE { return v - top - spread; }, n, out, in);
        } else {
          const T total = cpu::exp_row(n, in, top, out);
          cpu::map_run([scale = T(1) / total](T v) MEFT_INLINE { return v * scale; }, n, out, out);
        }
      }
    });
  });
}

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

}  // namespace meft
