// Owns: the packed form of a frozen weight, a type of its own: it can be multiplied by and nothing else.
#pragma once

#include <concepts>

#include <meft/backend/blocks.hpp>
#include <meft/backend/kernels/panels.hpp>
#include <meft/tensor/math.hpp>
#include <meft/weights/made.hpp>

namespace meft {

/// A constant [out, in] matrix laid out once for x·Wᵀ and dy·W, in T, in bf16 (both operands are rounded to bf16, sums
/// are in T; half the bytes where T is float and there is AVX2 or a device, else kept in T), or in the blocks of a
/// format, which are decoded to bf16 on the way: bits are those of the decoded matrix in bf16. Copies share it. Empty
/// when default-made.
template <Real T, Backend B = Cpu>
class PackedWeight {
 public:
  using value_type = T;
  using backend = B;

  PackedWeight() = default;
  explicit PackedWeight(const Tensor<T, B>& w, Precision precision = Precision::f32, Where where = Where::current()) {
    require(w.rank() == 2, {"pack: a weight is a matrix [out, in]", where}, w);
    require(w.size() > 0, {"pack: a weight without elements", where}, w);
    const auto* format = weights::made_in(precision);
    if (!format) {
      panels_ = Panels<B, T>(w.data(), w.dim(0), w.dim(1), arithmetic(precision));
      shape_ = w.shape();
      return;
    }
    const auto host = w.host();
    *this = PackedWeight(Blocks::of(*format, host.data(), w.dim(0), w.dim(1), Cpu::pool()), precision);
  }
  /// A matrix that stays in its blocks.
  explicit PackedWeight(const Blocks& blocks, Precision precision = Precision::as_stored)
      : panels_(blocks, precision), shape_{blocks.out, blocks.in} {}

  bool defined() const { return shape_.rank() == 2; }
  const Shape& shape() const { return shape_; }
  Index size() const { return defined() ? shape_.size() : 0; }
  /// Of memory that it owns, and of files that it is mapped from.
  std::size_t bytes() const { return panels_.bytes(); }
  std::size_t mapped_bytes() const {
    if constexpr (B::on_host) return panels_.blocks().mapped() ? panels_.blocks().bytes() : 0;
    else return 0;
  }
  Precision precision() const { return panels_.precision(); }

  /// Whether products read their left side rounded to bf16, and tensors keep it so.
  bool rounds() const {
    if constexpr (Tensor<T, B>::rounds) return precision() != Precision::f32;
    else return false;
  }
  /// y [.., out] = x [.., in]·Wᵀ + bias, or an empty one.
  void forward(const Tensor<T, B>& x, const Tensor<T, B>& bias, Tensor<T, B>& y) const {
    panels_.forward(with(x, product(y.size() / shape_[0], nullptr, bias.data(), y.data())));
  }
  /// Of a device, y and dz rounded alone: y = that; y = f of that, and what f was given in `before`, null where its
  /// derivative does not read it; dz = (dy·W)·f' from what f was given, or from its result, as the derivative reads
  /// them. False, with nothing done, where no kernel is.
  bool forward_rounded(const Tensor<T, B>& x, const Tensor<T, B>& bias, Tensor<T, B>& y) const {
    return panels_.forward_rounded(with(x, to(y, product(y.size() / shape_[0], nullptr, bias.data(), nullptr))));
  }
  bool activated(Activation f, const Tensor<T, B>& x, const Tensor<T, B>& bias, T* before, Tensor<T, B>& y) const {
    return panels_.activated(f, with(x, to(y, product(y.size() / shape_[0], nullptr, bias.data(), nullptr))), before);
  }
  bool slope(Activation f, const Tensor<T, B>& dy, const void* kept, Tensor<T, B>& dz) const {
    return panels_.slope(f, with(dy, back(dy, dz)), kept);
  }
  /// y = f of that, as the other forward_activated.
  bool forward_activated(Activation f, const Tensor<T, B>& x, const Tensor<T, B>& bias, T* before,
                         Tensor<T, B>& y) const {
    return panels_.forward_activated(f, with(x, product(y.size() / shape_[0], nullptr, bias.data(), y.data())), before);
  }
  /// dx [.., in] = dy [.., out]·W, added to what dx holds where `adds`.
  void backward(const Tensor<T, B>& dy, Tensor<T, B>& dx, bool adds = false) const {
    auto p = back(dy, dx);
    if (adds) p.start = Start::accumulate;
    panels_.backward(with(dy, p));
  }

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

