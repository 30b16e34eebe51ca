// Owns: the parameter, a value that training changes, with its gradient.
#pragma once

#include <memory>
#include <utility>

#include <meft/autodiff/tape.hpp>

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

  /// As an operand: a leaf of the current tape when it is trainable, a constant otherwise.
  Var<T, B> variable() const {
    return stored_->trainable && defined() ? Tape::parameter(stored_) : Var<T, B>(stored_->value);
  }

 private:
  std::shared_ptr<detail::Stored<T, B>> stored_;
};

}  // namespace meft
