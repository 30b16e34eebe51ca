// Owns: how a matrix product is described to any backend.
#pragma once

#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>
#include <meft/weights/precision.hpp>

namespace meft {

/// A matrix with any strides: element (i, j) at data[i * row + j * column].
template <class T>
struct Strided {
  const T* data;
  Index row, column;
  Strided at(Index i, Index j) const { return {data + i * row + j * column, row, column}; }
};

enum class Activation;  // base/functor.hpp

/// Where a product starts: from zero, from a bias row, or from what C holds.
enum class Start { zero, bias, accumulate };

/// The left side, destination and start of C[rows, columns] = start + A[rows, depth] · B. `bias` has one element a
/// column. In a batch so many matrices A follow each other in memory, and so do B and C. Products in bf16
/// take A rounded, without gaps between its rows, where it is given so; those of a device give C rounded, not added to
/// anything, where that is asked for.
template <class T>
struct Product {
  Index rows, columns, depth;
  Strided<T> a;
  T* c;
  Index ldc;
  Start start = Start::zero;
  const T* bias = nullptr;
  Index batch = 1;
  const bf16* rounded = nullptr;  // A, in place of a.data
  bf16* rounded_c = nullptr;      // in place of c
};

/// What elements c of a host's product become where they are made: f(c, in[0], … in[N - 1]) with those at the same
/// place, in `full`, which may be one of `in`, and rounded, each where it is not null.
template <class F, class T, int N>
struct Ended {
  F f;
  T* full;
  bf16* rounded;
  const T* in[N ? N : 1];
};
template <class F, class T, class... In>
Ended<F, T, static_cast<int>(sizeof...(In))> ended(const F& f, T* full, bf16* rounded, const In*... in) {
  return {f, full, rounded, {in...}};
}

}  // namespace meft
