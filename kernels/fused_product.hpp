// Owns: products in bf16 and what is done to them before they are written, as graphs for cuDNN, which makes one kernel
// of each: sums, bias and activation stay in float, and a result is rounded once.
#pragma once

#include <cstdint>

#include <cudnn.hpp>

#include <meft/base/functor.hpp>
#include <meft/base/scalar.hpp>

namespace meft::cuda::fused {

/// What becomes of s = A·B + bias, which may be none: c = s; c = f(s), s beside it where f's derivative reads that;
/// c = s·f'.
enum class End { sum, activation, slope };

/// C[rows, columns], in bf16, of A[rows, depth] and B[depth, columns], which is `turned` where it lies [columns,
/// depth].
struct ProductShape {
  std::int64_t rows, columns, depth;
  bool turned, bias;
  End end;
  Activation f{};  // where there is one
  auto operator<=>(const ProductShape&) const = default;
};

/// The tensors of a graph that the caller gives, by the ids under which it does.
enum class ProductId : std::int64_t { a = 1, b, c, bias, before };

/// Whether f is among those that graphs are made with. Where its derivative reads its argument that is kept in float.
bool has(Activation f);

dnn::Graph product_graph(const ProductShape& shape);

/// What else a call gives: the bias; what f's derivative reads, to be written with an activation and to be read with a
/// slope: in float, or c itself.
struct ProductData {
  const bf16 *a, *b;
  bf16* c;
  const float* bias = nullptr;
  void* before = nullptr;
};

/// Enqueues it; false, with nothing done, where cuDNN has no plan for it.
bool multiply(const ProductShape& shape, const ProductData& data);

}  // namespace meft::cuda::fused
