// Owns: layer norm, forward and backward: include/meft/backend/cuda/reduce.hpp. A block takes a row; the weights'
// gradients are sums over rows in pieces of a fixed length.
#include <meft/backend/cuda/reduce.hpp>
#include <meft/memory/buffer.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr Index piece = 64;  // rows

template <class T>
__global__ void norm_rows(Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean,
                          T* rstd) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* in = x + r * n;
    T* out = y + r * n;
    const T m = sum_over_row<T>(n, [in](Index i) { return in[i]; }) / T(n);
    const T v = sum_over_row<T>(n, [in, m](Index i) { return (in[i] - m) * (in[i] - m); }) / T(n);
    const T s = T(1) / sqrt(v + epsilon);
    if (threadIdx.x == 0) mean[r] = m, rstd[r] = s;
    for (Index i = threadIdx.x; i < n; i += blockDim.x) out[i] = (in[i] - m) * s * gamma[i] + beta[i];
  }
}

template <class T>
__global__ void norm_rows_back(Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd,
                               const T* dy, T* dx) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *in = x + r * n, *d = dy + r * n;
    T* to = dx + r * n;
    const T m = mean[r], s = rstd[r];
    const T g = sum_over_row<T>(n, [=](Index i) { return d[i] * gamma[i]; }) / T(n);
    const T gx = sum_over_row<T>(n, [=](Index i) { return d[i] * gamma[i] * ((in[i] - m) * s); }) / T(n);
    for (Index i = threadIdx.x; i < n; i += blockDim.x) to[i] = s * (d[i] * gamma[i] - g - (in[i] - m) * s * gx);
  }
}

/// Sums over one piece of the rows: a thread a column.
template <class T>
__global__ void norm_weights(Index total, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy,
                             T* dgamma, T* dbeta) {
  for (Index task = first(); task < total; task += stride()) {
    const Index j = task % n, begin = task / n * piece, end = begin + piece < rows ? begin + piece : rows;
    T by_gamma = 0, by_beta = 0;
    for (Index r = begin; r < end; ++r) {
      const T d = dy[r * n + j];
      by_gamma += d * ((x[r * n + j] - mean[r]) * rstd[r]);
      by_beta += d;
    }
    if (dgamma) dgamma[task] = by_gamma;
    if (dbeta) dbeta[task] = by_beta;
  }
}

}  // namespace

}  // namespace cuda

template <Real T>
void layer_norm(Cuda, Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean,
                T* rstd) {
  cuda::launch_rows(cuda::norm_rows<T>, rows, n, x, gamma, beta, epsilon, y, mean, rstd);
}

template <Real T>
void layer_norm_backward(Cuda, Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd,
                         const T* dy, T* dx) {
  cuda::launch_rows(cuda::norm_rows_back<T>, rows, n, x, gamma, mean, rstd, dy, dx);
}

template <Real T>
void layer_norm_weights(Cuda, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
                        T* dbeta) {
  if (n == 0) return;
  const Index pieces = (rows + cuda::piece - 1) / cuda::piece;
  const auto bytes = static_cast<std::size_t>(pieces * n) * sizeof(T);
  const UseScope use(Use::workspace);
  Buffer gammas, betas;
  if (dgamma) gammas = Buffer(Cuda::pool(), bytes);
  if (dbeta) betas = Buffer(Cuda::pool(), bytes);
  auto* const by_gamma = static_cast<T*>(gammas.data());
  auto* const by_beta = static_cast<T*>(betas.data());
  if (pieces)
    cuda::launch(cuda::norm_weights<T>, cuda::blocks(pieces * n), cuda::threads, 0, cuda::stream(), pieces * n, rows, n,
                 x, mean, rstd, dy, by_gamma, by_beta);
  if (dgamma) sum(Cuda{}, 1, pieces, n, static_cast<const T*>(by_gamma), dgamma);
  if (dbeta) sum(Cuda{}, 1, pieces, n, static_cast<const T*>(by_beta), dbeta);
}

#define EVERY(T)                                                                                               \
  template void layer_norm(Cuda, Index, Index, const T*, const T*, const T*, T, T*, T*, T*);                   \
  template void layer_norm_backward(Cuda, Index, Index, const T*, const T*, const T*, const T*, const T*, T*); \
  template void layer_norm_weights(Cuda, Index, Index, const T*, const T*, const T*, const T*, T*, T*);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
