// Owns: the packed form of a frozen weight, a type of its own: it can be multiplied by and nothing else.
#pragma once

#include <meft/backend/kernels/panels.hpp>
#include <meft/tensor/math.hpp>

namespace meft {

/// A constant [out, in] matrix laid out once for x·Wᵀ and dy·W, in T or in bf16 (half the bytes; both operands are
/// rounded to bf16, sums are in T). Copies share it. Empty when default-made.
template <Real T, Backend B = Cpu>
class PackedWeight {
 public:
  using value_type = T;
  using backend = B;

  PackedWeight() = default;
  explicit PackedWeight(const Tensor<T, B>& w, Precision precision = Precision::f32, Where where = Where::current()) {
    require(w.rank() == 2, {"pack: a weight is a matrix [out, in]", where}, w);
    require(w.size() > 0, {"pack: a weight without elements", where}, w);
    panels_ = Panels<B, T>(w.data(), w.dim(0), w.dim(1), precision);
    shape_ = w.shape();
  }

  bool defined() const { return shape_.rank() == 2; }
  const Shape& shape() const { return shape_; }
  std::size_t bytes() const { return panels_.bytes(); }
  Precision precision() const { return panels_.precision(); }

  /// y[rows, out] = x[rows, in]·Wᵀ (+ bias [out], or null).
  void forward(Index rows, const T* x, const T* bias, T* y) const { panels_.forward(product(rows, x, bias, y)); }
  /// y = f(x·Wᵀ + bias), as gemm_activated: false, with nothing done, where the backend leaves f to the caller.
  bool forward_activated(Activation f, Index rows, const T* x, const T* bias, T* before, T* y) const {
    return panels_.forward_activated(f, product(rows, x, bias, y), before);
  }
  /// dx[rows, in] = dy[rows, out]·W.
  void backward(Index rows, const T* dy, T* dx) const {
    panels_.backward({rows, shape_[1], shape_[0], {dy, shape_[0], 1}, dx, shape_[1]});
  }

  /// Elements `indices` [k] of W in row-major order become `values` [k], as W is kept; without indices all of them.
  /// Copies see it too.
  void write(const Tensor<std::int32_t, B>& indices, const Tensor<T, B>& values) const {
    panels_.write(values.size(), indices.defined() ? indices.data() : nullptr, values.data());
  }

  Tensor<T, B> unpack() const {
    Tensor<T, B> out(shape_);
    panels_.unpack(out.data());
    return out;
  }

 private:
  Product<T> product(Index rows, const T* x, const T* bias, T* y) const {
    return {rows, shape_[0], shape_[1], {x, shape_[1], 1}, y, shape_[0], bias ? Start::bias : Start::zero, bias};
  }

  Panels<B, T> panels_;
  Shape shape_;
};

}  // namespace meft
