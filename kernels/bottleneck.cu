// Owns: a bottleneck of two narrow products: include/meft/backend/kernels/bottleneck.hpp. Forward a warp takes a row.
// Backward a block takes some rows, a tile of them after the other: first the inner gradients, a warp a row, then a
// thread a column of the rest, whose sums over the block's rows are added up by a second kernel. Bound by memory:
// weights stay in the caches.
#include <algorithm>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/bottleneck.hpp>
#include <meft/base/compose.hpp>
#include <meft/memory/buffer.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr int some = 8;  // inner elements at a time
constexpr unsigned back_threads = 512;
constexpr unsigned all_lanes = 0xffffffffu;

/// sum[k] = the product of a row with row j0 + k of `with`, whose elements lie `row` and `column` apart; every lane of
/// the warp gets it.
template <class T>
__device__ void products(const T* x, Index width, const T* with, Index row, Index column, Index j0, Index inner,
                         T (&sum)[some]) {
  for (int k = 0; k < some; ++k) sum[k] = 0;
  for (Index c = threadIdx.x % 32; c < width; c += 32) {
    const T v = x[c];
    for (int k = 0; k < some; ++k)
      if (j0 + k < inner) sum[k] += v * with[(j0 + k) * row + c * column];
  }
  for (int k = 0; k < some; ++k)
    for (int d = 16; d; d /= 2) sum[k] += __shfl_xor_sync(all_lanes, sum[k], d);
}

template <class F, class T>
__global__ void bottleneck_rows(F f, Index rows, BottleneckWeights<T> w, const T* x, T* z, T* y) {
  const Index lane = threadIdx.x % 32;
  for (Index r = first() / 32; r < rows; r += stride() / 32) {
    T* const out = y + r * w.width;
    for (Index j0 = 0; j0 < w.inner; j0 += some) {
      T v[some];
      products(x + r * w.width, w.width, w.down, w.width, 1, j0, w.inner, v);
      for (int k = 0; k < some; ++k)
        if (j0 + k < w.inner) {
          v[k] += w.down_bias[j0 + k];
          if (lane == 0) z[r * w.inner + j0 + k] = v[k];
          v[k] = f(v[k]);
        }
      for (Index c = lane; c < w.width; c += 32) {
        T sum = j0 ? out[c] : T(0);
        for (int k = 0; k < some; ++k)
          if (j0 + k < w.inner) sum += v[k] * w.up[c * w.inner + j0 + k];
        out[c] = j0 + some < w.inner ? sum : sum + w.up_bias[c];
      }
    }
  }
}

/// Rows of a tile, of which there is the inner layer in shared memory twice: activations, and gradients before them.
inline Index rows_of_tile(Index rows, Index inner) {
  constexpr Index fewest_tiles = 64, most = 4096;
  return std::max<Index>(1, std::min({(rows + fewest_tiles - 1) / fewest_tiles, most / inner, Index{256}}));
}
/// Rows of a block: a tile, or as many as keep the number of blocks, and so of sums, at 128: about one a processor.
inline Index rows_of_block(Index rows, Index tile) {
  constexpr Index most_blocks = 128;
  return (rows + most_blocks * tile - 1) / (most_blocks * tile) * tile;
}
/// What a block's sums take: those of up and down by columns, of the bias of up, of the bias of down.
template <class T>
Index sums_of_block(const BottleneckWeights<T>& w) {
  return (2 * w.inner + 1) * w.width + w.inner;
}

