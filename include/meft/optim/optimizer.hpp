// Owns: what an optimizer is: an aggregate of options, and its state over parameters, the type of which is erased.
// Must not know: the optimizers.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/function_ref.hpp>
#include <meft/nn/module.hpp>

namespace meft::optim {

/// What an optimizer may have done with a batch.
struct Pass {
  FunctionRef<double()> loss;                    // without dropout, recorded nowhere
  FunctionRef<double(double weight)> gradients;  // the loss, its gradients times the weight added to the parameters'
};

/// Parameters with what an optimizer keeps of them. A step takes in what batches gave since the one before: gradients,
/// which a backward pass adds to the parameters', or what it measures itself, where it `probes`.
template <Real T, Backend B>
class State {
 public:
  virtual ~State() = default;

  /// Takes the trained parameters below a module; one that was taken before counts once. Where a name was taken before,
  /// it gets the first free number in front: `weight`, `1.weight`. Throws where two parameters share their elements.
  template <class Module>
  void add(Module& module) {
    add(nn::trainable<T, B>(module));
  }
  void add(nn::Named<T, B> parameters) {
    for (auto& one : parameters) {
      const auto& value = std::as_const(one.second).value();
      bool before = false;
      for (const auto& [name, other] : parameters_) {
        before = before || &other.value() == &value;
        if (!before && value.size() > 0 && other.value().data() == value.data())
          fail("optimizer: expected copies of one parameter, found two of one tensor: `" + name + "` and `" +
               one.first + '`');
      }
      if (before) continue;
      const std::string name = one.first;
      const auto taken = [&](const auto& other) { return other.first == one.first; };
      for (int i = 1; std::any_of(parameters_.begin(), parameters_.end(), taken); ++i)
        one.first = std::to_string(i) + '.' + name;
      parameters_.push_back(std::move(one));
      keep(parameters_.back().second);
    }
  }

  /// One step from what batches gave, divided by `weight`, the sum of what they were multiplied by, at rate · factor;
  /// then that is forgotten: gradients are zero. Gives the norm of that mean before clipping; throws, changing nothing,
  /// when it is not finite, a factor is less than 0, or a weight is not more than 0.
  virtual double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) = 0;
  /// Forgets what batches gave.
  virtual void zero_gradients() = 0;

  /// Whether it measures each batch itself, in place of a backward pass. Gives the batch's loss; it counts `weight`
  /// times, and is of the `part`-th of the sets that a step takes batches of.
  virtual bool probes() const { return false; }
  virtual double measure(const Pass&, double /*weight*/, int /*part*/) { return 0; }

  /// f(name, tensor) for all that a resumed run needs, parameters included, in a fixed order: saving, restoring. What
  /// f writes is taken over.
  template <class F>
  void for_each_state(const F& f) {
    visit(Visitor(f));
  }

  /// Goes on over these parameters: with what is kept of those that it had, by name, but those in `anew`, of which it
  /// is made anew. Throws where it cannot.
  virtual void follow(nn::Named<T, B>, const std::vector<std::string>& /*anew*/, Where where = Where::current()) {
    fail({"optimizer: what trains cannot change in the course of a run", where});
  }
  /// What is kept of these was made anew when so many steps were done.
  virtual void made_at(const std::vector<std::string>& /*anew*/, std::int64_t /*steps*/) {}

  /// After what for_each_state names was read from a file.
  virtual void restored() {}

  /// The most steps that a state of so many bytes is of.
  virtual std::size_t steps_in(std::size_t /*bytes*/) const { return SIZE_MAX; }

  std::int64_t steps() const { return steps_; }
  /// Sets how many were done; before a state of so many is restored.
  virtual void set_steps(std::int64_t steps) { steps_ = steps; }

  /// The number of trained elements.
  Index parameters() const {
    Index n = 0;
    for (const auto& one : parameters_) n += one.second.size();
    return n;
  }

 protected:
  using Visitor = FunctionRef<void(const std::string&, Tensor<T, B>&)>;

  State() = default;
  State(State&&) noexcept = default;
  State& operator=(State&&) noexcept = default;

  static void check_step(double factor, double weight, Where where) {
    require(std::isfinite(factor) && factor >= 0, {"step: expected a finite factor of at least 0, found", where},
            factor);
    require(std::isfinite(weight) && weight > 0, {"step: expected a finite weight above 0, found", where}, weight);
  }

  nn::Named<T, B> parameters_;
  std::int64_t steps_ = 0;

 private:
  /// Makes what is kept of one more parameter.
  virtual void keep(Parameter<T, B>& parameter) = 0;
  virtual void visit(Visitor f) = 0;
};

/// An optimizer: `rate` is its learning rate, `kept` the numbers of its own for each that trains by gradients,
/// `over<T, B>(modules…)` its state over the trained parameters below modules.
template <class O>
concept Optimizer = std::copyable<O> && requires(const O& o, nn::Named<float, Cpu>& parameters) {
  { o.rate } -> std::convertible_to<double>;
  { o.kept } -> std::convertible_to<Index>;
  { o.template over<float, Cpu>(parameters) } -> std::derived_from<State<float, Cpu>>;
};

}  // namespace meft::optim