  /// Of a host: whether there are products that take a left side rounded, and that end in an activation or its slope.
  bool fuses() const {
    if constexpr (B::on_host && std::same_as<T, float>) return panels_.fuses();
    else return false;
  }
  /// These: y = x·Wᵀ + bias, dx = dy·W; x·Wᵀ + bias, and dy·W, become what the ends say, in their order.
  void forward(Index rows, const bf16* x, const T* bias, T* y) const requires B::on_host {
    panels_.forward(rounded(product(rows, nullptr, bias, y), x));
  }
  void backward(Index rows, const bf16* dy, T* dx) const requires B::on_host {
    panels_.backward(rounded({rows, shape_[1], shape_[0], {nullptr, shape_[0], 1}, dx, shape_[1]}, dy));
  }
  template <class... E>
  void forward_ended(Index rows, const T* x, const T* bias, const E&... ends) const requires B::on_host {
    panels_.forward_ended(product(rows, x, bias, nullptr), ends...);
  }
  template <class... E>
  void backward_ended(Index rows, const T* dy, const E&... ends) const requires B::on_host {
    panels_.backward_ended({rows, shape_[1], shape_[0], {dy, shape_[0], 1}, nullptr, shape_[1]}, ends...);
  }

  /// dw [out, in] = dyᵀ·x of dy[rows, out], x[rows, in], in the arithmetic of W, whose values do not matter. Of a host.
  void gradient(Index rows, const T* dy, const T* x, T* dw) const requires B::on_host {
    panels_.gradient(rows, dy, x, dw);
  }
  /// The same of x rounded, where it fuses.
  void gradient(Index rows, const T* dy, const bf16* x, T* dw) const requires B::on_host {
    panels_.gradient(rows, dy, x, dw);
  }

  /// Elements `indices` [k] of W in row-major order become `values` [k], as W is kept; without indices all of them.
  /// Copies see it too. Errors: W is kept in blocks.
  void write(const Tensor<std::int32_t, B>& indices, const Tensor<T, B>& values) const {
    panels_.write(values.size(), indices.defined() ? indices.data() : nullptr, values.data());
  }

  Tensor<T, B> unpack() const {
    Tensor<T, B> out(shape_);
    panels_.unpack(out.data());
    return out;
  }
  /// Rows of W by their numbers, as it is kept. numbers [n] → [n, in]
  Tensor<T, B> rows(const Tensor<std::int32_t, B>& numbers) const {
    Tensor<T, B> out({numbers.size(), shape_[1]});
    panels_.rows(numbers.size(), numbers.data(), out.data());
    return out;
  }

 private:
  /// A product with its left side.
  Product<T> with(const Tensor<T, B>& x, Product<T> p) const {
    if constexpr (Tensor<T, B>::rounds)
      if (rounds()) {
        p.rounded = x.rounded();
        return p;
      }
    p.a.data = x.data();
    return p;
  }
  /// A product with its result, as it is to be handed on.
  static Product<T> to(Tensor<T, B>& y, Product<T> p) {
    p.c = y.fill_full();
    if (!p.c) p.rounded_c = y.fill_rounded(Hand::rounded);
    return p;
  }
  /// dy·W, without dy.
  Product<T> back(const Tensor<T, B>& dy, Tensor<T, B>& dx) const {
    return to(dx, {dy.size() / shape_[0], shape_[1], shape_[0], {nullptr, shape_[0], 1}, nullptr, shape_[1]});
  }
  static Product<T> rounded(Product<T> p, const bf16* x) {
    p.rounded = x;
    return p;
  }
  Product<T> product(Index rows, const T* x, const T* bias, T* y) const {
    return {rows, shape_[0], shape_[1], {x, shape_[1], 1}, y, shape_[0], bias ? Start::bias : Start::zero, bias};
  }

  Panels<B, T> panels_;
  Shape shape_;
};

}  // namespace meft
