// Owns: descent on two levels: θ by losses alone, and a small module in two copies, p and s, by gradients:
// min over θ, p, max over s of Φ = F(θ, p; D_f) + λ·(F(θ, p; D_p) − F(θ, s; D_p)). `inner` Adam steps on s for
// F(θ, s; D_p), then an outer one: Adam on p for F(θ, p; D_f) + λ·F(θ, p; D_p), and θ ← θ − rate·g·z with
// g = (Φ(θ + εz) − Φ(θ − εz))/2ε. Bilevel ZOFO, arXiv 2502.03604, there with one-sided differences.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/kernels/optimize.hpp>
#include <meft/optim/spsa.hpp>

namespace meft::optim {

template <Real T, Backend B>
class BilevelState;

/// The options. `rate` is θ's, of the parameters that are `probed`; `module_rate` that of all others, p and s.
/// In float a difference of two losses puts g off by about 3e-5 at ε = 1e-3, and λ·(F(θ, p) − F(θ, s)) by √2·λ times
/// that (MiniLM on SST-2, where g is about 2): 5e-4 at λ = 10, .05 at 1000. Half of it is the forward passes' own:
/// losses by example in double would leave that.
struct Bilevel {
  static constexpr Index kept = 6;  // of the module: gradients and two moments of p and of its copy

  double rate = 1e-6, module_rate = 1e-3, epsilon = 1e-3, lambda = 10;
  std::int64_t inner = 30;
  std::uint64_t seed = 0;

  /// An optimizer of every parameter below the modules that training changes, or of Named ones.
  template <Real T = float, Backend B = Cpu, class... Modules>
  BilevelState<T, B> over(Modules&... modules) const {
    BilevelState<T, B> state(*this);
    (state.add(modules), ...);
    return state;
  }
};

/// A step takes a batch of D_p, part 0, and an outer one also one of D_f, part 1. Between steps the parameters are p.
template <Real T, Backend B>
class BilevelState final : public State<T, B> {
 public:
  explicit BilevelState(const Bilevel& options, Where where = Where::current())
      : options_(options), theta_(Spsa{.rate = options.rate, .epsilon = options.epsilon, .seed = options.seed}, where) {
    require(std::isfinite(options.module_rate + options.lambda) && options.module_rate >= 0 && options.lambda >= 0 &&
                options.inner >= 0,
            {"bilevel: the module's rate, lambda and the number of inner steps are finite and not negative", where},
            options.module_rate, options.lambda, options.inner);
  }

  bool probes() const override { return true; }

  double measure(const Pass& pass, double, int part) override {
    if (inner()) {
      const Swapped lower(*this);
      return pass.gradients(1);
    }
    const auto difference = [&] {
      struct AsTheyAre {
        SpsaState<T, B>& theta;
        ~AsTheyAre() { theta.probe(0); }
      } end{theta_};
      theta_.probe(1);
      const double up = pass.loss();
      theta_.probe(-1);
      return up - pass.loss();
    };
    const double loss = pass.gradients(part == 0 ? options_.lambda : 1);
    double changes = difference();
    if (part == 0) {
      const Swapped lower(*this);
      changes = options_.lambda * (changes - difference());
    }
    theta_.take(changes, 0, 1);
    return loss;
  }

  double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) override {
    this->check_step(factor, weight, where);
    const bool lower = inner();
    if (!lower) {
      (void)theta_.norm(factor, 1.0, where);
      const double norm = adam(&Copy::upper, this->steps_ / cycle() + 1, factor, where);
      (void)theta_.step(factor, 1.0, where);
      ++this->steps_;
      return norm;
    }
    double norm = 0;
    {
      const Swapped swapped(*this);
      norm = adam(&Copy::lower, this->steps_ - this->steps_ / cycle() + 1, factor, where);
    }
    ++this->steps_;
    return norm;
  }

  void zero_gradients() override {
    theta_.zero_gradients();
    for (auto& copy : copies_)
      if (copy.parameter.trainable()) copy.parameter.zero_gradient();
  }

  std::size_t steps_in(std::size_t bytes) const override {
    return (theta_.steps_in(bytes) + 1) * static_cast<std::size_t>(cycle());
  }
  void set_steps(std::int64_t steps) override {
    this->steps_ = steps;
    theta_.set_steps(steps / cycle());
  }

  /// g and the rate of θ's steps.
  auto log() const { return theta_.log(); }

 private:
  struct Moments {
    Tensor<T, B> first, second;
  };
  struct Copy {
    std::string name;
    Parameter<T, B> parameter;
    Tensor<T, B> other;  // s, or p where they are swapped
    Moments upper, lower;
  };
  /// The parameters are s while it lives.
  class Swapped {
   public:
    explicit Swapped(BilevelState& state) : state_(state) { swap(); }
    ~Swapped() { swap(); }
    Swapped(const Swapped&) = delete;
    Swapped& operator=(const Swapped&) = delete;

   private:
    void swap() {
      for (auto& copy : state_.copies_) std::swap(copy.parameter.value(), copy.other);
    }
    BilevelState& state_;
  };

  std::int64_t cycle() const { return options_.inner + 1; }
  bool inner() const { return this->steps_ % cycle() < options_.inner; }

  void keep(Parameter<T, B>& parameter) override {
    const std::string& name = this->parameters_.back().first;
    require(this->steps_ == 0, "bilevel: expected every parameter before the first step, found one after", name,
            this->steps_);
    if (parameter.probed()) return theta_.add(nn::Named<T, B>{{name, parameter}});
    parameter.zero_gradient();
    const UseScope use(Use::optimizer);
    const auto zeros = [&] { return Tensor<T, B>::zeros(parameter.shape()); };
    copies_.push_back(
        {name, parameter, std::as_const(parameter).value().clone(), {zeros(), zeros()}, {zeros(), zeros()}});
  }

  /// A step along the gradients, the t-th of these. Gives their norm.
  double adam(Moments Copy::*moments, std::int64_t t, double factor, Where where) {
    std::vector<AdamWSlot<T>> slots;
    for (auto& copy : copies_) {
      auto& p = copy.parameter;
      auto& m = copy.*moments;
      if (!p.gradient().defined()) continue;  // frozen since
      slots.push_back({p.size(), p.gradient().data(), p.value().data(), m.first.data(), m.second.data(), false});
    }
    const auto count = static_cast<Index>(slots.size());
    const double norm = std::sqrt(sum_squares(B{}, count, slots.data())), beta1 = 0.9, beta2 = 0.999;
    if (!std::isfinite(norm)) throw NumberError("bilevel: a gradient is not finite", where);
    adamw(B{}, count, slots.data(),
          AdamWStep{options_.module_rate * factor, beta1, beta2, 1e-8, 0, 1 - std::pow(beta1, t),
                    1 - std::pow(beta2, t), 1});
    return norm;
  }

  /// θ and its log; of each parameter of the module p, under its name, s, `name.lower`, and the moments of both.
  void visit(typename State<T, B>::Visitor f) override {
    theta_.for_each_state(f);
    for (auto& copy : copies_) {
      f(copy.name, copy.parameter.value());
      f(copy.name + ".lower", copy.other);
      f(copy.name + ".m", copy.upper.first);
      f(copy.name + ".v", copy.upper.second);
      f(copy.name + ".lower.m", copy.lower.first);
      f(copy.name + ".lower.v", copy.lower.second);
    }
  }

  Bilevel options_;
  SpsaState<T, B> theta_;
  std::vector<Copy> copies_;
};

}  // namespace meft::optim
