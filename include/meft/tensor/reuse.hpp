// Owns: giving a gradient's memory to the gradient that is made from it.
#pragma once

#include <meft/tensor/tensor.hpp>

namespace meft {

/// `dy` itself when no other handle sees its elements, else a new tensor of its shape: where an op that works element
/// by element, or row by row, may put dx.
template <Scalar T, Backend B>
Tensor<T, B> overwrite(const Tensor<T, B>& dy) {
  return dy.unique() ? dy : Tensor<T, B>(dy.shape());
}

}  // namespace meft
