// Owns: how a matrix product is described to any backend.
#pragma once

#include <meft/base/shape.hpp>

namespace meft {

/// A matrix with any strides: element (i, j) at data[i * row + j * column].
template <class T>
struct Strided {
  const T* data;
  Index row, column;
  Strided at(Index i, Index j) const { return {data + i * row + j * column, row, column}; }
};

/// Where a product starts: from zero, from a bias row, or from what C holds.
enum class Start { zero, bias, accumulate };

/// The left side, destination and start of C[rows, columns] = start + A[rows, depth] · B. `bias` has one element a
/// column.
template <class T>
struct Product {
  Index rows, columns, depth;
  Strided<T> a;
  T* c;
  Index ldc;
  Start start = Start::zero;
  const T* bias = nullptr;
};

}  // namespace meft
