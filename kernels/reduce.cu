// Owns: sums and maxima over an axis: include/meft/backend/kernels/reduce.hpp. Long axes are summed in pieces of a
// fixed length and the pieces' sums again, so that the order depends on the shape alone.
#include <cstdint>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/memory/buffer.hpp>
#include <row.cuh>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr Index row_piece = 8192, column_piece = 64;

/// Rows of n: out[r, piece] = the sum of one piece.
template <class T>
__global__ void sum_rows(Index tasks, Index n, Index pieces, const T* x, T* out) {
  for (Index task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Index row = task / pieces, begin = task % pieces * row_piece;
    const T* in = x + row * n + begin;
    const T sum = sum_over_row<T>(n - begin < row_piece ? n - begin : row_piece, [in](Index i) { return in[i]; });
    if (threadIdx.x == 0) out[task] = sum;
  }
}

/// [outer, n, inner] → [outer, pieces, inner], a thread a column of a piece.
template <class T>
__global__ void sum_columns(Index total, Index n, Index inner, Index pieces, const T* x, T* out) {
  for (Index task = first(); task < total; task += stride()) {
    const Index j = task % inner, piece = task / inner % pieces, o = task / inner / pieces;
    const Index begin = piece * column_piece, end = begin + column_piece < n ? begin + column_piece : n;
    T sum = 0;
    for (Index i = begin; i < end; ++i) sum += x[(o * n + i) * inner + j];
    out[task] = sum;
  }
}

template <class T>
__global__ void repeat_elements(Index total, Index n, Index inner, const T* x, T* out) {
  for (Index i = first(); i < total; i += stride()) out[i] = x[i / inner / n * inner + i % inner];
}

template <class T>
__global__ void max_elements(Index total, Index n, Index inner, const T* x, T* out, std::int32_t* at) {
  for (Index i = first(); i < total; i += stride()) {
    const T* in = x + i / inner * n * inner + i % inner;
    Index best = 0;
    for (Index k = 1; k < n; ++k) {
      const T v = in[k * inner], b = in[best * inner];
      if (v > b || (v != v && b == b)) best = k;
    }
    out[i] = in[best * inner];
    at[i] = static_cast<std::int32_t>(best);
  }
}

template <class T>
__global__ void max_back(Index total, Index n, Index inner, const T* dy, const std::int32_t* at, T* dx) {
  for (Index i = first(); i < total; i += stride()) {
    const Index k = i / inner % n, o = i / inner / n, j = i % inner;
    dx[i] = at[o * inner + j] == k ? dy[o * inner + j] : T(0);
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void sum(B, Index outer, Index n, Index inner, const T* x, T* out) {
  const Index results = outer * inner;
  if (results == 0) return;
  if (n == 0) return Cuda::zero(out, static_cast<std::size_t>(results) * sizeof(T));
  const Index length = inner == 1 ? cuda::row_piece : cuda::column_piece, pieces = (n + length - 1) / length;
  Buffer parts;
  T* to = out;
  if (pieces > 1) {
    const UseScope use(Use::workspace);
    parts = Buffer(Cuda::pool(), static_cast<std::size_t>(results * pieces) * sizeof(T));
    to = static_cast<T*>(parts.data());
  }
  const Index total = results * pieces;
  if (inner == 1)
    cuda::launch(cuda::sum_rows<T>, cuda::blocks(total, 1), cuda::along(n < length ? n : length), 0, cuda::stream(),
                 total, n, pieces, x, to);
  else
    cuda::launch(cuda::sum_columns<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, n, inner, pieces,
                 x, to);
  if (pieces > 1) sum(Cuda{}, outer, pieces, inner, static_cast<const T*>(to), out);
}

template <Backend B, Real T>
void repeat(B, Index outer, Index n, Index inner, const T* x, T* out) {
  if (const Index total = outer * n * inner)
    cuda::launch(cuda::repeat_elements<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, n, inner, x,
                 out);
}

template <Backend B, Real T>
void max(B, Index outer, Index n, Index inner, const T* x, T* out, std::int32_t* at) {
  if (const Index total = outer * inner)
    cuda::launch(cuda::max_elements<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, n, inner, x, out,
                 at);
}
template <Backend B, Real T>
void max_backward(B, Index outer, Index n, Index inner, const T* dy, const std::int32_t* at, T* dx) {
  if (const Index total = outer * n * inner)
    cuda::launch(cuda::max_back<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, n, inner, dy, at, dx);
}

#define EVERY(T)                                                             \
  template void sum(Cuda, Index, Index, Index, const T*, T*);                \
  template void repeat(Cuda, Index, Index, Index, const T*, T*);             \
  template void max(Cuda, Index, Index, Index, const T*, T*, std::int32_t*); \
  template void max_backward(Cuda, Index, Index, Index, const T*, const std::int32_t*, T*);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
