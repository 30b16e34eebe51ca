// Owns: (IA)³. Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
// arXiv 2205.05638, section 3.3: k = l_k ⊙ (x·W_kᵀ + b_k), v likewise, u = l_ff ⊙ γ(x·W_upᵀ + b).
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// A factor for each feature of the feed-forward block's hidden layer and of what the form says, one at the start;
/// cross attention has its own.
struct Ia3 {
  /// Keys and values, as the paper has it and PyPI's peft for Llama, Mistral and T5; what peft has for others unless it
  /// is told otherwise: for BERT and RoBERTa, keys, values and what attention's last projection reads; for OPT, queries
  /// and keys; for BART, Qwen and Gemma, queries and values.
  enum class Form { paper, bert, opt, bart };
  /// As options have them, in this order.
  static constexpr std::string_view forms = "paper|peft|peft-opt|peft-bart";
  Form form = Form::paper;

  bool queries() const { return form == Form::opt || form == Form::bart; }
  bool keys() const { return form != Form::bart; }
  bool values() const { return form != Form::opt; }
};

template <>
struct Described<Ia3> {
  static constexpr std::string_view name = "ia3", about = "factors of keys, values and hidden features";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(
        Option{.name = "ia3-form",
               .help = "what has factors beside hidden features: paper: keys, values; or by itself PyPI's peft: peft: "
                       "for BERT, what attention's last projection reads too; peft-opt: queries, keys; peft-bart: "
                       "queries, values (BART, Qwen, Gemma)",
               .stated = Stated::changed},
        one_of<Ia3::Form>(Ia3::forms), m.form);
  }
  static Index added(const Ia3&, const StepSizes&) { return 0; }
  static Recipe recipe(const Ia3&) { return {.rate = 3e-3}; }  // the authors'
  using Shape = PeftTensor::Shape;
  static constexpr PeftTensor tensors[] = {{"hidden_scale", "ia3_l", Shape::hidden},
                                           {"attended_scale", "ia3_l", Shape::attended},
                                           {"cross_attended_scale", "ia3_l", Shape::cross_attended},
                                           {"scale", "ia3_l", Shape::column}};
  static constexpr std::string_view without[] = {"fan_in_fan_out"};
  static constexpr PeftForm peft{.type = "IA3", .tensors = tensors, .without = without};
  static void peft_numbers(auto&, auto&&) {}
  static void peft_changed(Ia3& m, auto&& has) {
    if (has(Projection::output)) m.form = Ia3::Form::bert;
    if (has(Projection::query)) m.form = has(Projection::value) ? Ia3::Form::bart : Ia3::Form::opt;
  }
  /// What the factors of attention multiply; the hidden layer's is made again, times its gradient.
  static Kept kept(const Ia3& m, const StepSizes& s) {
    const Index others = (m.keys() + m.values()) * s.keys();
    return {m.queries() * s.queries() + others, 0, s.gated ? 0 : s.ffn};
  }
};

template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Ia3& method, const AdaptOptions&) {
  const auto scaled = [&](nn::MultiHeadAttention<T, B>& attention) {
    const auto add = [](nn::Linear<T, B>& to) { to.update = nn::Scale<T, B>::ones(to.out()); };
    if (method.queries()) add(attention.query);
    if (method.keys()) add(attention.key);
    if (method.values()) add(attention.value);
    if (method.form == Ia3::Form::bert) attention.attended_scale = Parameter<T, B>::ones({attention.output.in()});
  };
  for (auto* layer : layers) {
    scaled(layer->attention);
    if (layer->cross) scaled(*layer->cross);
    layer->hidden_scale = Parameter<T, B>::ones({layer->up.out()});
  }
}

}  // namespace meft
