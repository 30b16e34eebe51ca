// Owns: elements moved to another layout: include/meft/backend/kernels/permute.hpp. A transposition goes through tiles
// in shared memory, so that both sides are read and written along rows.
#include <algorithm>
#include <cstdint>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

/// Rows along which x and y are both contiguous: `width` elements each.
template <class T>
__global__ void permute_rows(const __grid_constant__ PermutedAxes axes, Index n, const T* x, T* y) {
  for (Index i = first(); i < n; i += stride()) {
    Index left = i, at = 0;
    for (int k = axes.rank - 1; k >= 0; --k) {
      at += left % axes.extent[k] * axes.step[k];
      left /= axes.extent[k];
    }
    y[i] = x[at];
  }
}

constexpr int tile = 32, tile_rows = 8;

/// A block moves one tile over the axes along which x and y are contiguous.
template <class T>
__global__ void permute_tiles(const __grid_constant__ PermutedAxes axes, Index down, Index across, const T* x, T* y) {
  __shared__ T cells[tile][tile + 1];  // a column more, so that a column's cells lie in 32 banks
  const int last = axes.rank - 1, unit = axes.unit;
  Index left = blockIdx.x, at_x = 0, at_y = 0, size = axes.extent[last];
  const Index c0 = left % across * tile;
  left /= across;
  const Index r0 = left % down * tile;
  left /= down;
  for (int i = last - 1; i >= 0; --i) {
    if (i != unit) {
      at_x += left % axes.extent[i] * axes.step[i];
      at_y += left % axes.extent[i] * size;
      left /= axes.extent[i];
    }
    size *= axes.extent[i];
  }
  const Index height = axes.extent[unit], width = axes.extent[last];
  for (int j = static_cast<int>(threadIdx.y); j < tile; j += tile_rows) {
    const Index r = r0 + threadIdx.x, c = c0 + j;
    if (r < height && c < width) cells[j][threadIdx.x] = x[at_x + r + c * axes.step[last]];
  }
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.y); j < tile; j += tile_rows) {
    const Index r = r0 + j, c = c0 + threadIdx.x;
    if (r < height && c < width) y[at_y + r * axes.unit_step + c] = cells[threadIdx.x][j];
  }
}

template <class P>
__global__ void copy(Index n, Index width, const P* from, Index from_step, P* to, Index to_step) {
  for (Index i = first(); i < n; i += stride()) {
    const Index r = i / width, c = i % width;
    to[r * to_step + c] = from[r * from_step + c];
  }
}

template <class P>
void copy_as(Index rows, Index width, const P* from, Index from_step, P* to, Index to_step) {
  launch(copy<P>, blocks(rows * width), threads, 0, stream(), rows * width, width, from, from_step, to, to_step);
}

}  // namespace

}  // namespace cuda

template <Backend B, Scalar T>
void permute(B, const Shape& from, const AxisOrder& order, const T* x, T* y) {
  const Index n = from.size();
  if (n == 0) return;
  const PermutedAxes axes(from, order);
  const int last = axes.last(), unit = axes.unit;
  if (unit == last)
    return cuda::launch(cuda::permute_rows<T>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), axes, n, x, y);
  const Index down = (axes.extent[unit] + cuda::tile - 1) / cuda::tile,
              across = (axes.extent[last] + cuda::tile - 1) / cuda::tile, tiles = axes.others * down * across;
  require(tiles <= INT32_MAX, "permute: more than 2^31 - 1 tiles", from);
  cuda::launch(cuda::permute_tiles<T>, static_cast<unsigned>(tiles), dim3(cuda::tile, cuda::tile_rows), 0,
               cuda::stream(), axes, down, across, x, y);
}

template <Backend B, Scalar T>
void copy_rows(B, Index rows, Index width, const T* from, Index from_step, T* to, Index to_step) {
  if (rows == 0 || width == 0) return;
  using P = cuda::Pack<T>;
  constexpr Index pack = P::width;
  if (width % pack == 0 && from_step % pack == 0 && to_step % pack == 0 && cuda::aligned(from, to))
    cuda::copy_as(rows, width / pack, reinterpret_cast<const P*>(from), from_step / pack, reinterpret_cast<P*>(to),
                  to_step / pack);
  else cuda::copy_as(rows, width, from, from_step, to, to_step);
}

#define EVERY(T)                                                             \
  template void permute(Cuda, const Shape&, const AxisOrder&, const T*, T*); \
  template void copy_rows(Cuda, Index, Index, const T*, Index, T*, Index);
EVERY(float)
EVERY(double)
EVERY(std::int32_t)
#undef EVERY

}  // namespace meft
