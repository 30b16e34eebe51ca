// Owns: folds over a row on the CPU, in an order that depends on its length alone.
#pragma once

#include <algorithm>

#include <meft/backend/cpu/map.hpp>
#include <meft/base/functor.hpp>

namespace meft::cpu {

/// The running results joined in a fixed tree, in loops of known widths, which are vectors.
template <class T, class Fold>
MEFT_INLINE inline T joined(T (&lane)[16], const Fold& join) {
  for (int j = 0; j < 8; ++j) lane[j] = join(lane[j], lane[j + 8]);
  for (int j = 0; j < 4; ++j) lane[j] = join(lane[j], lane[j + 4]);
  for (int j = 0; j < 2; ++j) lane[j] = join(lane[j], lane[j + 2]);
  return join(lane[0], lane[1]);
}

/// fold(f(0), f(1) …) over [0, n): 16 running results side by side, joined in a fixed tree.
template <class T, class Fold, class F>
MEFT_INLINE inline T fold(Index n, T initial, const Fold& join, const F& f) {
  T lane[16];
  for (T& x : lane) x = initial;
  Index i = 0;
  for (; i + 16 <= n; i += 16)
    MEFT_LANES (j, 16) lane[j] = join(lane[j], f(i + j));
  for (; i < n; ++i) lane[i % 16] = join(lane[i % 16], f(i));
  return joined(lane, join);
}

template <class T, class F>
MEFT_INLINE inline T sum_of(Index n, const F& f) {
  return fold(n, T(0), Add{}, f);
}

inline Index rows_grain(Index columns) { return std::max<Index>(1, map_grain / std::max<Index>(columns, 1)); }

}  // namespace meft::cpu
