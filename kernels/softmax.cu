// Owns: softmax and log-softmax over rows: include/meft/backend/kernels/softmax.hpp. A block takes a row.
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/softmax.hpp>
#include <meft/base/functor.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

template <class T>
__global__ void softmax_rows(Index rows, Line line, const T* x, T* y, bool logarithm) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* in = x + r * line.n;
    const T top = line.max(in);
    const T total = line.template sum<T>([top](T v) { return Exp{}(v - top); }, in);
    const T spread = Log{}(total), scale = T(1) / total;
    line.map(
        y + r * line.n, [=](T v) { return logarithm ? v - top - spread : Exp{}(v - top) * scale; }, in);
  }
}

template <class T>
__global__ void softmax_rows_back(Index rows, Line line, const T* y, const T* dy, T* dx, bool logarithm) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *out = y + r * line.n, *d = dy + r * line.n;
    const T total = line.template sum<T>([logarithm](T p, T g) { return logarithm ? g : p * g; }, out, d);
    line.map(
        dx + r * line.n, [=](T p, T g) { return logarithm ? g - Exp{}(p)*total : p * (g - total); }, out, d);
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void softmax(B, Index rows, Index n, const T* x, T* y, bool logarithm) {
  cuda::launch_lines<T>(cuda::softmax_rows<T>, rows, n, std::tuple(x, y), x, y, logarithm);
}
template <Backend B, Real T>
void softmax_backward(B, Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm) {
  cuda::launch_lines<T>(cuda::softmax_rows_back<T>, rows, n, std::tuple(y, dy, dx), y, dy, dx, logarithm);
}

#define EVERY(T)                                                 \
  template void softmax(Cuda, Index, Index, const T*, T*, bool); \
  template void softmax_backward(Cuda, Index, Index, const T*, const T*, T*, bool);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
