// Owns: filling arrays with random numbers, and adding them: include/meft/backend/kernels/random.hpp.
#include <launch.cuh>
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/random.hpp>
#include <meft/base/normal.hpp>
#include <meft/base/parallel.hpp>
#include <stream.cuh>
#include <vector>

namespace meft {

namespace cuda {

namespace {

template <class T>
__global__ void noise_rows(Index n, Index width, const std::int32_t* numbers, Index from, Key key, T keep, T scale,
                           const T* x, T* y) {
  for (Index i = first(); i < n; i += stride()) {
    const Index row = i / width, number = numbers ? numbers[row] : from + row;
    const float z = normal_float(key, static_cast<std::uint64_t>(number * width + i % width));
    y[i] = multiply_add(scale, static_cast<T>(z), product(keep, x[i]));
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void fill_normal(B, Index n, T* out, Key key, double deviation) {
  std::vector<T> host(static_cast<std::size_t>(n));
  parallel_chunks(n, 4096, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      host[static_cast<std::size_t>(i)] = static_cast<T>(deviation * normal(key, static_cast<std::uint64_t>(i)));
  });
  Cuda::upload(out, host.data(), host.size() * sizeof(T));
}

template <Backend B, Real T>
void add_noise(B, Index rows, Index width, const std::int32_t* numbers, Index first, Key key, double keep, double scale,
               const T* x, T* y) {
  const Index n = rows * width;
  if (n == 0) return;
  cuda::launch(cuda::noise_rows<T>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, width, numbers, first, key,
               static_cast<T>(keep), static_cast<T>(scale), x, y);
}

template void fill_normal(Cuda, Index, float*, Key, double);
template void fill_normal(Cuda, Index, double*, Key, double);
template void add_noise(Cuda, Index, Index, const std::int32_t*, Index, Key, double, double, const float*, float*);
template void add_noise(Cuda, Index, Index, const std::int32_t*, Index, Key, double, double, const double*, double*);

}  // namespace meft