template <class F, class T>
__global__ void __launch_bounds__(back_threads, 1)
    bottleneck_back(F, Index rows, Index each, Index tile, BottleneckWeights<T> w, const T* x, const T* z, const T* dy,
                    const T* from, T* dx, T* sums) {
  const Index inner = w.inner, width = w.width, start = blockIdx.x * each,
              end = start + each < rows ? start + each : rows;
  T *const active = dynamic_shared<T>(), *const slope = active + tile * inner;
  sums += blockIdx.x * ((2 * inner + 1) * width + inner);
  const auto kept = [&](Index begin, Index at) { return begin == start ? T(0) : sums[at]; };
  for (Index begin = start; begin < end; begin += tile) {
    const Index count = begin + tile < end ? tile : end - begin;
    for (Index r = threadIdx.x / 32; r < count; r += blockDim.x / 32)
      for (Index j0 = 0; j0 < inner; j0 += some) {
        T d[some];
        products(dy + (begin + r) * width, width, w.up, 1, inner, j0, inner, d);
        const Index k = threadIdx.x % 32;
        for (int i = 0; i < some; ++i)
          if (i == k && j0 + k < inner) {
            const T at = z[(begin + r) * inner + j0 + k];
            active[r * inner + j0 + k] = F{}(at);
            slope[r * inner + j0 + k] = SlopeAt<F>{}(d[i], at);
          }
      }
    __syncthreads();
    for (Index j0 = 0; j0 < inner; j0 += some)
      for (Index c = threadIdx.x; c < width; c += blockDim.x) {
        T up[some] = {}, down[some] = {}, weight[some] = {}, bias = j0 ? T(0) : kept(begin, 2 * inner * width + c);
        for (int k = 0; k < some; ++k)
          if (j0 + k < inner) {
            up[k] = kept(begin, (j0 + k) * width + c);
            down[k] = kept(begin, (inner + j0 + k) * width + c);
            weight[k] = w.down[(j0 + k) * width + c];
          }
        for (Index r = 0; r < count; ++r) {
          const Index at = (begin + r) * width + c;
          const T d = dy[at], v = x[at];
          T sum = 0;
          for (int k = 0; k < some; ++k)
            if (j0 + k < inner) {
              const T s = slope[r * inner + j0 + k];
              up[k] += d * active[r * inner + j0 + k];
              down[k] += s * v;
              sum += s * weight[k];
            }
          bias += d;
          if (!dx) continue;
          if (const T* const more = j0 ? dx : from) sum = more[at] + sum;
          dx[at] = sum;
        }
        for (int k = 0; k < some; ++k)
          if (j0 + k < inner) {
            sums[(j0 + k) * width + c] = up[k];
            sums[(inner + j0 + k) * width + c] = down[k];
          }
        if (j0 == 0) sums[2 * inner * width + c] = bias;
      }
    for (Index j = threadIdx.x; j < inner; j += blockDim.x) {
      T bias = kept(begin, (2 * inner + 1) * width + j);
      for (Index r = 0; r < count; ++r) bias += slope[r * inner + j];
      sums[(2 * inner + 1) * width + j] = bias;
    }
    __syncthreads();
  }
}

template <class T>
__global__ void bottleneck_sums(Index total, Index parts, Index width, Index inner, const T* sums,
                                BottleneckGradients<T> to) {
  for (Index i = first(); i < total; i += stride()) {
    T sum = 0;
    for (Index part = 0; part < parts; ++part) sum += sums[part * total + i];
    const Index j = i / width, c = i % width;
    if (j < inner) {
      if (to.up) to.up[c * inner + j] = sum;
    } else if (j < 2 * inner) {
      if (to.down) to.down[(j - inner) * width + c] = sum;
    } else if (j == 2 * inner) {
      if (to.up_bias) to.up_bias[c] = sum;
    } else if (to.down_bias) to.down_bias[i - (2 * inner + 1) * width] = sum;
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void bottleneck(B, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, T* z, T* y) {
  if (rows == 0) return;
  visit(f, [&](auto g) {
    cuda::launch(cuda::bottleneck_rows<decltype(g), T>, cuda::blocks(32 * rows), cuda::threads, 0, cuda::stream(), g,
                 rows, w, x, z, y);
  });
}

template <Backend B, Real T>
void bottleneck_backward(B, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, const T* z,
                         const T* dy, const T* from, T* dx, const BottleneckGradients<T>& to) {
  const Index tile = cuda::rows_of_tile(rows, w.inner), each = cuda::rows_of_block(rows, tile),
              parts = rows ? (rows + each - 1) / each : 0, total = cuda::sums_of_block(w);
  const UseScope use(Use::workspace);
  const Buffer buffer(Cuda::pool(), static_cast<std::size_t>(parts * total) * sizeof(T));
  auto* const sums = static_cast<T*>(buffer.data());
  if (parts)
    visit(f, [&](auto g) {
      cuda::launch(cuda::bottleneck_back<decltype(g), T>, static_cast<unsigned>(parts), cuda::back_threads,
                   static_cast<std::size_t>(2 * tile * w.inner) * sizeof(T), cuda::stream(), g, rows, each, tile, w, x,
                   z, dy, from, dx, sums);
    });
  cuda::launch(cuda::bottleneck_sums<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, parts, w.width,
               w.inner, static_cast<const T*>(sums), to);
}

#define EVERY(T)                                                                                              \
  template void bottleneck(Cuda, Activation, Index, const BottleneckWeights<T>&, const T*, T*, T*);           \
  template void bottleneck_backward(Cuda, Activation, Index, const BottleneckWeights<T>&, const T*, const T*, \
                                    const T*, const T*, T*, const BottleneckGradients<T>&);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
