// Owns: the declarations of kernels on CUDA that move elements to another layout.
#pragma once

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// y[i₀, i₁ …] = x with its axes in `order`; `from` is x's shape.
template <Scalar T>
void permute(Cuda, const Shape& from, const AxisOrder& order, const T* x, T* y);
/// Rows of `width` elements, each `step` elements after the one before.
template <Scalar T>
void copy_rows(Cuda, Index rows, Index width, const T* from, Index from_step, T* to, Index to_step);
template <Scalar T>
void copy_columns(Cuda, Index rows, Index columns, const T* from, Index from_row, T* to, Index to_row) {
  copy_rows(Cuda{}, rows, columns, from, from_row, to, to_row);
}

}  // namespace meft
