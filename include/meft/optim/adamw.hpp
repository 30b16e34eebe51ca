// Owns: AdamW with decoupled decay and clipping by the global norm.
// Loshchilov, Hutter, arXiv 1711.05101, algorithm 2; Kingma, Ba, arXiv 1412.6980.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/kernels/optimize.hpp>
#include <meft/optim/optimizer.hpp>

namespace meft::optim {

template <Real T, Backend B>
class AdamWState;

/// The options. `rate` is times each parameter's own factor. Decay leaves out what has one axis, biases and norms,
/// unless it has an anchor. `clip` 0 is off. Moments of a parameter that is added later are corrected by the steps
/// since then (a resumed run is told so by `made_at`). A step without its gradient, as it is frozen, leaves a parameter
/// and its moments, and counts among these steps all the same.
struct AdamW {
  static constexpr Index kept = 3;  // numbers of its own for each that trains: the gradient, two moments

  double rate = 5e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, decay = 0, clip = 0;

  /// An optimizer of every trained parameter below the modules, or of Named ones. Gradients and moments are allocated
  /// here.
  template <Real T = float, Backend B = Cpu, class... Modules>
  AdamWState<T, B> over(Modules&... modules) const {
    AdamWState<T, B> state(*this);
    (state.add(modules), ...);
    return state;
  }
};

/// See State; errors of options: by the constructor.
template <Real T, Backend B>
class AdamWState final : public State<T, B> {
 public:
  explicit AdamWState(const AdamW& options, Where where = Where::current()) : options_(options) {
    const auto [rate, beta1, beta2, epsilon, decay, clip] = options;
    require(std::isfinite(rate + epsilon + decay + clip) && rate >= 0 && static_cast<T>(epsilon) > 0 && decay >= 0 &&
                clip >= 0,
            {"adamw: rate, decay and clip are not negative, epsilon is positive, all are finite", where}, rate, epsilon,
            decay, clip);
    require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, {"adamw: the betas are in [0, 1)", where}, beta1,
            beta2);
  }

  double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) override {
    this->check_step(factor, weight, where);
    const auto moved = with_gradients(where);
    const auto all = described(moved);
    const auto count = static_cast<Index>(all.size());
    const double total = sum_squares(B{}, count, all.data());
    const double norm = std::sqrt(total) / weight;
    if (!std::isfinite(norm)) throw NumberError("adamw: a gradient is not finite: " + culprit(moved, all), where);
    ++this->steps_;
    const double clipped = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1.0;
    for (const std::size_t i : moved)
      if (auto& p = this->parameters_[i].second; p.anchor().defined() && options_.decay > 0)
        decay(p, static_cast<T>(options_.rate * factor * p.rate_factor() * options_.decay));
    const auto rate = [&](std::size_t k) {
      return options_.rate * factor * this->parameters_[moved[k]].second.rate_factor();
    };
    const auto since = [&](std::size_t k) { return moments_[moved[k]].since; };
    for (std::size_t i = 0, end = 0; i < all.size(); i = end) {
      end = i + 1;
      while (end < all.size() && since(end) == since(i) && rate(end) == rate(i)) ++end;
      const double t = static_cast<double>(this->steps_ - since(i));
      adamw(B{}, static_cast<Index>(end - i), all.data() + i,
            AdamWStep{rate(i), options_.beta1, options_.beta2, options_.epsilon, options_.decay,
                      1 - std::pow(options_.beta1, t), 1 - std::pow(options_.beta2, t), clipped / weight});
    }
    return norm;
  }

  void follow(nn::Named<T, B> parameters, const std::vector<std::string>& anew, Where = Where::current()) override {
    auto before = std::exchange(this->parameters_, {});
    auto moments = std::exchange(moments_, {});
    try {
      this->add(std::move(parameters));
    } catch (...) {
      this->parameters_ = std::move(before);
      moments_ = std::move(moments);
      throw;
    }
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      const auto& name = this->parameters_[i].first;
      const auto at = std::find_if(before.begin(), before.end(), [&](const auto& one) { return one.first == name; });
      if (at != before.end() && std::find(anew.begin(), anew.end(), name) == anew.end())
        moments_[i] = moments[static_cast<std::size_t>(at - before.begin())];
    }
  }
  void made_at(const std::vector<std::string>& anew, std::int64_t steps) override {
    for (std::size_t i = 0; i < moments_.size(); ++i)
      if (std::find(anew.begin(), anew.end(), this->parameters_[i].first) != anew.end()) moments_[i].since = steps;
  }

  void zero_gradients() override {
    for (auto& one : this->parameters_)
      if (one.second.trainable()) one.second.zero_gradient();
  }

 private:
  struct Moments {
    Tensor<T, B> first, second;
    std::int64_t since = 0;  // the steps that were done when they were zero
  };

  void keep(Parameter<T, B>& parameter) override {
    parameter.zero_gradient();
    const UseScope use(Use::optimizer);
    moments_.push_back({Tensor<T, B>::zeros(parameter.shape()), Tensor<T, B>::zeros(parameter.shape()), this->steps_});
  }

  /// A parameter and its moments, `name.m` and `name.v`.
  void visit(typename State<T, B>::Visitor f) override {
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      auto& [name, parameter] = this->parameters_[i];
      f(name, parameter.value());
      f(name + ".m", moments_[i].first);
      f(name + ".v", moments_[i].second);
    }
  }

  /// The numbers of the parameters that have a gradient: one that was frozen since has none, and stays. Throws where
  /// one has another size than its gradient or moments.
  std::vector<std::size_t> with_gradients(Where where) const {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < moments_.size(); ++i) {
      const auto& [name, p] = this->parameters_[i];
      if (!p.trainable() || !p.gradient().defined()) continue;
      if (p.gradient().size() != p.size() || moments_[i].first.size() != p.size())
        fail({"adamw: `" + name + "` has another shape than its gradient and moments", where}, p.shape(),
             p.gradient().shape(), moments_[i].first.shape());
      out.push_back(i);
    }
    return out;
  }
  std::vector<AdamWSlot<T>> described(const std::vector<std::size_t>& moved) {
    std::vector<AdamWSlot<T>> out;
    for (const std::size_t i : moved) {
      auto& p = this->parameters_[i].second;
      out.push_back({p.size(), p.gradient().data(), p.value().data(), moments_[i].first.data(),
                     moments_[i].second.data(), p.shape().rank() > 1 && !p.anchor().defined()});
    }
    return out;
  }
  /// p ← p + by·(anchor − p).
  static void decay(Parameter<T, B>& p, T by) {
    const UseScope use(Use::workspace);
    const auto& value = std::as_const(p).value();
    const auto change = map(WithRight<Mul, T>{{}, by}, map(Sub{}, p.anchor(), value));
    map(B{}, Add{}, p.size(), p.value().data(), value.data(), change.data());
  }

  std::string culprit(const std::vector<std::size_t>& moved, const std::vector<AdamWSlot<T>>& all) const {
    for (std::size_t k = 0; k < all.size(); ++k)
      if (!std::isfinite(sum_squares(B{}, 1, &all[k]))) return this->parameters_[moved[k]].first;
    return "their sum";
  }

  AdamW options_;
  std::vector<Moments> moments_;  // of each parameter
};

}  // namespace meft::optim
