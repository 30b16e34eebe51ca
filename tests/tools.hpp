// Owns: what several tests need.
#pragma once

#include <vector>

#include <meft/base/random.hpp>
#include <meft/tensor/tensor.hpp>

#include "messages.hpp"

namespace meft::test {

/// Uniform elements in [low, high): element i depends on the seed and i alone.
template <class T, Backend B = Cpu>
Tensor<T, B> random_tensor(const Shape& shape, std::uint64_t seed, double low = -2, double high = 2) {
  std::vector<T> out;
  for (Index i = 0; i < shape.size(); ++i) {
    const double u = uniform(random_bits({.seed = seed}, static_cast<std::uint64_t>(i)));
    out.push_back(static_cast<T>(low + (high - low) * u));
  }
  return Tensor<T, B>::from(shape, out);
}

/// Bytes that the pool gives for a small tensor of four-byte elements.
inline std::size_t block(Index elements) { return (static_cast<std::size_t>(elements) * 4 + 63) / 64 * 64; }

}  // namespace meft::test
