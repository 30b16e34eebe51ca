// Owns: LoRA. Hu et al., arXiv 2106.09685.
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// Low-rank updates of query and value.
struct LowRank {
  Index rank = 8;
  double alpha = 16;
};

template <>
struct Described<LowRank> {
  static constexpr std::string_view name = "lora", about = "low-rank updates of query and value";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"lora-rank", "rank"}, Whole{1, 65536}, m.rank);
    visit(Option{.name = "lora-alpha", .help = "the updates' factor times the rank", .stated = Stated::changed},
          Positive{}, m.alpha);
  }
  static Index added(const LowRank& m, Index width) { return 4 * width * m.rank; }
  static constexpr PeftTensor tensors[] = {{"lora_A.weight", "lora_A.weight"}, {"lora_B.weight", "lora_B.weight"}};
  static constexpr std::string_view without[] = {
      "bias",          "fan_in_fan_out", "lora_bias",         "use_dora",     "use_rslora", "rank_pattern",
      "alpha_pattern", "use_qalora",     "layer_replication", "arrow_config", "use_bdlora", "alora_invocation_tokens"};
  static constexpr std::string_view starts[] = {"gaussian", "orthogonal", "eva"};
  static constexpr PeftForm peft{
      .type = "LORA", .tensors = tensors, .without = without, .start = "init_lora_weights", .starts = starts};
  static void peft_numbers(auto& m, auto&& visit) {
    visit("r", m.rank);
    visit("lora_alpha", m.alpha);
  }
  static Kept kept(const LowRank& m, const StepSizes& s) { return {s.width + 2 * m.rank}; }
};

/// Updates that are zero at the start.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const LowRank& method, const AdaptOptions& options) {
  for (auto* layer : layers) {
    const auto add = [&](nn::Linear<T, B>& linear, std::uint32_t place) {
      linear.update = nn::Lora<T, B>::make(linear.in(), linear.out(), method.rank, method.alpha,
                                           {options.seed, layer->site + place, 0});
    };
    add(layer->attention.query, 6);
    add(layer->attention.value, 7);
    if (layer->cross) {
      add(layer->cross->query, layer->more + 6);
      add(layer->cross->value, layer->more + 7);
    }
  }
}

}  // namespace meft
