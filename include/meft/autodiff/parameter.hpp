// Owns: the parameter, a value that training changes, with its gradient.
#pragma once

#include <memory>
#include <utility>

#include <meft/autodiff/tape.hpp>
#include <meft/base/parallel.hpp>
#include <meft/tensor/random.hpp>

namespace meft {

namespace detail {
/// Which of several draws a thread reads perturbed parameters with, and times what: see SampleScope.
struct Sample {
  std::uint64_t number = 0;
  double factor = 1;
  bool one_of_several = false;

  static Sample& current() {
    thread_local Sample sample;
    return sample;
  }
};

}  // namespace detail

/// The seed of draw `number` of several with one key; the first is the key's own.
inline std::uint64_t sample_seed(std::uint64_t seed, std::uint64_t number) { return number ? mix(seed, number) : seed; }

/// While it lives, this thread reads perturbed parameters with draw `number` of their noise, times `factor`. What it
/// reads them for runs in place, on this thread.
class SampleScope {
 public:
  SampleScope(std::uint64_t number, double factor)
      : before_(std::exchange(detail::Sample::current(), {number, factor, true})) {}
  ~SampleScope() { detail::Sample::current() = before_; }
  /// Whether this thread is in one.
  static bool active() { return detail::Sample::current().one_of_several; }
  SampleScope(const SampleScope&) = delete;
  SampleScope& operator=(const SampleScope&) = delete;

 private:
  detail::Sample before_;
  InPlace in_place_;
};

/// A handle: copies are the same parameter, so a module may be copied or moved without losing its gradient. What was
/// moved from is a copy too.
template <Real T, Backend B = Cpu>
class Parameter {
 public:
  using value_type = T;
  using backend = B;

  Parameter() : stored_(std::make_shared<detail::Stored<T, B>>()) {}
  explicit Parameter(Tensor<T, B> value) : Parameter() { stored_->value = std::move(value); }
  Parameter(const Parameter&) = default;
  Parameter& operator=(const Parameter&) = default;

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
  /// Whether losses say how it changes, gradients never: tapes take it for a constant.
  bool probed() const { return stored_->probed; }
  void set_probed(bool on) {
    stored_->probed = on;
    if (on) set_trainable(false);
  }
  /// What AdamW's learning rate is multiplied by for it.
  double rate_factor() const { return stored_->rate; }
  void set_rate_factor(double factor) {
    require(factor >= 0, "set_rate_factor: expected a factor of at least 0, found", factor);
    stored_->rate = factor;
  }
  /// Which rows of a larger table the value has, if not all: their noise is that of the rows there. [n]
  Tensor<std::int32_t, B>& numbers() { return stored_->numbers; }
  const Tensor<std::int32_t, B>& numbers() const { return stored_->numbers; }
  /// What decay takes the value to, where that is not zero: it then decays whatever its axes.
  Tensor<T, B>& anchor() { return stored_->anchor; }
  const Tensor<T, B>& anchor() const { return stored_->anchor; }
  /// Makes the gradient zero, allocating it when needed, so that it lives before a step is measured; anew where the
  /// value has another shape since.
  void zero_gradient(Where where = Where::current()) {
    require(defined(), {"zero_gradient: the parameter is empty", where});
    const UseScope use(Use::gradient);
    if (!stored_->gradient.defined() || !(stored_->gradient.shape() == shape()))
      stored_->gradient = Tensor<T, B>(shape());
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
    add_noise(B{}, rows.size(), y.shape().inner(0), rows.data(), 0, noise(), 1, scale(), std::as_const(y).data(),
              y.data());
  }

  /// As an operand: a leaf of the current tape when it is trainable, a constant otherwise.
  Var<T, B> variable() const {
    if (perturbed()) [[unlikely]]
      return perturbed_whole();
    return stored_->trainable && defined() ? Tape::parameter(stored_) : Var<T, B>(stored_->value);
  }

 private:
  [[gnu::cold, gnu::noinline]] Tensor<T, B> perturbed_rows(Index begin, Index end) const {
    return perturbed_of(std::as_const(stored_->value), begin, end);
  }
  [[gnu::cold, gnu::noinline]] Tensor<T, B> perturbed_whole() const {
    const auto& whole = std::as_const(stored_->value);
    if (shape().rank() == 0) return perturbed_of(whole.reshape(Shape{1}), 0, 1).reshape(Shape{});
    return perturbed_of(whole, 0, shape()[0]);
  }
  Tensor<T, B> perturbed_of(const Tensor<T, B>& x, Index begin, Index end) const {
    require(!Tape::current(), "a perturbed parameter was read while a tape records: it has no gradient", shape());
    return meft::perturbed(x, begin, end, noise(), scale());
  }
  [[gnu::cold, gnu::noinline]] Key noise() const {
    return {sample_seed(stored_->noise.seed, detail::Sample::current().number), stored_->noise.site,
            stored_->noise.step};
  }
  [[gnu::cold, gnu::noinline]] double scale() const { return stored_->scale * detail::Sample::current().factor; }

  std::shared_ptr<detail::Stored<T, B>> stored_;
};

}  // namespace meft
