// Owns: x + dropped t for packs of elements.
#pragma once

#include <meft/backend/keep.hpp>
#include <moving_key.cuh>
#include <row.cuh>

namespace meft::cuda {

/// Dropout with the masks of the CPU: element i is number first + i of the key's draws.
template <class T>
struct Dropped {
  Dropped(double p, Key k, std::uint64_t f) : keep(p), moving(k), first(f), whole(p == 0) {}

  /// Dropped t; the pack's first element is number i.
  __device__ Pack<T> of(const Pack<T>& t, Index i) const {
    if (whole) return t;
    Pack<T> out;
    const Key key = moving.now();
    const std::uint64_t element = first + static_cast<std::uint64_t>(i);
    auto block = dropout_block(key, element / dropout_block_size);
    for (int k = 0; k < Pack<T>::width; ++k) {
      const std::uint64_t e = element + static_cast<std::uint64_t>(k);
      const auto at = static_cast<unsigned>(e % dropout_block_size);
      if (k && at == 0) block = dropout_block(key, e / dropout_block_size);
      out.at[k] = keep(t.at[k], dropout_bits(block, at));
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
