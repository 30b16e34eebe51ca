// Owns: what follows a product, done to a block of its result while that is in a cache. Elements have the bits that a
// pass over the whole would give.
#pragma once

#include <algorithm>
#include <cstring>

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft::cpu {

/// A block of C [rows, columns], rows `ldc` elements apart, becomes what `e` says, whose arrays have rows of `step`
/// elements; the block begins at their element `at`.
template <class F, int N>
void end_block(const Ended<F, float, N>& e, Index rows, Index columns, const float* c, Index ldc, Index at,
               Index step) {
  constexpr Index most = 1024;  // elements at a time, without gaps between their rows
  const Index each = std::max<Index>(1, most / columns);
  const auto bytes = static_cast<std::size_t>(columns) * sizeof(float);
  vectorised<map_isa<F>>([&]() MEFT_INLINE {
    alignas(64) float from[N + 1][most], result[most];
    for (Index i = 0; i < rows; i += each) {
      const Index count = std::min(each, rows - i), n = count * columns;
      for (Index r = 0; r < count; ++r) {
        std::memcpy(from[0] + r * columns, c + (i + r) * ldc, bytes);
        for (int k = 0; k < N; ++k) std::memcpy(from[k + 1] + r * columns, e.in[k] + at + (i + r) * step, bytes);
      }
      const auto in = [&](int k) MEFT_INLINE { return static_cast<const float*>(from[k]); };
      if constexpr (N == 0) map_run(e.f, n, result, in(0));
      else if constexpr (N == 1) map_run(e.f, n, result, in(0), in(1));
      else map_run(e.f, n, result, in(0), in(1), in(2));
      for (Index r = 0; r < count; ++r) {
        const Index to = at + (i + r) * step;
        if (e.full) std::memcpy(e.full + to, result + r * columns, bytes);
        if (e.rounded) map_run(Narrow{}, columns, e.rounded + to, static_cast<const float*>(result) + r * columns);
      }
    }
  });
}

}  // namespace meft::cpu
