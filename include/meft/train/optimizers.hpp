// Owns: the list of optimizers, and which of them a recipe asks for. A new one is an include, a row of the list and a
// line of optimizer_of.
#pragma once

#include <memory>
#include <optional>
#include <variant>

#include <meft/method/option.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/optim/bilevel.hpp>
#include <meft/optim/spsa.hpp>

namespace meft::train {

namespace detail {
template <optim::Optimizer... O>
using AnyOf = std::variant<O...>;
}

/// Any optimizer, with its options.
using AnyOptimizer = detail::AnyOf<optim::AdamW, optim::Spsa, optim::Bilevel>;

/// `seed`: of one that draws. Error where a recipe of two levels asks for decay or a clipped norm, which it has not.
inline AnyOptimizer optimizer_of(const Recipe& r, std::uint64_t seed) {
  if (r.inner) {
    require(r.decay == 0 && r.clip == 0, "two levels: expected no decay and no clipped norm, found", r.decay, r.clip);
    return optim::Bilevel{.rate = r.rate,
                          .module_rate = r.module_rate,
                          .epsilon = r.epsilon,
                          .lambda = r.lambda,
                          .inner = *r.inner,
                          .seed = seed};
  }
  if (r.epsilon > 0)
    return optim::Spsa{.rate = r.rate,
                       .epsilon = r.epsilon,
                       .decay = r.decay,
                       .clip = r.clip,
                       .seed = seed,
                       .samples = r.samples,
                       .log_alone = r.log_alone};
  return optim::AdamW{.rate = r.rate, .decay = r.decay, .clip = r.clip};
}

/// Its learning rate.
inline double rate_of(const AnyOptimizer& optimizer) {
  return std::visit([](const auto& o) { return o.rate; }, optimizer);
}

/// The numbers that it keeps for each that trains by gradients.
inline Index kept_by(const AnyOptimizer& optimizer) {
  return std::visit([](const auto& o) { return o.kept; }, optimizer);
}

/// How many steps of a lower level come before one of the upper, where it has two.
inline std::optional<std::int64_t> inner_of(const AnyOptimizer& optimizer) {
  const auto* bilevel = std::get_if<optim::Bilevel>(&optimizer);
  return bilevel ? std::optional(bilevel->inner) : std::nullopt;
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
