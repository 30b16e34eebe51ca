// Owns: (IA)³. Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
// arXiv 2205.05638, section 3.3: k = l_k ⊙ (x·W_kᵀ + b_k), v likewise, u = l_ff ⊙ γ(x·W_upᵀ + b).
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// A factor for each feature of keys, values and the feed-forward block's hidden layer, one at the start; cross
/// attention has its own. `attended`: also of what attention's last projection reads, as PyPI's peft has it for BERT
/// unless it is told otherwise.
struct Ia3 {
  bool attended = false;
};

template <>
struct Described<Ia3> {
  static constexpr std::string_view name = "ia3", about = "factors of keys, values and hidden features";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(
        Option{.name = "ia3-form",
               .help = "what has factors: paper, or peft: for BERT as peft, what attention's last projection reads too",
               .stated = Stated::changed},
        OneOf{"paper|peft", [](std::string_view s) { return s == "peft"; },
              [](bool attended) { return attended ? "peft" : "paper"; }},
        m.attended);
  }
  static Index added(const Ia3&, Index) { return 0; }
  using Shape = PeftTensor::Shape;
  static constexpr PeftTensor tensors[] = {{"hidden_scale", "ia3_l", Shape::hidden},
                                           {"attended_scale", "ia3_l", Shape::attended, "ia3-form", "peft"},
                                           {"cross_attended_scale", "ia3_l", Shape::cross_attended, "ia3-form", "peft"},
                                           {"scale", "ia3_l", Shape::column}};
  static constexpr std::string_view without[] = {"fan_in_fan_out"};
  static constexpr PeftForm peft{"IA3", tensors, without};
  static void peft_numbers(auto&, auto&&) {}
  /// What the factors multiply, and the hidden layer's gradient behind them and times what they multiplied.
  static Kept kept(const Ia3&, const StepSizes& s) { return {2 * s.keys(), s.ffn, s.gated ? s.ffn : 2 * s.ffn}; }
};

template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Ia3& method, const AdaptOptions&) {
  const auto scaled = [&](nn::MultiHeadAttention<T, B>& attention) {
    for (auto* linear : {&attention.key, &attention.value}) linear->update = nn::Scale<T, B>::ones(linear->out());
    if (method.attended) attention.attended_scale = Parameter<T, B>::ones({attention.output.in()});
  };
  for (auto* layer : layers) {
    scaled(layer->attention);
    if (layer->cross) scaled(*layer->cross);
    layer->hidden_scale = Parameter<T, B>::ones({layer->up.out()});
  }
}

}  // namespace meft
