// Owns: the stream on which everything of the Cuda backend runs, and how much of a grid covers n elements.
#pragma once

#include <launch.cuh>

#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft::cuda {

/// The stream of the process. Throws Error, the first time, where there is no device.
cudaStream_t main_stream();
/// Where work goes now: that stream, or another while an OnStream lives.
cudaStream_t stream();
cudaStream_t new_stream();
/// The device's compute capability, 90 for 9.0.
int architecture();

class OnStream {
 public:
  explicit OnStream(cudaStream_t other);
  ~OnStream();
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  cudaStream_t before_;
};

/// Threads of a block of the kernels that go over elements.
inline constexpr unsigned threads = 256;

/// Blocks for `count` pieces of work of `each` pieces a block; at least 1. A kernel strides over what is left, so that
/// the number never matters for results.
inline unsigned blocks(Index count, Index each = threads) {
  constexpr Index most = 1 << 20;
  const Index wanted = (count + each - 1) / each;
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted > most ? most : wanted);
}

/// The index of this thread in the grid, and the number of threads: for (i = first(); i < n; i += stride()).
__device__ inline Index first() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index stride() { return static_cast<Index>(gridDim.x) * blockDim.x; }

/// f(0) … f(n − 1), unrolled, so that arrays that they index stay in registers.
template <int n, class F>
__device__ inline void each(const F& f) {
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int i = 0; i < n; ++i) f(i);
}

/// True where T can be read and written 16 bytes at a time at every given address.
template <class... T>
bool aligned(const T*... at) {
  return ((reinterpret_cast<std::uintptr_t>(at) % 16 == 0) && ...);
}

/// Elements that are moved together: 16 bytes.
template <class T>
struct alignas(16) Pack {
  static constexpr int width = 16 / sizeof(T);
  T at[width];
};
/// So many neighbours, moved together, 16 bytes an access at most.
template <class T, int width>
struct alignas(sizeof(T) * width < 16 ? sizeof(T) * width : 16) Some {
  T at[width];
};

}  // namespace meft::cuda
