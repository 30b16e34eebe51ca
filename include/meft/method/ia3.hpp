// Owns: (IA)³. Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
// arXiv 2205.05638, section 3.3: k = l_k ⊙ (x·W_kᵀ + b_k), v likewise, u = l_ff ⊙ γ(x·W_upᵀ + b).
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// A factor for each feature of keys, values and the feed-forward block's hidden layer, one at the start; cross
/// attention has its own.
struct Ia3 {};

template <>
struct Described<Ia3> {
  static constexpr std::string_view name = "ia3", about = "factors of keys, values and hidden features";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto&, auto&&) {}
  static Index added(const Ia3&, Index) { return 0; }
  static constexpr PeftTensor tensors[] = {{"hidden_scale", "ia3_l", PeftTensor::Shape::row},
                                           {"scale", "ia3_l", PeftTensor::Shape::column}};
  static constexpr std::string_view without[] = {"fan_in_fan_out"};
  static constexpr PeftForm peft{"IA3", tensors, without};
  static void peft_numbers(auto&, auto&&) {}
  /// What the factors multiply, and the hidden layer's gradient behind them and times what they multiplied.
  static Kept kept(const Ia3&, const StepSizes& s) { return {2 * s.keys(), s.ffn, s.gated ? s.ffn : 2 * s.ffn}; }
};

template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Ia3&, const AdaptOptions&) {
  const auto scaled = [](nn::MultiHeadAttention<T, B>& attention) {
    for (auto* linear : {&attention.key, &attention.value}) linear->update = nn::Scale<T, B>::ones(linear->out());
  };
  for (auto* layer : layers) {
    scaled(layer->attention);
    if (layer->cross) scaled(*layer->cross);
    layer->hidden_scale = Parameter<T, B>::ones({layer->up.out()});
  }
}

}  // namespace meft
