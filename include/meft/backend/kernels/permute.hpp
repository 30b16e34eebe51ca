// Owns: the interface of kernels that move elements to another layout.
#pragma once

#include <cstddef>

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// Axes of y with their steps in x: extents of 1 dropped, axes that stay neighbours merged. Along the last one y is
/// contiguous, along `unit` x.
struct PermutedAxes {
  int rank = 0, unit = 0;
  Index extent[Shape::max_rank], step[Shape::max_rank];
  Index others = 1;     // places of the axes but these two
  Index unit_step = 1;  // of `unit` in y

  PermutedAxes(const Shape& from, const AxisOrder& order) {
    for (int i = 0; i < from.rank(); ++i) {
      const int source = order[static_cast<std::size_t>(i)];
      const Index n = from[source], s = from.inner(source);
      if (n == 1) continue;
      if (rank && step[rank - 1] == n * s) {
        extent[rank - 1] *= n;
        step[rank - 1] = s;
      } else {
        extent[rank] = n;
        step[rank++] = s;
      }
    }
    if (rank == 0) extent[0] = step[0] = 1, rank = 1;
    unit = last();
    while (step[unit] != 1) --unit;
    for (int i = 0; i < last(); ++i)
      if (i != unit) others *= extent[i];
    for (int i = unit + 1; i <= last(); ++i) unit_step *= extent[i];
  }
  int last() const { return rank - 1; }
};

/// y[i₀, i₁ …] = x with its axes in `order`; `from` is x's shape.
template <Backend B, Scalar T>
void permute(B, const Shape& from, const AxisOrder& order, const T* x, T* y);

/// `rows` runs of `width` elements, from every `from_step`-th place to every `to_step`-th.
template <Backend B, Scalar T>
void copy_rows(B, Index rows, Index width, const T* from, Index from_step, T* to, Index to_step);

}  // namespace meft
