// Owns: x + dropped t for packs of elements.
#pragma once

#include <meft/backend/keep.hpp>
#include <moving_key.cuh>
#include <row.cuh>

namespace meft::cuda {

/// Dropout with the masks of the CPU: element i is number first + i of the key's random bits.
template <class T>
struct Dropped {
  Dropped(double p, Key k, std::uint64_t f) : keep(p), moving(k), first(f), whole(p == 0) {}

  /// Dropped t; the pack's first element is number i.
  __device__ Pack<T> of(const Pack<T>& t, Index i) const {
    if (whole) return t;
    Pack<T> out;
    const Key key = moving.now();
    const std::uint64_t element = first + static_cast<std::uint64_t>(i);
    auto words = philox(key, element / 4);
    for (int k = 0; k < Pack<T>::width; ++k) {
      const std::uint64_t e = element + static_cast<std::uint64_t>(k);
      if (k && e % 4 == 0) words = philox(key, e / 4);
      out.at[k] = keep(t.at[k], words[static_cast<std::size_t>(e % 4)]);
    }
    return out;
  }
  /// x + dropped t, or x + (also + dropped t), of the packs at i of rows whose first element is number `start`.
  __device__ Pack<T> add(const Line& line, const T* x, const T* t, const T* also, Index start, Index i) const {
    Pack<T> out = of(line.read(t, i), start + i);
    if (also) out = sum(line.read(also, i), out);
    return sum(line.read(x, i), out);
  }

  __device__ static Pack<T> sum(const Pack<T>& a, const Pack<T>& b) {
    Pack<T> out;
    for (int k = 0; k < Pack<T>::width; ++k) out.at[k] = a.at[k] + b.at[k];
    return out;
  }

  Keep<T> keep;
  MovingKey moving;
  std::uint64_t first;
  bool whole;
};

}  // namespace meft::cuda
