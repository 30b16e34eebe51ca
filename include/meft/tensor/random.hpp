// Owns: random tensors, for initialisation, and tensors with noise.
#pragma once

#include <algorithm>

#include <meft/backend/cpu/random.hpp>
#include <meft/backend/kernels/random.hpp>
#include <meft/tensor/tensor.hpp>

namespace meft {

/// Makes every element N(0, deviation²); element i depends on the key and i alone.
template <Real T, Backend B>
void fill_normal(Tensor<T, B>& x, Key key, double deviation) {
  fill_normal(B{}, x.size(), x.data(), key, deviation);
}

/// x + scale·z for rows [begin, end) of x's first axis, z the normal_float of each element of x.
template <Real T, Backend B>
Tensor<T, B> perturbed(const Tensor<T, B>& x, Index begin, Index end, Key key, double scale) {
  const auto from = x.rows(begin, end);
  Tensor<T, B> out(from.shape());
  const Index width = out.size() / std::max<Index>(1, end - begin);
  add_noise(B{}, end - begin, width, nullptr, begin, key, 1, scale, from.data(), out.data());
  return out;
}

}  // namespace meft
