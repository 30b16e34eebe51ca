// Owns: filling arrays with random numbers: include/meft/backend/cuda/random.hpp.
#include <meft/backend/cuda/random.hpp>
#include <meft/base/parallel.hpp>
#include <vector>

namespace meft {

template <Real T>
void fill_normal(Cuda, Index n, T* out, Key key, double deviation) {
  std::vector<T> host(static_cast<std::size_t>(n));
  parallel_chunks(n, 4096, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      host[static_cast<std::size_t>(i)] = static_cast<T>(deviation * normal(key, static_cast<std::uint64_t>(i)));
  });
  Cuda::upload(out, host.data(), host.size() * sizeof(T));
}

template void fill_normal(Cuda, Index, float*, Key, double);
template void fill_normal(Cuda, Index, double*, Key, double);

}  // namespace meft
