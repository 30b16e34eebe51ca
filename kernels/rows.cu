// Owns: whole rows gathered, scattered and averaged: include/meft/backend/kernels/rows.hpp.
#include <cstdint>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <recorder.cuh>
#include <result.cuh>
#include <row.cuh>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

using Position = unsigned long long;

__global__ void find_outside(Index n, const std::int32_t* numbers, Index limit, Position* at) {
  for (Index i = first(); i < n; i += stride())
    if (numbers[i] < 0 || numbers[i] >= limit) atomicMin(at, static_cast<Position>(i));
}

/// I: 32 bits where the elements can be counted with them, for they are divided by.
template <class I, class P>
__global__ void gather(I elements, I width, const P* x, const std::int32_t* rows, P* y) {
  for (Index i = first(); i < static_cast<Index>(elements); i += stride()) {
    const I r = static_cast<I>(i) / width, c = static_cast<I>(i) % width;
    y[i] = x[static_cast<Index>(rows[r]) * width + c];
  }
}

/// next[i]: the next place of the number at i, or -1; led[i]: whether the number stands at an earlier place.
__global__ void chain(Index n, const std::int32_t* numbers, std::int32_t* next, std::uint8_t* led) {
  __shared__ std::int32_t tile[threads];
  const Index i = first();
  const std::int32_t mine = i < n ? numbers[i] : -1;
  std::int32_t later = -1;
  bool earlier = false;
  for (Index base = 0; base < n; base += threads) {
    __syncthreads();
    if (base + threadIdx.x < n) tile[threadIdx.x] = numbers[base + threadIdx.x];
    __syncthreads();
    const int count = static_cast<int>(n - base < threads ? n - base : threads);
    for (int k = 0; k < count; ++k) {
      if (tile[k] != mine) continue;
      earlier |= base + k < i;
      if (later < 0 && base + k > i) later = static_cast<std::int32_t>(base + k);
    }
  }
  if (i < n) next[i] = later, led[i] = earlier;
}

/// A block adds up every row of one number, in ascending order.
template <class T>
__global__ void scatter(Index width, const T* dy, const std::int32_t* rows, const std::int32_t* next,
                        const std::uint8_t* led, T* dx) {
  const Index leader = blockIdx.x;
  if (led[leader]) return;
  T* to = dx + static_cast<Index>(rows[leader]) * width;
  for (Index c = threadIdx.x; c < width; c += blockDim.x) {
    T sum = to[c];
    for (Index i = leader; i >= 0; i = next[i]) sum += dy[i * width + c];
    to[c] = sum;
  }
}

template <class T>
__global__ void mean(Index width, Index skip, const T* x, const std::int32_t* starts, T* y) {
  const Index s = blockIdx.x, end = starts[s + 1], begin = averaged_from(starts[s], end, skip);
  for (Index c = threadIdx.x; c < width; c += blockDim.x) {
    T sum = x[begin * width + c];
    for (Index r = begin + 1; r < end; ++r) sum += x[r * width + c];
    y[s * width + c] = sum * (T(1) / static_cast<T>(end - begin));
  }
}

template <class T>
__global__ void mean_back(Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx) {
  const Index s = blockIdx.x, begin = starts[s], end = starts[s + 1], counted = averaged_from(begin, end, skip);
  const T by = T(1) / static_cast<T>(end - counted);
  for (Index c = threadIdx.x; c < width; c += blockDim.x) {
    const T d = dy[s * width + c] * by;
    for (Index r = begin; r < end; ++r) dx[r * width + c] = r < counted ? T(0) : d;
  }
}

template <class T>
void gather_as(Index n, Index width, const T* x, const std::int32_t* rows, T* y) {
  const Index elements = n * width;
  if (elements == 0) return;
  if (elements <= INT32_MAX)
    launch(gather<std::uint32_t, T>, blocks(elements), threads, 0, stream(), static_cast<std::uint32_t>(elements),
           static_cast<std::uint32_t>(width), x, rows, y);
  else launch(gather<Index, T>, blocks(elements), threads, 0, stream(), elements, width, x, rows, y);
}

}  // namespace

}  // namespace cuda

template <Backend B>
Index first_outside(B, Index n, const std::int32_t* numbers, Index limit) {
  if (n == 0) return -1;
  const auto look = [=] {
    const cuda::Result<cuda::Position> found(0xff);
    cuda::launch(cuda::find_outside, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, numbers, limit,
                 found.device());
    return static_cast<Index>(found.read());  // all ones: -1
  };
  // Row numbers that are no input follow from the shapes, and are right as they were before.
  return cuda::look_at(numbers, look, Index{-1});
}

template <Backend B, Scalar T>
void gather_rows(B, Index n, Index width, const T* x, const std::int32_t* rows, T* y) {
  using P = cuda::Pack<T>;
  if (width % P::width == 0 && cuda::aligned(x, y))
    cuda::gather_as(n, width / P::width, reinterpret_cast<const P*>(x), rows, reinterpret_cast<P*>(y));
  else cuda::gather_as(n, width, x, rows, y);
}

template <Backend B, Real T>
void scatter_rows(B, Index n, Index width, const T* dy, const std::int32_t* rows, T* dx) {
  if (n == 0 || width == 0) return;
  const UseScope use(Use::workspace);
  const Buffer next(Cuda::pool(), static_cast<std::size_t>(n) * sizeof(std::int32_t)),
      led(Cuda::pool(), static_cast<std::size_t>(n));
  const auto grid = static_cast<unsigned>((n + cuda::threads - 1) / cuda::threads);
  cuda::launch(cuda::chain, grid, cuda::threads, 0, cuda::stream(), n, rows, static_cast<std::int32_t*>(next.data()),
               static_cast<std::uint8_t*>(led.data()));
  cuda::launch(cuda::scatter<T>, static_cast<unsigned>(n), cuda::along(width, 1024), 0, cuda::stream(), width, dy, rows,
               static_cast<const std::int32_t*>(next.data()), static_cast<const std::uint8_t*>(led.data()), dx);
}

template <Backend B, Real T>
void mean_rows(B, Index runs, Index width, Index skip, const T* x, const std::int32_t* starts, T* y) {
  if (runs == 0 || width == 0) return;
  cuda::launch(cuda::mean<T>, static_cast<unsigned>(runs), cuda::along(width), 0, cuda::stream(), width, skip, x,
               starts, y);
}
template <Backend B, Real T>
void mean_rows_backward(B, Index runs, Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx) {
  if (runs == 0 || width == 0) return;
  cuda::launch(cuda::mean_back<T>, static_cast<unsigned>(runs), cuda::along(width), 0, cuda::stream(), width, skip, dy,
               starts, dx);
}

#define EVERY(T)                                                                         \
  template void gather_rows(Cuda, Index, Index, const T*, const std::int32_t*, T*);      \
  template void scatter_rows(Cuda, Index, Index, const T*, const std::int32_t*, T*);     \
  template void mean_rows(Cuda, Index, Index, Index, const T*, const std::int32_t*, T*); \
  template void mean_rows_backward(Cuda, Index, Index, Index, const T*, const std::int32_t*, T*);
EVERY(float)
EVERY(double)
#undef EVERY
template Index first_outside(Cuda, Index, const std::int32_t*, Index);
template void gather_rows(Cuda, Index, Index, const std::int32_t*, const std::int32_t*, std::int32_t*);

}  // namespace meft
