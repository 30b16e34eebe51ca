// Owns: dropout with the masks of the CPU: include/meft/backend/cuda/dropout.hpp. A thread takes the four elements of
// one Philox block.
#include <meft/backend/cuda/dropout.hpp>
#include <meft/backend/keep.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

/// Element `start` + i of the stream of random bits belongs to x[i]; the first block may begin before x.
template <class T>
__global__ void drop(Index n, Index count, Keep<T> keep, Key key, std::uint64_t start, const T* x, T* y) {
  const Index skip = static_cast<Index>(start % 4);
  for (Index b = first(); b < count; b += stride()) {
    const auto words = philox(key, start / 4 + static_cast<std::uint64_t>(b));
    for (int k = 0; k < 4; ++k) {
      const Index i = 4 * b + k - skip;
      if (0 <= i && i < n) y[i] = keep(x[i], words[static_cast<std::size_t>(k)]);
    }
  }
}

/// The same for whole blocks of aligned floats.
__global__ void drop_packs(Index count, Keep<float> keep, Key key, std::uint64_t block, const Pack<float>* x,
                           Pack<float>* y) {
  for (Index b = first(); b < count; b += stride()) {
    const auto words = philox(key, block + static_cast<std::uint64_t>(b));
    Pack<float> values = x[b];
    for (int k = 0; k < 4; ++k) values.at[k] = keep(values.at[k], words[static_cast<std::size_t>(k)]);
    y[b] = values;
  }
}

}  // namespace

}  // namespace cuda

template <Real T>
void dropout(Cuda, Index n, const T* x, T* y, double p, Key key, std::uint64_t first) {
  if (n == 0) return;
  const Keep<T> keep(p);
  if constexpr (sizeof(T) == 4)
    if (first % 4 == 0 && n % 4 == 0 && cuda::aligned(x, y))
      return cuda::launch(cuda::drop_packs, cuda::blocks(n / 4), cuda::threads, 0, cuda::stream(), n / 4, keep, key,
                          first / 4, reinterpret_cast<const cuda::Pack<T>*>(x), reinterpret_cast<cuda::Pack<T>*>(y));
  const Index count = (n + static_cast<Index>(first % 4) + 3) / 4;
  cuda::launch(cuda::drop<T>, cuda::blocks(count), cuda::threads, 0, cuda::stream(), n, count, keep, key, first, x, y);
}

template void dropout(Cuda, Index, const float*, float*, double, Key, std::uint64_t);
template void dropout(Cuda, Index, const double*, double*, double, Key, std::uint64_t);

}  // namespace meft
