// Owns: softmax and log-softmax over rows: include/meft/backend/cuda/reduce.hpp. A block takes a row.
#include <limits>

#include <meft/backend/cuda/reduce.hpp>
#include <meft/base/functor.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

template <class T>
__global__ void softmax_rows(Index rows, Index n, const T* x, T* y, bool logarithm) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* in = x + r * n;
    T* out = y + r * n;
    const T top = max_over_row<T>(n, lowest, [in](Index i) { return in[i]; });
    const T total = sum_over_row<T>(n, [in, top](Index i) { return Exp{}(in[i] - top); });
    const T shift = top + Log{}(total), scale = T(1) / total;
    for (Index i = threadIdx.x; i < n; i += blockDim.x) out[i] = logarithm ? in[i] - shift : Exp{}(in[i] - top) * scale;
  }
}

template <class T>
__global__ void softmax_rows_back(Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *out = y + r * n, *d = dy + r * n;
    T* to = dx + r * n;
    const T total = sum_over_row<T>(n, [=](Index i) { return logarithm ? d[i] : out[i] * d[i]; });
    for (Index i = threadIdx.x; i < n; i += blockDim.x)
      to[i] = logarithm ? d[i] - Exp{}(out[i]) * total : out[i] * (d[i] - total);
  }
}

}  // namespace

}  // namespace cuda

template <Real T>
void softmax(Cuda, Index rows, Index n, const T* x, T* y, bool logarithm) {
  cuda::launch_rows(cuda::softmax_rows<T>, rows, n, x, y, logarithm);
}
template <Real T>
void softmax_backward(Cuda, Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm) {
  cuda::launch_rows(cuda::softmax_rows_back<T>, rows, n, y, dy, dx, logarithm);
}

#define EVERY(T)                                                 \
  template void softmax(Cuda, Index, Index, const T*, T*, bool); \
  template void softmax_backward(Cuda, Index, Index, const T*, const T*, T*, bool);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
