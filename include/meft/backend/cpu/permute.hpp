// Owns: moving elements to another layout on the CPU: permuted axes, and blocks of equal rows.
#pragma once

#include <algorithm>
#include <array>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

template <Scalar T>
void permute(Cpu, const Shape& from, const AxisOrder& order, const T* x, T* y) {
  if (from.size() == 0) return;
  // Axes of y with their strides in x: extents of 1 dropped, axes that stay neighbours merged.
  std::array<Index, Shape::max_rank> extent{}, step{};
  std::size_t rank = 0;
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
  if (rank == 0) extent[rank] = step[rank] = 1, rank = 1;

  const std::size_t last = rank - 1;
  std::size_t unit = last;  // the axis along which x is contiguous: read and write in tiles over it and the last one
  while (step[unit] != 1) --unit;
  constexpr Index tile = 32;
  const Index width = extent[last], height = unit == last ? 1 : extent[unit];
  const Index tiles = (height + tile - 1) / tile;
  Index others = 1, unit_step = 1;  // unit_step: of the unit axis in y
  for (std::size_t i = 0; i < last; ++i)
    if (i != unit) others *= extent[i];
  for (std::size_t i = unit + 1; i <= last; ++i) unit_step *= extent[i];

  const Index grain = std::max<Index>(1, (1 << 14) / std::max<Index>(1, width * std::min(height, tile)));
  parallel_chunks(others * tiles, grain, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      Index left = task / tiles, at_x = 0, at_y = 0, size = width;
      for (std::size_t i = last; i-- > 0;) {
        if (i != unit) {
          at_x += left % extent[i] * step[i];
          at_y += left % extent[i] * size;
          left /= extent[i];
        }
        size *= extent[i];
      }
      const T* in = x + at_x;
      T* out = y + at_y;
      if (unit == last) {
        std::copy(in, in + width, out);
        continue;
      }
      const Index r0 = task % tiles * tile, r1 = std::min(height, r0 + tile);
      for (Index c0 = 0; c0 < width; c0 += tile)
        for (Index r = r0; r < r1; ++r)
          for (Index c = c0; c < std::min(width, c0 + tile); ++c) out[r * unit_step + c] = in[r + c * step[last]];
    }
  });
}

template <Scalar T>
void copy_rows(Cpu, Index rows, Index width, const T* from, Index from_step, T* to, Index to_step) {
  const Index grain = std::max<Index>(1, (1 << 14) / std::max<Index>(1, width));
  parallel_chunks(rows, grain, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) std::copy(from + r * from_step, from + r * from_step + width, to + r * to_step);
  });
}

}  // namespace meft
