// Owns: ladder side tuning. Sung, Cho, Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer
// Learning", arXiv 2206.06522, section 3. A ladder (ladder.hpp) whose output takes the place of h_L, or is added to it.
#pragma once

#include <meft/method/ladder.hpp>

namespace meft {

/// A narrow transformer beside frozen layers.
struct Lst {
  Index reduction = 8;                    // how many times narrower than the layers
  SideStart start = SideStart::backbone;  // random: as its authors

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
  static Index added(const Lst& m, const StepSizes& s) { return s.width * s.width / m.reduction; }
  template <Real T, Backend B>
  static Index activation(const Lst& m, const StepSizes& s) {
    return ladder_activation(m.ladder(), s);
  }
};

template <class Model>
auto adapt(Model& model, const Lst& method, const AdaptOptions& options = {}) {
  return detail::ladder_body(model, method.ladder(), options);
}

}  // namespace meft
