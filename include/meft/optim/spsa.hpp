// Owns: descent by two losses instead of a gradient, z ~ N(0, I) drawn anew for each step from a key:
// g = (ℓ(θ + εz) − ℓ(θ − εz))/2ε,  θ ← θ − rate·(g·z + decay·θ).
// Spall, IEEE Transactions on Automatic Control 37, 1992; Malladi et al. (MeZO), arXiv 2305.17333, algorithm 1. θ is
// read with its noise, and changed by the step alone.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/optim/optimizer.hpp>

namespace meft::optim {

template <Real T, Backend B>
class SpsaState;

/// The options. Decay leaves out what has one axis: biases and norms. `clip` is of |g|, whose square is on average that
/// of the gradient's norm; 0 is off.
struct Spsa {
  double rate = 1e-6, epsilon = 1e-3, decay = 0, clip = 0;
  std::uint64_t seed = 0;

  /// An optimizer of every trained parameter below the modules, or of Named ones. No gradients are allocated.
  template <Real T = float, Backend B = Cpu, class... Modules>
  SpsaState<T, B> over(Modules&... modules) const {
    SpsaState<T, B> state(*this);
    (state.add(modules), ...);
    return state;
  }
};

template <Real T, Backend B>
class SpsaState final : public State<T, B> {
 public:
  /// What a step did: with the seed, all that it takes to do it again.
  struct Done {
    T g, rate;
  };

  explicit SpsaState(const Spsa& options, Where where = Where::current()) : options_(options) {
    require(options.rate >= 0 && options.epsilon > 0 && options.decay >= 0 && options.clip >= 0,
            {"spsa: rate, decay and clip are not negative, epsilon is positive", where}, options.rate, options.epsilon,
            options.decay, options.clip);
  }

  bool probes() const override { return true; }
  void probe(int sign) override {
    for (std::size_t i = 0; i < this->parameters_.size(); ++i)
      this->parameters_[i].second.perturb(key(i), sign * options_.epsilon);
  }
  void take(double up, double down, double weight) override { difference_ += (up - down) * weight; }
  void zero_gradients() override { difference_ = 0; }

  double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) override {
    const double g = difference_ / (2 * options_.epsilon * weight), norm = std::fabs(g);
    if (!std::isfinite(g)) throw NumberError("spsa: the difference of two losses is not finite", where);
    difference_ = 0;
    const double clipped = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1.0;
    redo({static_cast<T>(g * clipped), static_cast<T>(options_.rate * factor)});
    return norm;
  }

  /// The steps so far, in order. redo of each takes a state of the same seed over the first parameters to these.
  std::span<const Done> log() const { return log_; }
  void redo(Done done) {
    const double rate = static_cast<double>(done.rate);
    for (std::size_t i = 0; i < this->parameters_.size(); ++i) {
      auto& p = this->parameters_[i].second;
      const double keep = p.shape().rank() > 1 ? 1 - rate * options_.decay : 1.0;
      const T* from = std::as_const(p).value().data();
      add_noise(B{}, 1, p.size(), nullptr, 0, key(i), keep, -rate * static_cast<double>(done.g), from,
                p.value().data());
    }
    log_.push_back(done);
    ++this->steps_;
  }

  std::size_t bytes_a_step() const override { return 2 * sizeof(T); }
  void set_steps(std::int64_t steps) override {
    this->steps_ = steps;
    log_.resize(static_cast<std::size_t>(steps));
  }

 private:
  void keep(Parameter<T, B>&) override {}

  /// The parameters; `spsa.log` [steps, 2], g and the rate of each.
  void visit(typename State<T, B>::Visitor f) override {
    for (auto& [name, parameter] : this->parameters_) f(name, parameter.value());
    if (log_.empty()) return;
    std::vector<T> flat;
    for (const Done& done : log_) flat.insert(flat.end(), {done.g, done.rate});
    auto tensor = Tensor<T, B>::from({static_cast<Index>(log_.size()), 2}, flat);
    f("spsa.log", tensor);
    flat = tensor.values();
    for (std::size_t i = 0; i < log_.size(); ++i) log_[i] = {flat[2 * i], flat[2 * i + 1]};
  }

  /// Of the noise of parameter i in the coming step.
  Key key(std::size_t i) const {
    return {mix(options_.seed, 0x7a65726f74680000u), static_cast<std::uint32_t>(i),
            static_cast<std::uint32_t>(this->steps_)};
  }

  Spsa options_;
  double difference_ = 0;
  std::vector<Done> log_;
};

}  // namespace meft::optim
