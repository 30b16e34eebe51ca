// Owns: quantised side tuning. Zhang et al., "Quantized Side Tuning: Fast and Memory-Efficient Tuning of Quantized
// Large Language Models", arXiv 2401.07159, section 3. A ladder (ladder.hpp) with low-rank D_i and a gate a feature;
// out = β·h_L + (1 − β)·U·LN(s_L), β = 1 at the start (the authors' code begins at σ(1)). The frozen weights may be in
// any format.
#pragma once

#include <meft/method/ladder.hpp>

namespace meft {

/// A very narrow transformer beside frozen layers, mixed with their output.
struct Qst {
  Index reduction = 16;  // how many times narrower than the layers
  Index rank = 16;       // of D_i

  LadderSpec ladder() const { return {.reduction = reduction, .gate_features = true, .rank = rank, .mixed = true}; }
};

template <>
struct Described<Qst> {
  static constexpr std::string_view name = "qst", about = "a narrower ladder, mixed with the layers' output";
  static constexpr MethodFacts facts = side_facts;
  static void options(auto& m, auto&& visit) {
    visit(reduction_option, reductions, m.reduction);
    visit(Option{"down-rank", "of what takes a layer's output to the network beside it"}, Whole{1, 65536}, m.rank);
  }
  static Index added(const Qst& m, const StepSizes& s) { return s.width * m.rank; }
  template <Real T, Backend B>
  static Index activation(const Qst& m, const StepSizes& s) {
    return ladder_activation(m.ladder(), s);
  }
};

template <class Model>
auto adapt(Model& model, const Qst& method, const AdaptOptions& options = {}) {
  detail::require_options(method);
  return detail::ladder_body(model, method.ladder(), options);
}

}  // namespace meft
