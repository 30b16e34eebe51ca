// Owns: attention by positive products of rows: include/meft/backend/kernels/relu_attention.hpp. A block takes a tile
// of a sequence's rows through tiles of the others; what it sums lies in its own rows of the result.
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/relu_attention.hpp>
#include <meft/base/functor.hpp>
#include <meft/memory/buffer.hpp>
#include <row.cuh>
#include <vector>

namespace meft {

namespace cuda {

namespace {

constexpr int own = 16, others = 32, step = 32;  // rows of a tile of the block, and of those it meets; columns at once
constexpr int block = 128, shares = own * others / block;  // products of a thread

/// The block's rows [first, first + own) of the sequence [begin, end).
struct RowTile {
  Index begin, end, first;
};

/// dot[i] = the product of rows x0 + r and z0 + (k of i); r, k as `place` has them. Rows from the ends on are zeros.
/// All threads of the block call it.
template <class T>
__device__ void products(Index width, const T* x, Index x0, Index x_end, const T* z, Index z0, Index z_end,
                         T (&dot)[shares]) {
  __shared__ T left[own][step + 1], right[others][step + 1];
  const int r = static_cast<int>(threadIdx.x) / (others / shares),
            k = static_cast<int>(threadIdx.x) % (others / shares);
  for (T& d : dot) d = 0;
  const auto load = [&](int row, int column, const T* from, Index r0, Index end, Index c0) {
    return r0 + row < end && c0 + column < width ? from[(r0 + row) * width + c0 + column] : T(0);
  };
  for (Index c0 = 0; c0 < width; c0 += step) {
    for (int i = static_cast<int>(threadIdx.x); i < own * step; i += block)
      left[i / step][i % step] = load(i / step, i % step, x, x0, x_end, c0);
    for (int i = static_cast<int>(threadIdx.x); i < others * step; i += block)
      right[i / step][i % step] = load(i / step, i % step, z, z0, z_end, c0);
    __syncthreads();
    for (int c = 0; c < step; ++c)
      for (int i = 0; i < shares; ++i) dot[i] += left[r][c] * right[k + i * (others / shares)][c];
    __syncthreads();
  }
}

/// to[r][c] += Σ_k weight[r][k]·rows[k][c] over `count` rows, for the block's `valid` rows of `to`.
template <class T>
__device__ void add_weighted(Index width, const T (&weight)[own][others + 1], const T* rows, Index count, T* to,
                             Index valid) {
  for (Index c = threadIdx.x; c < width; c += block) {
    T sum[own];
    for (int r = 0; r < own; ++r) sum[r] = r < valid ? to[r * width + c] : T(0);
    for (int k = 0; k < count; ++k) {
      const T x = rows[k * width + c];
      for (int r = 0; r < own; ++r) sum[r] += weight[r][k] * x;
    }
    for (int r = 0; r < valid; ++r) to[r * width + c] = sum[r];
  }
}

__device__ inline Index least(Index a, Index b) { return a < b ? a : b; }

template <class T>
__global__ void relu_attend(Index width, bool causal, const RowTile* tiles, const T* a, const T* t, T* y, T* sums) {
  __shared__ T weight[own][others + 1], total[own];
  const RowTile tile = tiles[blockIdx.x];
  const Index valid = least(own, tile.end - tile.first);
  const int r = static_cast<int>(threadIdx.x) / (others / shares),
            k = static_cast<int>(threadIdx.x) % (others / shares);
  T* out = y + tile.first * width;
  for (Index i = threadIdx.x; i < valid * width; i += block) out[i] = 0;
  if (threadIdx.x < own) total[threadIdx.x] = 0;
  const Index end = causal ? tile.first + valid : tile.end;
  for (Index k0 = tile.begin; k0 < end; k0 += others) {
    T dot[shares];
    products(width, a, tile.first, tile.end, t, k0, end, dot);
    for (int i = 0; i < shares; ++i) {
      const int key = k + i * (others / shares);
      const bool seen = k0 + key < end && (!causal || k0 + key <= tile.first + r);
      weight[r][key] = seen ? Relu{}(dot[i]) : T(0);
    }
    __syncthreads();
    if (threadIdx.x < own)
      for (int j = 0; j < others; ++j) total[threadIdx.x] += weight[threadIdx.x][j];
    add_weighted(width, weight, t + k0 * width, least(others, end - k0), out, valid);
    __syncthreads();
  }
  for (Index row = 0; row < valid; ++row) {
    const T scale = total[row] > 0 ? T(1) / total[row] : T(0);
    for (Index c = threadIdx.x; c < width; c += block)
      out[row * width + c] = out[row * width + c] * scale + t[(tile.first + row) * width + c];
  }
  if (static_cast<Index>(threadIdx.x) < valid) sums[tile.first + threadIdx.x] = total[threadIdx.x];
}

/// less[r] = Σ dy_r ⊙ (y_r − t_r). A block takes a row.
template <class T>
__global__ void relu_means(Index rows, Index width, const T* t, const T* y, const T* dy, T* less) {
  for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *o = y + row * width, *x = t + row * width, *d = dy + row * width;
    const T sum = sum_over_row<T>(width, [&](Index c) { return d[c] * (o[c] - x[c]); });
    if (threadIdx.x == 0) less[row] = sum;
  }
}

/// What a query's row and a key's product give: its weight, and the product's gradient.
template <class T>
struct Slope {
  T weight, slope;
};
template <class T>
__device__ Slope<T> slope_of(bool seen, T dot, T up, T sum, T less) {
  const T scale = sum > 0 ? T(1) / sum : T(0);
  if (!seen || !(dot > 0)) return {0, 0};
  return {dot * scale, (up - less) * scale};
}

template <class T>
__global__ void relu_attend_queries(Index width, bool causal, const RowTile* tiles, const T* a, const T* t,
                                    const T* sums, const T* less, const T* dy, T* da) {
  __shared__ T slope[own][others + 1];
  const RowTile tile = tiles[blockIdx.x];
  const Index valid = least(own, tile.end - tile.first);
  const int r = static_cast<int>(threadIdx.x) / (others / shares),
            k = static_cast<int>(threadIdx.x) % (others / shares);
  T* out = da + tile.first * width;
  for (Index i = threadIdx.x; i < valid * width; i += block) out[i] = 0;
  const Index end = causal ? tile.first + valid : tile.end, row = tile.first + least(r, valid - 1);
  for (Index k0 = tile.begin; k0 < end; k0 += others) {
    T dot[shares], up[shares];
    products(width, a, tile.first, tile.end, t, k0, end, dot);
    products(width, dy, tile.first, tile.end, t, k0, end, up);
    for (int i = 0; i < shares; ++i) {
      const int key = k + i * (others / shares);
      const bool seen = k0 + key < end && (!causal || k0 + key <= tile.first + r);
      slope[r][key] = slope_of(seen, dot[i], up[i], sums[row], less[row]).slope;
    }
    __syncthreads();
    add_weighted(width, slope, t + k0 * width, least(others, end - k0), out, valid);
    __syncthreads();
  }
}

template <class T>
__global__ void relu_attend_keys(Index width, bool causal, const RowTile* tiles, const T* a, const T* t, const T* sums,
                                 const T* less, const T* dy, T* dt) {
  __shared__ T weight[own][others + 1], slope[own][others + 1];
  const RowTile tile = tiles[blockIdx.x];
  const Index valid = least(own, tile.end - tile.first);
  const int r = static_cast<int>(threadIdx.x) / (others / shares),
            k = static_cast<int>(threadIdx.x) % (others / shares);
  T* out = dt + tile.first * width;
  for (Index i = threadIdx.x; i < valid * width; i += block) out[i] = dy[tile.first * width + i];
  for (Index q0 = causal ? tile.first : tile.begin; q0 < tile.end; q0 += others) {
    T dot[shares], up[shares];
    products(width, t, tile.first, tile.end, a, q0, tile.end, dot);
    products(width, t, tile.first, tile.end, dy, q0, tile.end, up);
    for (int i = 0; i < shares; ++i) {
      const int query = k + i * (others / shares);
      const Index row = least(q0 + query, tile.end - 1);
      const bool seen = q0 + query < tile.end && r < valid && (!causal || tile.first + r <= q0 + query);
      const auto found = slope_of(seen, dot[i], up[i], sums[row], less[row]);
      weight[r][query] = found.weight;
      slope[r][query] = found.slope;
    }
    __syncthreads();
    const Index count = least(others, tile.end - q0);
    add_weighted(width, weight, dy + q0 * width, count, out, valid);
    add_weighted(width, slope, a + q0 * width, count, out, valid);
    __syncthreads();
  }
}

/// The tiles of all sequences, on the device.
class RowTiles {
 public:
  RowTiles(Index sequences, const std::int32_t* starts) {
    std::vector<RowTile> list;
    for (Index s = 0; s < sequences; ++s)
      for (Index i = starts[s]; i < starts[s + 1]; i += own) list.push_back({starts[s], starts[s + 1], i});
    count_ = static_cast<unsigned>(list.size());
    if (!count_) return;
    const UseScope use(Use::workspace);
    buffer_ = Buffer(Cuda::pool(), list.size() * sizeof(RowTile));
    Cuda::upload(buffer_.data(), list.data(), list.size() * sizeof(RowTile));
  }
  unsigned count() const { return count_; }
  const RowTile* device() const { return static_cast<const RowTile*>(buffer_.data()); }

