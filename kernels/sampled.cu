// Owns: products of which chosen elements are wanted alone: include/meft/backend/kernels/sampled.hpp.
#include <cstdint>

#include <launch.cuh>
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/sampled.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

template <class T>
__global__ void sample(Index depth, Index rows, Index columns, const T* a, const T* b, Index n,
                       const std::int32_t* indices, T* z) {
  for (Index m = first(); m < n; m += stride()) {
    const T *at = a + indices[m] / columns, *bt = b + indices[m] % columns;
    T sum = 0;
    for (Index t = 0; t < depth; ++t) sum += at[t * rows] * bt[t * columns];
    z[m] = sum;
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void sampled_product(B, Index depth, Index rows, Index columns, const T* a, const T* b, Index n,
                     const std::int32_t* indices, T* z) {
  if (n == 0) return;
  cuda::launch(cuda::sample<T>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), depth, rows, columns, a, b, n,
               indices, z);
}

template void sampled_product(Cuda, Index, Index, Index, const float*, const float*, Index, const std::int32_t*,
                              float*);
template void sampled_product(Cuda, Index, Index, Index, const double*, const double*, Index, const std::int32_t*,
                              double*);

}  // namespace meft
