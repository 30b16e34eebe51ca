// Owns: AdamW with decoupled decay and clipping by the global norm.
// Loshchilov, Hutter, arXiv 1711.05101, algorithm 2; Kingma, Ba, arXiv 1412.6980.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/cpu/optimize.hpp>
#include <meft/nn/module.hpp>

namespace meft::optim {

template <Real T, Backend B>
class State;

/// The options. Decay leaves out what has one axis: biases and norms. `clip` 0 is off.
struct AdamW {
  double rate = 5e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0, clip = 0;

  /// An optimizer of every trained parameter below the modules; a parameter reached twice counts once. Gradients and
  /// moments are allocated here.
  template <Real T = float, Backend B = Cpu, class... Modules>
  State<T, B> over(Modules&... modules) const {
    State<T, B> state(*this);
    (state.add(modules), ...);
    return state;
  }
};

template <Real T, Backend B>
class State {
 public:
  explicit State(const AdamW& options, Where where = Where::current()) : options_(options) {
    require(options.rate >= 0 && options.epsilon > 0 && options.decay >= 0 && options.clip >= 0,
            {"adamw: rate, decay and clip are not negative, epsilon is positive", where}, options.rate, options.epsilon,
            options.decay, options.clip);
    require(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1,
            {"adamw: the betas are in [0, 1)", where}, options.beta1, options.beta2);
  }

  template <class Module>
  void add(Module& module) {
    add(nn::trainable<T, B>(module));
  }
  void add(nn::Named<T, B> parameters) {
    for (auto& [name, parameter] : parameters) {
      const T* data = std::as_const(parameter).value().data();
      if (std::any_of(slots_.begin(), slots_.end(),
                      [&](const Slot& s) { return std::as_const(s.parameter).value().data() == data; }))
        continue;
      parameter.zero_gradient();
      const UseScope use(Use::optimizer);
      slots_.push_back(
          {name, parameter, Tensor<T, B>::zeros(parameter.shape()), Tensor<T, B>::zeros(parameter.shape())});
    }
  }

  /// One step from the accumulated gradients divided by `weight`, the sum of what they were multiplied by, at rate ·
  /// factor; gradients become zero. Gives the norm of that mean before clipping; throws, changing nothing, when it is
  /// not finite.
  double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) {
    const auto all = described();
    const auto count = static_cast<Index>(all.size());
    const double total = sum_squares(B{}, count, all.data());
    const double norm = std::sqrt(total) / weight;
    if (!std::isfinite(norm)) throw NumberError("adamw: a gradient is not finite: " + culprit(all), where);
    ++steps_;
    const double clipped = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1.0,
                 t = static_cast<double>(steps_);
    adamw(B{}, count, all.data(),
          AdamWStep{options_.rate * factor, options_.beta1, options_.beta2, options_.epsilon, options_.decay,
                    1 - std::pow(options_.beta1, t), 1 - std::pow(options_.beta2, t), clipped / weight});
    return norm;
  }

  void zero_gradients() {
    for (auto& s : slots_) s.parameter.zero_gradient();
  }

  /// f(name, tensor) for every parameter and its two moments (`name.m`, `name.v`), in a fixed order: saving, restoring.
  template <class F>
  void for_each_state(const F& f) {
    for (auto& s : slots_) {
      f(s.name, s.parameter.value());
      f(s.name + ".m", s.first);
      f(s.name + ".v", s.second);
    }
  }

  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }
  const AdamW& options() const { return options_; }
  Index parameters() const {
    Index n = 0;
    for (const auto& s : slots_) n += s.parameter.size();
    return n;
  }

 private:
  struct Slot {
    std::string name;
    Parameter<T, B> parameter;
    Tensor<T, B> first, second;
  };

  std::vector<AdamWSlot<T>> described() {
    std::vector<AdamWSlot<T>> out;
    for (auto& s : slots_)
      out.push_back({s.parameter.size(), s.parameter.gradient().data(), s.parameter.value().data(), s.first.data(),
                     s.second.data(), s.parameter.shape().rank() > 1});
    return out;
  }

  std::string culprit(const std::vector<AdamWSlot<T>>& all) const {
    for (std::size_t i = 0; i < all.size(); ++i)
      if (!std::isfinite(sum_squares(B{}, 1, &all[i]))) return slots_[i].name;
    return "their sum";
  }

  AdamW options_;
  std::vector<Slot> slots_;
  std::int64_t steps_ = 0;
};

}  // namespace meft::optim
