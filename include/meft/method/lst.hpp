// Owns: ladder side tuning. Sung, Cho, Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer
// Learning", arXiv 2206.06522, section 3. A ladder (ladder.hpp) whose output takes the place of h_L, or is added to it.
// Not done: its authors cut the narrow layers' weights out of the model's, those of the highest Fisher information, and
// leave some layers without one (T5-base's 0, 4 and 8). Here they begin as random numbers, one beside every layer.
#pragma once

#include <meft/method/ladder.hpp>

namespace meft {

/// A narrow transformer beside frozen layers.
struct Lst {
  Index reduction = 8;                    // how many times narrower than the layers
  SideStart start = SideStart::backbone;  // random: the ladder's output alone, as its authors have it

  LadderSpec ladder() const {
    return {.reduction = reduction, .temperature = 0.1, .residual = start == SideStart::backbone};
  }
};

template <>
struct Described<Lst> {
  static constexpr std::string_view name = "lst", about = "a ladder: a narrow transformer beside frozen layers";
  static constexpr MethodFacts facts = side_facts;
  static void options(auto& m, auto&& visit) {
    visit(reduction_option, reductions, m.reduction);
    visit(side_start_option, side_starts, m.start);
  }
  static Recipe recipe(const Lst&) { return {.rate = 3e-3}; }  // the authors', for T5
  static Index added(const Lst& m, const StepSizes& s) { return s.width * s.width / m.reduction; }
  template <Real T, Backend B>
  static Index activation(const Lst& m, const StepSizes& s) {
    return ladder_activation(m.ladder(), s);
  }
};

template <class Model>
auto adapt(Model& model, const Lst& method, const AdaptOptions& options = {}) {
  detail::require_options(method);
  return detail::ladder_body(model, method.ladder(), options);
}

}  // namespace meft
