// Owns: dropout with the masks of the CPU, alone and added: include/meft/backend/cuda/dropout.hpp, residual.hpp. A
// thread takes the four elements of
// one Philox block.
#include <dropped.cuh>

#include <meft/backend/cuda/dropout.hpp>
#include <meft/backend/cuda/residual.hpp>
#include <row.cuh>

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

template <class T>
__global__ void add_drop(Index n, bool packed, Dropped<T> dropped, const T* x, const T* t, T* y) {
  const Line line{n, packed};
  for (Index i = first() * Pack<T>::width; i < n; i += stride() * Pack<T>::width)
    line.write(y, i, dropped.add(line.read(x, i), line.read(t, i), i));
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

template <Real T>
void add_dropped(Cuda, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first) {
  if (n == 0) return;
  constexpr Index width = cuda::Pack<T>::width;
  cuda::launch(cuda::add_drop<T>, cuda::blocks((n + width - 1) / width), cuda::threads, 0, cuda::stream(), n,
               n % width == 0 && cuda::aligned(x, t, y), cuda::Dropped<T>(p, key, first), x, t, y);
}

template void dropout(Cuda, Index, const float*, float*, double, Key, std::uint64_t);
template void dropout(Cuda, Index, const double*, double*, double, Key, std::uint64_t);
template void add_dropped(Cuda, Index, const float*, const float*, float*, double, Key, std::uint64_t);
template void add_dropped(Cuda, Index, const double*, const double*, double*, double, Key, std::uint64_t);

}  // namespace meft
