// Owns: what kernels share that give a block of threads to a row: its size, and results joined over its threads.
#pragma once

#include <limits>
#include <meft/base/compose.hpp>
#include <stream.cuh>
#include <tuple>

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

/// Σ f(i) over i in [0, n), by the threads of the block.
template <class T, class F>
__device__ T sum_over_row(Index n, const F& f) {
  T sum = 0;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) sum += f(i);
  return over_block(sum, Add{});
}

/// How a block goes along rows of n elements: thread t takes a pack of neighbours at t, then the one a block further
/// on. `packed`: rows lie so that a pack is one access. Which elements a thread takes, and so the order of sums, does
/// not depend on it.
struct Line {
  Index n;
  bool packed;

  template <class T>
  __device__ Pack<T> read(const T* row, Index i) const {
    if (packed) return *reinterpret_cast<const Pack<T>*>(row + i);
    Pack<T> out{};
    for (int k = 0; k < Pack<T>::width; ++k)
      if (i + k < n) out.at[k] = row[i + k];
    return out;
  }
  template <class T>
  __device__ void write(T* row, Index i, const Pack<T>& x) const {
    if (packed) {
      *reinterpret_cast<Pack<T>*>(row + i) = x;
      return;
    }
    for (int k = 0; k < Pack<T>::width; ++k)
      if (i + k < n) row[i + k] = x.at[k];
  }

  template <class T>
  __device__ void write_rounded(bf16* row, Index i, const Pack<T>& x) const {
    Some<bf16, Pack<T>::width> y;
    for (int k = 0; k < Pack<T>::width; ++k) y.at[k] = bf16(static_cast<float>(x.at[k]));
    if (packed) {
      *reinterpret_cast<Some<bf16, Pack<T>::width>*>(row + i) = y;
      return;
    }
    for (int k = 0; k < Pack<T>::width; ++k)
      if (i + k < n) row[i + k] = y.at[k];
  }

  /// f(i) for the first element of each pack of this thread.
  template <class T, class F>
  __device__ void each(const F& f) const {
    constexpr Index width = Pack<T>::width;
    for (Index i = threadIdx.x * width; i < n; i += blockDim.x * width) f(i);
  }
  /// out[i] = f(in[i]...).
  template <class T, class F, class... In>
  __device__ void map(T* out, const F& f, const In*... in) const {
    each<T>([&](Index i) {
      const auto apply = [&](const Pack<In>&... x) {
        Pack<T> y;
        for (int k = 0; k < Pack<T>::width; ++k) y.at[k] = f(x.at[k]...);
        return y;
      };
      write(out, i, apply(read(in, i)...));
    });
  }
  /// join over f(in[i]...), from `start`; every thread gets the result.
  template <class T, class Join, class F, class... In>
  __device__ T joined(T start, const Join& join, const F& f, const In*... in) const {
    T sum = start;
    each<T>([&](Index i) {
      const auto add = [&](const Pack<In>&... x) {
        for (int k = 0; k < Pack<T>::width; ++k)
          if (packed || i + k < n) sum = join(sum, static_cast<T>(f(x.at[k]...)));
      };
      add(read(in, i)...);
    });
    return over_block(sum, join);
  }
  template <class T, class F, class... In>
  __device__ T sum(const F& f, const In*... in) const {
    return joined(T(0), Add{}, f, in...);
  }
  template <class T>
  __device__ T max(const T* in) const {
    return joined(
        -std::numeric_limits<T>::infinity(), Larger{}, [](T x) { return x; }, in);
  }
};

/// Runs a kernel(rows, line, arguments…) of which a block does row blockIdx.x, then blockIdx.x + gridDim.x …; T: the
/// elements; `at`: the arrays of rows that it reads and writes.
template <class T, class... At, class... Parameters, class... Arguments>
void launch_lines(void (*kernel)(Parameters...), Index rows, Index n, std::tuple<At...> at, Arguments... arguments) {
  if (rows == 0) return;
  constexpr Index width = Pack<T>::width;
  const bool packed = n % width == 0 && std::apply([](auto... x) { return aligned(x...); }, at);
  launch(kernel, blocks(rows, 1), along((n + width - 1) / width), 0, stream(), rows, Line{n, packed}, arguments...);
}

}  // namespace meft::cuda
