// Owns: the list of optimizers, and which of them a recipe asks for. A new one is an include, a row of the list and a
// line of optimizer_of.
#pragma once

#include <memory>
#include <variant>

#include <meft/method/option.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/optim/spsa.hpp>

namespace meft::train {

namespace detail {
template <optim::Optimizer... O>
using AnyOf = std::variant<O...>;
}

/// Any optimizer, with its options.
using AnyOptimizer = detail::AnyOf<optim::AdamW, optim::Spsa>;

/// `seed`: of one that draws.
inline AnyOptimizer optimizer_of(const Recipe& r, std::uint64_t seed) {
  if (r.epsilon > 0)
    return optim::Spsa{.rate = r.rate, .epsilon = r.epsilon, .decay = r.decay, .clip = r.clip, .seed = seed};
  return optim::AdamW{.rate = r.rate, .decay = r.decay, .clip = r.clip};
}

/// Its learning rate.
inline double rate_of(const AnyOptimizer& optimizer) {
  return std::visit([](const auto& o) { return o.rate; }, optimizer);
}

/// Its state over parameters.
template <Real T, Backend B>
std::unique_ptr<optim::State<T, B>> state_over(const AnyOptimizer& optimizer, const nn::Named<T, B>& parameters) {
  return std::visit(
      [&](const auto& o) -> std::unique_ptr<optim::State<T, B>> {
        return std::make_unique<decltype(o.template over<T, B>(parameters))>(o.template over<T, B>(parameters));
      },
      optimizer);
}

}  // namespace meft::train
