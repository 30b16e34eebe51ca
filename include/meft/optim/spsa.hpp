// Owns: descent by losses instead of a gradient, z ~ N(0, I) drawn anew for each step from a key, as often as `samples`
// says: g = (ℓ(θ + εz) − ℓ(θ − εz))/2ε,  θ ← θ − rate·(mean g·z + decay·θ).
// Spall, IEEE Transactions on Automatic Control 37, 1992; Malladi et al. (MeZO), arXiv 2305.17333, algorithms 1 and 2.
// θ is read with its noise, and changed by the step alone.
#pragma once

#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <meft/base/parallel.hpp>
#include <meft/optim/optimizer.hpp>

namespace meft::optim {

template <Real T, Backend B>
class SpsaState;

/// The options. Decay leaves out what has one axis: biases and norms. `clip` is of the root mean square of g, whose
/// square is on average that of the gradient's norm; 0 is off. With several samples their losses are computed at once
/// on a host, each on a worker of its own, one after the other on a device. `log_alone`: a state keeps what steps did,
/// and a resumed run does them again; the parameters are then as they were made.
struct Spsa {
  static constexpr Index kept = 0;

  double rate = 1e-6, epsilon = 1e-3, decay = 0, clip = 0;
  std::uint64_t seed = 0;
  std::int64_t samples = 1;
  bool log_alone = false;

  /// An optimizer of every trained parameter below the modules, or of Named ones. No gradients are allocated.
  template <Real T = float, Backend B = Cpu, class... Modules>
  SpsaState<T, B> over(Modules&... modules) const {
    SpsaState<T, B> state(*this);
    (state.add(modules), ...);
    return state;
  }
};

/// The seed of draw `sample` of the noise of a run.
inline std::uint64_t noise_seed(std::uint64_t seed, std::size_t sample = 0) {
  return sample_seed(mix(seed, 0x7a65726f74680000u), sample);
}

/// p ← keep·p + scale·z, z the noise of the key; a vector does not decay.
template <Real T, Backend B>
void step_along(Parameter<T, B>& p, Key key, double keep, double scale) {
  const T* from = std::as_const(p).value().data();
  const auto& numbers = std::as_const(p).numbers();
  const Index rows = numbers.defined() ? numbers.size() : 1;
  add_noise(B{}, rows, p.size() / std::max<Index>(1, rows), numbers.defined() ? numbers.data() : nullptr, 0, key,
            p.shape().rank() > 1 ? keep : 1.0, scale, from, p.value().data());
}

/// See State; errors of options: by the constructor.
template <Real T, Backend B>
class SpsaState final : public State<T, B> {
 public:
  /// What a step did with one sample: with the seed, all that it takes to do it again.
  struct Done {
    T g, rate;
  };

  explicit SpsaState(const Spsa& options, Where where = Where::current())
      : options_(options), differences_(static_cast<std::size_t>(std::max<std::int64_t>(1, options.samples))) {
    const double rate = options.rate, epsilon = options.epsilon, decay = options.decay, clip = options.clip;
    require(std::isfinite(rate + epsilon + decay + clip) && rate >= 0 && epsilon > 0 && decay >= 0 && clip >= 0,
            {"spsa: rate, decay and clip are not negative, epsilon is positive, all are finite", where}, rate, epsilon,
            decay, clip);
    require(options.samples >= 1, {"spsa: expected at least one sample, found", where}, options.samples);
  }

  bool probes() const override { return true; }
  /// Parameters are read with the coming step's noise times sign·ε from now on; 0: as they are.
  void probe(int sign) {
    for (std::size_t i = 0; i < this->parameters_.size(); ++i)
      this->parameters_[i].second.perturb(key(i), sign * options_.epsilon);
  }
  /// Takes in the losses of a batch with the noise of a sample and with its negative, and the batch's weight.
  void take(double up, double down, double weight, std::size_t sample = 0) {
    differences_[sample] += (up - down) * weight;
  }
  void zero_gradients() override { differences_.assign(differences_.size(), 0); }