 private:
  Buffer buffer_;
  unsigned count_ = 0;
};

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void relu_attention(B, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a, const T* t,
                    T* y, T* sums) {
  const cuda::RowTiles tiles(sequences, starts);
  if (!tiles.count()) return;
  cuda::launch(cuda::relu_attend<T>, tiles.count(), cuda::block, 0, cuda::stream(), width, causal, tiles.device(), a, t,
               y, sums);
}

template <Backend B, Real T>
void relu_attention_backward(B, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a,
                             const T* t, const T* y, const T* sums, const T* dy, T* da, T* dt) {
  const cuda::RowTiles tiles(sequences, starts);
  if (!tiles.count()) return;
  const Index rows = starts[sequences];
  const UseScope use(Use::workspace);
  const Buffer means(Cuda::pool(), static_cast<std::size_t>(rows) * sizeof(T));
  T* const less = static_cast<T*>(means.data());
  const T* const known = less;
  cuda::launch(cuda::relu_means<T>, cuda::blocks(rows, 1), cuda::along(width), 0, cuda::stream(), rows, width, t, y, dy,
               less);
  cuda::launch(cuda::relu_attend_queries<T>, tiles.count(), cuda::block, 0, cuda::stream(), width, causal,
               tiles.device(), a, t, sums, known, dy, da);
  cuda::launch(cuda::relu_attend_keys<T>, tiles.count(), cuda::block, 0, cuda::stream(), width, causal, tiles.device(),
               a, t, sums, known, dy, dt);
}

#define EVERY(T)                                                                                                     \
  template void relu_attention(Cuda, Index, const std::int32_t*, Index, bool, const T*, const T*, T*, T*);           \
  template void relu_attention_backward(Cuda, Index, const std::int32_t*, Index, bool, const T*, const T*, const T*, \
                                        const T*, const T*, T*, T*);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
