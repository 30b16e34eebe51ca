// Owns: moving elements to another layout on the CPU: permuted axes, and blocks of equal rows.
#pragma once

#include <algorithm>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

template <Scalar T>
void permute(Cpu, const Shape& from, const AxisOrder& order, const T* x, T* y) {
  if (from.size() == 0) return;
  const PermutedAxes axes(from, order);  // read and written in tiles over `unit` and the last one
  const int last = axes.last(), unit = axes.unit;
  constexpr Index tile = 64;
  const Index width = axes.extent[last], height = unit == last ? 1 : axes.extent[unit];
  const Index tiles = (height + tile - 1) / tile;
  const Index grain = std::max<Index>(1, (1 << 14) / std::max<Index>(1, width * std::min(height, tile)));
  parallel_chunks(axes.others * tiles, grain, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      Index left = task / tiles, at_x = 0, at_y = 0, size = width;
      for (int i = last - 1; i >= 0; --i) {
        if (i != unit) {
          at_x += left % axes.extent[i] * axes.step[i];
          at_y += left % axes.extent[i] * size;
          left /= axes.extent[i];
        }
        size *= axes.extent[i];
      }
      const T* in = x + at_x;
      T* out = y + at_y;
      if (unit == last) {
        std::copy(in, in + width, out);
        continue;
      }
      const Index r0 = task % tiles * tile, r1 = std::min(height, r0 + tile);
      T block[tile][tile + 1];  // rows that a power of two lies between would put each other out of a cache
      for (Index c0 = 0; c0 < width; c0 += tile) {
        const Index columns = std::min(width - c0, tile);
        for (Index c = 0; c < columns; ++c)
          for (Index r = r0; r < r1; ++r) block[c][r - r0] = in[r + (c0 + c) * axes.step[last]];
        for (Index r = r0; r < r1; ++r)
          for (Index c = 0; c < columns; ++c) out[r * axes.unit_step + c0 + c] = block[c][r - r0];
      }
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
