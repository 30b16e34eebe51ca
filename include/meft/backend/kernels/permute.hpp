// Owns: the interface of kernels that move elements to another layout.
#pragma once

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// y[i₀, i₁ …] = x with its axes in `order`; `from` is x's shape.
template <Backend B, Scalar T>
void permute(B, const Shape& from, const AxisOrder& order, const T* x, T* y);

/// `rows` runs of `width` elements, from every `from_step`-th place to every `to_step`-th.
template <Backend B, Scalar T>
void copy_rows(B, Index rows, Index width, const T* from, Index from_step, T* to, Index to_step);

}  // namespace meft
