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

/// Whether cuDNN of a version is seen to have kernels for an architecture (80, 90, …) that are worth it: that plan all
/// of these graphs, with the matrix instructions of the architecture. From 9.19 on it plans them for 8.0 and later, but
/// 9.19 by kernels for 8.0 everywhere (`native_sm80`, HMMA), which reach about .6 of the peak of 9.0 (arXiv
/// 2402.13499); 9.26 has those of 9.0 (`native_sm90`, HGMMA), as cuBLASLt has. What is between them was not seen.
constexpr bool worth(std::size_t version, int architecture) {
  return architecture >= 80 && version >= (architecture < 90 ? 91900 : 92600);
}

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
