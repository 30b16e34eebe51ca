// Owns: training of the task's head alone.
#pragma once

#include <algorithm>

#include <meft/method/adapt.hpp>

namespace meft {

/// Only the task's head trains.
struct HeadOnly {};

template <>
struct Described<HeadOnly> {
  static constexpr std::string_view name = "head", about = "the task's head";
  static constexpr MethodFacts facts{.trains_layers = false, .starts_as_is = true};
  static void options(auto&, auto&&) {}
  static Index added(const HeadOnly&, const StepSizes&) { return 0; }
  /// Nothing is kept: a layer's input and output, and what is alive in one of its blocks.
  template <Real T, Backend B>
  static Index activation(const HeadOnly&, const StepSizes& s) {
    if (s.held) return 0;
    return std::max(s.tokens * (2 * s.width + s.passing()), s.at_head(0));
  }
};

template <class Model>
auto adapt(Model& model, const HeadOnly&, const AdaptOptions& options = {}) {
  detail::train_none(model, options);
  return detail::plain_body(model, options);
}

}  // namespace meft
