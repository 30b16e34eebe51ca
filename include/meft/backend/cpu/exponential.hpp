// Owns: exponentials of many elements on the CPU, with the bits of Exp{}. In two loops over a few elements each: one
// loop over the whole formula waits for its own results, since a processor has room for a few of its turns alone.
#pragma once

#include <cstdint>
#include <type_traits>

#include <meft/backend/cpu/fold.hpp>
#include <meft/base/compose.hpp>

namespace meft::cpu {

/// out[j] = e^x(j) for j < width and any x(j) up to 89. x(j) may read out[j].
template <int width, class T, class X>
MEFT_INLINE inline void exp_stride(T* out, const X& x) {
  if constexpr (sizeof(T) == 4) {
    std::int32_t power[width];
    T tail[width];
    MEFT_LANES (j, width) {
      const auto p = fast::detail::reduce_below(x(j), -0.0f);
      power[j] = p.k;
      tail[j] = p.tail;
    }
    MEFT_LANES (j, width) out[j] = fast::detail::value({power[j], tail[j]});
  } else {
    MEFT_LANES (j, width) out[j] = Exp{}(x(j));
  }
}

/// f(width, i, e): e[j] = e^(x[i + j] − shift) for j < width, in strides of 64 and 16 of [0, n); of the last one the
/// elements beyond n repeat the first.
template <class T, class F>
MEFT_INLINE inline void for_exponentials(Index n, const T* x, T shift, const F& f) {
  Index i = 0;
  const auto stride = [&](auto width, const T* from) MEFT_INLINE {
    T e[width];
    exp_stride<width>(e, [from, shift](int j) MEFT_INLINE { return from[j] - shift; });
    f(width, i, e);
  };
  for (; i + 64 <= n; i += 64) stride(std::integral_constant<int, 64>{}, x + i);
  for (; i + 16 <= n; i += 16) stride(std::integral_constant<int, 16>{}, x + i);
  if (i == n) return;
  T last[16];
  for (Index j = 0; j < 16; ++j) last[j] = x[i + (i + j < n ? j : 0)];
  stride(std::integral_constant<int, 16>{}, last);
}

/// out[i] = then(e^(x[i] − shift)) for i < n. `out` may be x.
template <class T, class Then = Identity>
MEFT_INLINE inline void exp_run(Index n, T* out, const T* x, T shift, const Then& then = {}) {
  for_exponentials(n, x, shift, [&](auto width, Index i, const T* e) MEFT_INLINE {
    if (i + width <= n)
      MEFT_LANES (j, width.value) out[i + j] = then(e[j]);
    else
      for (Index j = 0; i + j < n; ++j) out[i + j] = then(e[j]);
  });
}

/// Σ e^(x[i] − shift), in the order of sum_of.
template <class T>
MEFT_INLINE inline T sum_exp(Index n, const T* x, T shift) {
  T lane[16] = {};
  for_exponentials(n, x, shift, [&](auto width, Index i, const T* e) MEFT_INLINE {
    if (i + width <= n)
      for (int at = 0; at < width; at += 16)
        MEFT_LANES (j, 16) lane[j] += e[at + j];
    else
      for (Index j = 0; i + j < n; ++j) lane[j] += e[j];
  });
  return joined(lane, Add{});
}

}  // namespace meft::cpu
