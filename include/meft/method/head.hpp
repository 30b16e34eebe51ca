// Owns: training of the task's head alone.
#pragma once

#include <algorithm>

#include <meft/method/adapt.hpp>

namespace meft {

/// Only the task's head trains, on what frozen layers give: nothing is dropped inside them.
struct HeadOnly {};

/// No network: what layers give stays what it is.
template <Real T, Backend B = Cpu>
struct LastTap {
  using Side = SideNetwork<T, B>;
  using Taps = typename Side::Taps;

  /// No other tap is there.
  Taps watch(Var<T, B> h, const Context<T, B>& context, const typename Side::Next& next, std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i) h = next(i, h, context);
    return {h};
  }
  Var<T, B> operator()(const Taps& h, const Context<T, B>&) const { return h.back(); }

  static void parts(auto&, auto&&) {}
};

template <>
struct Described<HeadOnly> {
  static constexpr std::string_view name = "head", about = "the task's head";
  static constexpr MethodFacts facts{.beside = true, .recomputes = false, .trains_layers = false, .starts_as_is = true};
  static Recipe recipe(const HeadOnly&) { return {.rate = 5e-3}; }  // measured: bench/RESULTS.md
  static void options(auto&, auto&&) {}
  static Index added(const HeadOnly&, const StepSizes&) { return 0; }
  /// What layers give; a layer's input and output, what enters the first, and what is alive in one of its blocks.
  template <Real T, Backend B>
  static Index activation(const HeadOnly&, const StepSizes& s) {
    if (s.held) return s.tokens * s.width;
    return std::max(s.tokens * (4 * s.width + s.passing()), s.at_head(s.tokens * s.width));
  }
};

template <class Model>
auto adapt(Model& model, const HeadOnly&, const AdaptOptions& options = {}) {
  return detail::side_body(model, options,
                           [](const auto&) { return LastTap<typename Model::value_type, typename Model::backend>{}; });
}

}  // namespace meft
