// Owns: layer norm and RMS norm, forward and backward, also of a sum with a residual:
// include/meft/backend/kernels/norm.hpp. A block takes a row; the weights' gradients are sums over rows in pieces of a
// fixed length.
#include <dropped.cuh>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/norm.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/memory/buffer.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr Index piece = 64;  // rows

/// What a norm writes, at a row: y, or null; y rounded to bf16, or null.
template <class T>
struct Result {
  T* full;
  bf16* rounded;
  __device__ Result at(Index i) const { return {full ? full + i : nullptr, rounded ? rounded + i : nullptr}; }
};

/// y = (x − mean)·rstd·gamma + beta of one row; a null mean stands for 0, as in all of these.
template <class T>
__device__ void norm_row(Line line, const T* x, const T* gamma, const T* beta, T epsilon, Result<T> y, T* mean,
                         T* rstd) {
  const T m = mean ? line.template sum<T>([](T v) { return v; }, x) / T(line.n) : T(0);
  const T variance = line.template sum<T>([m](T v) { return (v - m) * (v - m); }, x) / T(line.n);
  const T s = T(1) / sqrt(variance + epsilon);
  if (threadIdx.x == 0) {
    if (mean) *mean = m;
    *rstd = s;
  }
  line.template each<T>([&](Index i) {
    auto out = line.read(x, i);
    const auto g = line.read(gamma, i), b = beta ? line.read(beta, i) : Pack<T>{};
    for (int k = 0; k < Pack<T>::width; ++k) {
      const T v = (out.at[k] - m) * s * g.at[k];
      out.at[k] = beta ? v + b.at[k] : v;
    }
    if (y.full) line.write(y.full, i, out);
    if (y.rounded) line.write_rounded(y.rounded, i, out);
  });
}

template <class T>
__global__ void norm_rows(Index rows, Line line, const T* x, const T* gamma, const T* beta, T epsilon, Result<T> y,
                          T* mean, T* rstd) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x)
    norm_row(line, x + r * line.n, gamma, beta, epsilon, y.at(r * line.n), mean ? mean + r : nullptr, rstd + r);
}

/// The norm of s = x + dropped t, or x + (also + dropped t); s is kept.
template <class T>
__global__ void residual_norm_rows(Index rows, Line line, Dropped<T> dropped, const T* x, const T* t, const T* also,
                                   const T* gamma, const T* beta, T epsilon, T* s, Result<T> y, T* mean, T* rstd) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const Index at = r * line.n;
    line.template each<T>(
        [&](Index i) { line.write(s + at, i, dropped.add(line, x + at, t + at, also ? also + at : also, at, i)); });
    // A thread reads back only what it wrote.
    norm_row(line, static_cast<const T*>(s + at), gamma, beta, epsilon, y.at(at), mean ? mean + r : nullptr, rstd + r);
  }
}

/// `dt`, where it is not null: dropped dx, rounded. Then `from`, where it is not null, is added to dx.
template <class T>
__global__ void norm_rows_back(Index rows, Line line, Dropped<T> dropped, const T* x, const T* gamma, const T* mean,
                               const T* rstd, const T* dy, const T* from, T* dx, bf16* dt) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *in = x + r * line.n, *d = dy + r * line.n, m = mean ? mean[r] : T(0), s = rstd[r];
    const T g = mean ? line.template sum<T>([](T a, T b) { return a * b; }, d, gamma) / T(line.n) : T(0);
    const T gx =
        line.template sum<T>([m, s](T a, T b, T v) { return a * b * ((v - m) * s); }, d, gamma, in) / T(line.n);
    line.template each<T>([&](Index i) {
      const auto a = line.read(d, i), b = line.read(gamma, i), v = line.read(in, i);
      Pack<T> out;
      for (int k = 0; k < Pack<T>::width; ++k) out.at[k] = s * (a.at[k] * b.at[k] - g - (v.at[k] - m) * s * gx);
      if (dt) line.write_rounded(dt + r * line.n, i, dropped.of(out, r * line.n + i));
      if (from) out = Dropped<T>::sum(line.read(from + r * line.n, i), out);
      line.write(dx + r * line.n, i, out);
    });
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
      by_gamma += d * ((x[r * n + j] - (mean ? mean[r] : T(0))) * rstd[r]);
      by_beta += d;
    }
    if (dgamma) dgamma[task] = by_gamma;
    if (dbeta) dbeta[task] = by_beta;
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void layer_norm(B, Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean, T* rstd,
                bf16* rounded) {
  cuda::launch_lines<T>(cuda::norm_rows<T>, rows, n, std::tuple(x, gamma, beta, y, rounded), x, gamma, beta, epsilon,
                        cuda::Result<T>{y, rounded}, mean, rstd);
}

template <Backend B, Real T>
void residual_norm(B, Index rows, Index n, const T* x, const T* t, const T* also, double p, Key key,
                   std::uint64_t first, const T* gamma, const T* beta, T epsilon, T* s, T* y, T* mean, T* rstd,
                   bf16* rounded) {
  cuda::launch_lines<T>(cuda::residual_norm_rows<T>, rows, n, std::tuple(x, t, also, gamma, beta, s, y, rounded),
                        cuda::Dropped<T>(p, key, first), x, t, also, gamma, beta, epsilon, s,
                        cuda::Result<T>{y, rounded}, mean, rstd);
}

template <Backend B, Real T>
void layer_norm_backward(B, Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd, const T* dy,
                         T* dx, const T* from) {
  cuda::launch_lines<T>(cuda::norm_rows_back<T>, rows, n, std::tuple(x, gamma, dy, from, dx),
                        cuda::Dropped<T>(0, {}, 0), x, gamma, mean, rstd, dy, from, dx, static_cast<bf16*>(nullptr));
}

template <Backend B>
void residual_norm_backward(B, Index rows, Index n, const float* s, const float* gamma, const float* mean,
                            const float* rstd, const float* dy, double p, Key key, std::uint64_t first,
                            const float* from, float* dx, bf16* dt) {
  cuda::launch_lines<float>(cuda::norm_rows_back<float>, rows, n, std::tuple(s, gamma, dy, from, dx, dt),
                            cuda::Dropped<float>(p, key, first), s, gamma, mean, rstd, dy, from, dx, dt);
}

template <Backend B, Real T>
void layer_norm_weights(B, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
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

#define EVERY(T)                                                                                                      \
  template void residual_norm(Cuda, Index, Index, const T*, const T*, const T*, double, Key, std::uint64_t, const T*, \
                              const T*, T, T*, T*, T*, T*, bf16*);                                                    \
  template void layer_norm(Cuda, Index, Index, const T*, const T*, const T*, T, T*, T*, T*, bf16*);                   \
  template void layer_norm_backward(Cuda, Index, Index, const T*, const T*, const T*, const T*, const T*, T*,         \
                                    const T*);                                                                        \
  template void layer_norm_weights(Cuda, Index, Index, const T*, const T*, const T*, const T*, T*, T*);
EVERY(float)
EVERY(double)
#undef EVERY
template void residual_norm_backward(Cuda, Index, Index, const float*, const float*, const float*, const float*,
                                     const float*, double, Key, std::uint64_t, const float*, float*, bf16*);

}  // namespace meft
