// Owns: the parameter, a value that training changes, with its gradient.
#pragma once

#include <memory>
#include <utility>

#include <meft/autodiff/tape.hpp>
#include <meft/tensor/random.hpp>

namespace meft {

/// A handle: copies are the same parameter, so a module may be copied or moved without losing its gradient.
template <Real T, Backend B = Cpu>
class Parameter {
 public:
  using value_type = T;
  using backend = B;

  Parameter() : stored_(std::make_shared<detail::Stored<T, B>>()) {}
  explicit Parameter(Tensor<T, B> value) : Parameter() { stored_->value = std::move(value); }

  /// Uninitialised, counted as parameter memory.
  static Parameter empty(const Shape& shape) {
    const UseScope use(Use::parameter);
    return Parameter(Tensor<T, B>(shape));
  }
  static Parameter zeros(const Shape& shape) {
    const UseScope use(Use::parameter);
    return Parameter(Tensor<T, B>::zeros(shape));
  }
  static Parameter ones(const Shape& shape) {
    const UseScope use(Use::parameter);
    return Parameter(Tensor<T, B>::full(shape, T(1)));
  }

  Tensor<T, B>& value() { return stored_->value; }
  const Tensor<T, B>& value() const { return stored_->value; }
  Tensor<T, B>& gradient() { return stored_->gradient; }
  const Tensor<T, B>& gradient() const { return stored_->gradient; }
  const Shape& shape() const { return stored_->value.shape(); }
  Index size() const { return stored_->value.size(); }
  bool defined() const { return stored_->value.defined(); }
  bool trainable() const { return stored_->trainable; }
  void set_trainable(bool on) {
    stored_->trainable = on;
    if (!on) stored_->gradient = {};
  }
  /// Makes the gradient zero, allocating it when needed, so that it lives before a step is measured.
  void zero_gradient(Where where = Where::current()) {
    require(defined(), {"zero_gradient: the parameter is empty", where});
    const UseScope use(Use::gradient);
    if (!stored_->gradient.defined()) stored_->gradient = Tensor<T, B>(shape());
    stored_->gradient.zero();
  }

  /// With scale ≠ 0 ops read it as value + scale·z, z the standard normals of the key by element: a copy is made for
  /// the op, of large ones a few rows at a time. The value stays as it is; gradients have no place.
  void perturb(Key key, double scale) {
    stored_->noise = key;
    stored_->scale = scale;
  }
  bool perturbed() const { return stored_->scale != 0; }
  /// Rows [begin, end) of the first axis as ops read them; sharing elements unless perturbed.
  Tensor<T, B> read_rows(Index begin, Index end) const {
    return perturbed() ? perturbed_rows(begin, end) : std::as_const(stored_->value).rows(begin, end);
  }
  /// Adds the noise of row rows[i] of the first axis to row i of y.
  void perturb_rows(const Tensor<std::int32_t, B>& rows, Tensor<T, B>& y) const {
    add_noise(B{}, rows.size(), y.shape().inner(0), rows.data(), 0, stored_->noise, 1, stored_->scale,
              std::as_const(y).data(), y.data());
  }

  /// As an operand: a leaf of the current tape when it is trainable, a constant otherwise.
  Var<T, B> variable() const {
    if (perturbed()) [[unlikely]]
      return perturbed_rows(0, shape()[0]);
    return stored_->trainable && defined() ? Tape::parameter(stored_) : Var<T, B>(stored_->value);
  }

 private:
  [[gnu::cold, gnu::noinline]] Tensor<T, B> perturbed_rows(Index begin, Index end) const {
    require(!Tape::current(), "a perturbed parameter was read while a tape records: it has no gradient", shape());
    return meft::perturbed(std::as_const(stored_->value), begin, end, stored_->noise, stored_->scale);
  }

  std::shared_ptr<detail::Stored<T, B>> stored_;
};

}  // namespace meft
