// Owns: the kernels of losses on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/cpu/exponential.hpp>
#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/loss.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/compose.hpp>
#include <meft/base/parallel.hpp>

namespace meft {

inline LabelCheck check_labels(Cpu, Index n, const std::int32_t* labels, Index classes, std::int32_t ignore) {
  LabelCheck found;
  for (Index i = 0; i < n; ++i) {
    if (labels[i] == ignore) continue;
    ++found.counted;
    if (found.outside < 0 && (labels[i] < 0 || labels[i] >= classes)) found.outside = i;
  }
  return found;
}

template <Real T>
void count_labels(Cpu, Index n, const std::int32_t* labels, std::int32_t ignore, T* counted) {
  *counted = static_cast<T>(n - std::count(labels, labels + n, ignore));
}

inline void counted_rows(Cpu, Index n, const std::int32_t* labels, std::int32_t ignore, Index most, std::int32_t* rows,
                         std::int32_t* chosen) {
  const std::int32_t* const end = rows + most;
  for (const bool counts : {true, false})
    for (Index i = 0; i < n && rows != end; ++i) {
      if ((labels[i] != ignore) != counts) continue;
      *rows++ = static_cast<std::int32_t>(i);
      *chosen++ = labels[i];
    }
}

template <Real T>
void cross_entropy(Cpu, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore, T* loss,
                   T* sums) {
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        const T* in = x + r * n;
        const T top = cpu::largest(n, in);
        const T total = cpu::exp_row(n, in, top, static_cast<T*>(nullptr));
        sums[r] = top, sums[rows + r] = total;
        loss[r] = labels[r] == ignore ? T(0) : top - in[labels[r]] + Log{}(total);
      }
    });
  });
}

template <Real T>
void cross_entropy_backward(Cpu, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore,
                            const T* sums, const T* dy, T* dx) {
  const T scale = *dy;
  parallel_chunks(rows, cpu::rows_grain(n), [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index r = begin; r < end; ++r) {
        T* out = dx + r * n;
        if (labels[r] == ignore) {
          for (Index i = 0; i < n; ++i) out[i] = 0;
          continue;
        }
        cpu::exp_row(n, x + r * n, sums[r], out, scale / sums[rows + r]);
        out[labels[r]] -= scale;
      }
    });
  });
}

template <Real T>
void scaled_difference(Cpu, Index n, const T* x, const T* target, const T* dy, T factor, T* dx) {
  map(
      Cpu{}, [s = factor * *dy](T a, T b) MEFT_INLINE { return (a - b) * s; }, n, dx, x, target);
}

}  // namespace meft
