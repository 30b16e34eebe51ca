// Owns: what kernels share that give a block of threads to a row: its size, and results joined over its threads.
#pragma once

#include <stream.cuh>

namespace meft::cuda {

/// Threads of a block that goes along a row of n elements: a power of two, of whole warps. It depends on n alone, and
/// so does the order in which a row's elements are joined.
inline unsigned along(Index n, unsigned most = threads) {
  unsigned count = 32;
  while (count < most && count < n) count *= 2;
  return count;
}

/// join over one value a thread of the block; every thread gets the result. All threads of the block call it.
template <class T, class Join>
__device__ T over_block(T value, const Join& join) {
  __shared__ T parts[32];
  constexpr unsigned whole = 0xffffffffu;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (unsigned d = 16; d; d /= 2) value = join(value, __shfl_xor_sync(whole, value, static_cast<int>(d)));
  if (warps == 1) return value;
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  value = parts[lane % warps];  // warps is a power of two: 32 lanes see each part equally often
  for (unsigned d = warps / 2; d; d /= 2) value = join(value, __shfl_xor_sync(whole, value, static_cast<int>(d)));
  __syncthreads();
  return value;
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/// Σ f(i) over i in [0, n), by the threads of the block.
template <class T, class F>
__device__ T sum_over_row(Index n, const F& f) {
  T sum = 0;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) sum += f(i);
  return over_block(sum, Plus{});
}
/// The largest f(i).
template <class T, class F>
__device__ T max_over_row(Index n, T lowest, const F& f) {
  T top = lowest;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) top = Larger{}(top, f(i));
  return over_block(top, Larger{});
}

/// Runs a kernel(rows, arguments…) of which a block does row blockIdx.x, then blockIdx.x + gridDim.x …
template <class... Parameters, class... Arguments>
void launch_rows(void (*kernel)(Parameters...), Index rows, Index n, Arguments... arguments) {
  if (rows == 0) return;
  launch(kernel, blocks(rows, 1), along(n), 0, stream(), rows, n, arguments...);
}

}  // namespace meft::cuda
