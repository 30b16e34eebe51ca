// Owns: random tensors, for initialisation.
#pragma once

#include <meft/backend/cpu/random.hpp>
#include <meft/tensor/tensor.hpp>

namespace meft {

/// Makes every element N(0, deviation²); element i depends on the key and i alone.
template <Real T, Backend B>
void fill_normal(Tensor<T, B>& x, Key key, double deviation) {
  fill_normal(B{}, x.size(), x.data(), key, deviation);
}

}  // namespace meft
