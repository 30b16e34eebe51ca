// Owns: AdamW's pass over a parameter and the sum of squares: include/meft/backend/cuda/optimize.hpp.
#include <cmath>

#include <meft/backend/cuda/optimize.hpp>
#include <result.cuh>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

template <class T>
struct Adam {
  T beta1, beta2, scale, size, root, keep, epsilon;
};

template <class T>
__global__ void adam(Index n, Adam<T> a, const T* g, T* p, T* m, T* v) {
  for (Index i = first(); i < n; i += stride()) {
    const T x = g[i] * a.scale;
    m[i] = a.beta1 * m[i] + (T(1) - a.beta1) * x;
    v[i] = a.beta2 * v[i] + (T(1) - a.beta2) * x * x;
    p[i] = p[i] * a.keep - a.size * m[i] / (sqrt(v[i]) * a.root + a.epsilon);
  }
}

constexpr Index piece = 1 << 14;

/// parts[b] = Σ of the b-th piece, in double.
template <class T>
__global__ void square_pieces(Index n, const T* x, double* parts) {
  for (Index b = blockIdx.x; b * piece < n; b += gridDim.x) {
    const T* in = x + b * piece;
    const Index count = n - b * piece < piece ? n - b * piece : piece;
    const double sum = sum_over_row<double>(count, [in](Index i) {
      const double value = static_cast<double>(in[i]);
      return value * value;
    });
    if (threadIdx.x == 0) parts[b] = sum;
  }
}

__global__ void add_parts(Index n, const double* parts, double* total) {
  const double sum = sum_over_row<double>(n, [parts](Index i) { return parts[i]; });
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

}  // namespace cuda

template <Real T>
void adamw(Cuda, Index n, const AdamWStep& step, const T* g, T* p, T* m, T* v) {
  if (n == 0) return;
  const cuda::Adam<T> a{static_cast<T>(step.beta1),
                        static_cast<T>(step.beta2),
                        static_cast<T>(step.scale),
                        static_cast<T>(step.rate / step.correction1),
                        static_cast<T>(1 / std::sqrt(step.correction2)),
                        static_cast<T>(1 - step.rate * step.decay),
                        static_cast<T>(step.epsilon)};
  cuda::launch(cuda::adam<T>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, a, g, p, m, v);
}

template <Real T>
double sum_squares(Cuda, Index n, const T* x) {
  if (n == 0) return 0;
  const Index pieces = (n + cuda::piece - 1) / cuda::piece;
  const UseScope use(Use::workspace);
  const Buffer parts(Cuda::pool(), static_cast<std::size_t>(pieces) * sizeof(double));
  const cuda::Result<double> total(0);
  cuda::launch(cuda::square_pieces<T>, cuda::blocks(pieces, 1), cuda::threads, 0, cuda::stream(), n, x,
               static_cast<double*>(parts.data()));
  cuda::launch(cuda::add_parts, 1u, cuda::threads, 0, cuda::stream(), pieces, static_cast<const double*>(parts.data()),
               total.device());
  return total.read();
}

template void adamw(Cuda, Index, const AdamWStep&, const float*, float*, float*, float*);
template void adamw(Cuda, Index, const AdamWStep&, const double*, double*, double*, double*);
template double sum_squares(Cuda, Index, const float*);
template double sum_squares(Cuda, Index, const double*);

}  // namespace meft
