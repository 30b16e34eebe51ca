// Owns: the constant right operand of products on CUDA, in float or bf16: it is kept row-major, for cuBLASLt packs as
// it goes.
#pragma once

#include <cstdint>
#include <optional>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

/// A constant matrix W[out, in]; the interface of the CPU's Panels. bf16: both operands are rounded, sums are in float.
template <Real T>
class CudaPanels {
 public:
  CudaPanels() = default;
  CudaPanels(const T* w, Index out, Index in, Precision precision);

  Precision precision() const { return precision_; }
  std::size_t bytes() const { return buffer_.capacity(); }

  /// C[rows, out] = start + A[rows, in]·Wᵀ.
  void forward(const Product<T>& p) const;
  /// C = f(start + A·Wᵀ), as gemm_activated.
  bool forward_activated(Activation f, const Product<T>& p, T* before) const;
  /// C[rows, in] = start + A[rows, out]·W.
  void backward(const Product<T>& p) const;
  /// The matrix as it is kept, row-major.
  void unpack(T* w) const;

 private:
  using Then = std::optional<Activation>;
  bool multiply(const Product<T>& p, Index row, Index column, Then f = {}, T* before = nullptr) const;

  Buffer buffer_;
  Index out_ = 0, in_ = 0;
  Precision precision_ = Precision::f32;
};

template <Real T>
CudaPanels<T> pack(Cuda, const T* w, Index out, Index in, Precision precision) {
  return CudaPanels<T>(w, out, in, precision);
}

}  // namespace meft