  double measure(const Pass& pass, double weight, int) override {
    struct AsTheyAre {
      SpsaState& state;
      ~AsTheyAre() { state.probe(0); }
    };
    const std::size_t samples = differences_.size();
    std::vector<double> losses(2 * samples);
    if (samples == 1) {
      for (const int sign : {1, -1}) {
        const AsTheyAre end{*this};
        probe(sign);
        losses[sign < 0] = pass.loss();
      }
    } else {
      const AsTheyAre end{*this};
      probe(1);
      const auto one = [&](std::int64_t i) {
        const SampleScope scope(static_cast<std::uint64_t>(i / 2), i % 2 ? -1 : 1);
        losses[static_cast<std::size_t>(i)] = pass.loss();
      };
      const auto count = static_cast<std::int64_t>(losses.size());
      if constexpr (B::on_host) parallel_for(count, one);
      else
        for (std::int64_t i = 0; i < count; ++i) one(i);
    }
    double sum = 0;
    for (std::size_t i = 0; i < samples; ++i) {
      take(losses[2 * i], losses[2 * i + 1], weight, i);
      sum += losses[2 * i] + losses[2 * i + 1];
    }
    return sum / static_cast<double>(2 * samples);
  }

  double step(double factor = 1.0, double weight = 1.0, Where where = Where::current()) override {
    const double norm = this->norm(factor, weight, where);
    const double clipped = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1.0;
    for (const double one : std::exchange(differences_, std::vector<double>(differences_.size(), 0)))
      redo({static_cast<T>(slope(one, weight) * clipped), static_cast<T>(options_.rate * factor)});
    return norm;
  }
  /// What such a step gives, or throws.
  double norm(double factor, double weight, Where where) const {
    this->check_step(factor, weight, where);
    double square = 0;
    for (const double one : differences_) square += slope(one, weight) * slope(one, weight);
    const auto count = static_cast<double>(differences_.size());
    const double norm = count == 1 ? std::fabs(slope(differences_[0], weight)) : std::sqrt(square / count);
    if (!std::isfinite(norm)) throw NumberError("spsa: the difference of two losses is not finite", where);
    return norm;
  }

  /// The steps so far, in order, `samples` entries each. redo of each takes a state of the same options over the first
  /// parameters to these.
  std::span<const Done> log() const { return log_; }
  void redo(Done done) {
    apply(done, log_.size());
    log_.push_back(done);
    made_ = log_.size();
    if (log_.size() % differences_.size() == 0) ++this->steps_;
  }

  std::size_t steps_in(std::size_t bytes) const override { return bytes / (2 * sizeof(T) * differences_.size()); }
  void set_steps(std::int64_t steps) override {
    this->steps_ = steps;
    log_.resize(static_cast<std::size_t>(steps) * differences_.size());
    if (!options_.log_alone) made_ = log_.size();
  }
  /// Does again what the parameters have not been through.
  void restored() override {
    for (; made_ < log_.size(); ++made_) apply(log_[made_], made_);
  }

 private:
  void keep(Parameter<T, B>&) override {}

  /// g of a sum of differences.
  double slope(double difference, double weight) const { return difference / (2 * options_.epsilon * weight); }

  /// Of entry `at` of the log: its step along its sample.
  void apply(Done done, std::size_t at) {
    const std::size_t samples = differences_.size(), sample = at % samples;
    const double rate = static_cast<double>(done.rate), keep = sample == 0 ? 1 - rate * options_.decay : 1.0;
    for (std::size_t i = 0; i < this->parameters_.size(); ++i)
      step_along(this->parameters_[i].second, key(i, sample, static_cast<std::uint32_t>(at / samples)), keep,
                 -rate * static_cast<double>(done.g) / static_cast<double>(samples));
  }

  /// The parameters, unless the log stands for them; `spsa.log` [steps·samples, 2], g and the rate of each.
  void visit(typename State<T, B>::Visitor f) override {
    if (!options_.log_alone)
      for (auto& [name, parameter] : this->parameters_) f(name, parameter.value());
    if (log_.empty()) return;
    std::vector<T> flat;
    for (const Done& done : log_) flat.insert(flat.end(), {done.g, done.rate});
    auto tensor = Tensor<T, B>::from({static_cast<Index>(log_.size()), 2}, flat);
    f("spsa.log", tensor);
    flat = tensor.values();
    for (std::size_t i = 0; i < log_.size(); ++i) log_[i] = {flat[2 * i], flat[2 * i + 1]};
  }

  /// Of the noise of parameter i in the coming step, or in another.
  Key key(std::size_t i) const { return key(i, 0, static_cast<std::uint32_t>(this->steps_)); }
  Key key(std::size_t i, std::size_t sample, std::uint32_t step) const {
    return {noise_seed(options_.seed, sample), static_cast<std::uint32_t>(i), step};
  }

  Spsa options_;
  std::vector<double> differences_;  // of each sample
  std::vector<Done> log_;
  std::size_t made_ = 0;  // entries of the log that the parameters have been through
};

}  // namespace meft::optim
