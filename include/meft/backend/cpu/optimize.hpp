// Owns: the optimizer's passes over parameters on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <meft/backend/adamw_step.hpp>
#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/backend/kernels/optimize.hpp>

namespace meft {

namespace cpu {

template <class T>
void adamw(const AdamWSlot<T>& slot, const AdamWStep& step) {
  T *const g = slot.gradient, *const p = slot.value, *const m = slot.first, *const v = slot.second;
  const T b1 = static_cast<T>(step.beta1), b2 = static_cast<T>(step.beta2), scale = static_cast<T>(step.scale);
  const T rest1 = static_cast<T>(1 - step.beta1), rest2 = static_cast<T>(1 - step.beta2);  // in T they lose digits
  const T size = static_cast<T>(step.rate / step.correction1), root = static_cast<T>(1 / std::sqrt(step.correction2));
  const T keep = static_cast<T>(slot.decays ? 1 - step.rate * step.decay : 1), epsilon = static_cast<T>(step.epsilon);
  parallel_chunks(slot.n, map_grain, [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      const Index count = end - begin;
      T *pm = m + begin, *pv = v + begin, *pp = p + begin;
      T* const pg = g + begin;
      map_run([b1, rest1, scale](T old, T x) MEFT_INLINE { return multiply_add(b1, old, product(rest1, x * scale)); },
              count, pm, pm, pg);
      map_run(
          [b2, rest2, scale](T old, T x) MEFT_INLINE {
            const T scaled = x * scale;
            return multiply_add(b2, old, product(rest2 * scaled, scaled));
          },
          count, pv, pv, pg);
      map_run([keep, size, root, epsilon](T old, T a, T b)
                  MEFT_INLINE { return product(old, keep) - size * a / multiply_add(Sqrt{}(b), root, epsilon); },
              count, pp, pp, pm, pv);
      std::fill(pg, pg + count, T(0));
    });
  });
}

template <class T>
double sum_squares(Index n, const T* x) {
  constexpr Index block = 1 << 14;
  std::vector<double> parts(static_cast<std::size_t>((n + block - 1) / block));
  parallel_chunks(n, block, [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      parts[static_cast<std::size_t>(begin / block)] = sum_of<double>(end - begin, [x, begin](Index i) MEFT_INLINE {
        const double value = static_cast<double>(x[begin + i]);
        return value * value;
      });
    });
  });
  double total = 0;
  for (double part : parts) total += part;
  return total;
}

}  // namespace cpu

template <Real T>
void adamw(Cpu, Index slots, const AdamWSlot<T>* slot, const AdamWStep& step) {
  for (Index i = 0; i < slots; ++i) cpu::adamw(slot[i], step);
}

template <Real T>
double sum_squares(Cpu, Index slots, const AdamWSlot<T>* slot) {
  double total = 0;
  for (Index i = 0; i < slots; ++i) total += cpu::sum_squares(slot[i].n, slot[i].gradient);
  return total;
}

}  // namespace meft
