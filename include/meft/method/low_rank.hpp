// Owns: LoRA. Hu et al., arXiv 2106.09685.
#pragma once

#include <algorithm>
#include <cmath>

#include <meft/method/adapt.hpp>

namespace meft {

/// Low-rank updates of linear layers; cross attention has its own.
struct LowRank {
  /// Of which: query and value; attention: key and its output too; linear: and those of the feed-forward block.
  enum class Targets { query_value, attention, linear };
  /// As options have them, in this order.
  static constexpr std::string_view target_names = "query-value|attention|linear";
  Index rank = 8;
  double alpha = 16;
  Targets targets = Targets::query_value;

  bool all_of_attention() const { return targets != Targets::query_value; }
  bool feed() const { return targets == Targets::linear; }
};

template <>
struct Described<LowRank> {
  static constexpr std::string_view name = "lora", about = "low-rank updates, of query and value or more";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"lora-rank", "rank"}, Whole{1, 65536}, m.rank);
    visit(Option{.name = "lora-alpha", .help = "the updates' factor times the rank", .stated = Stated::changed},
          Positive{}, m.alpha);
    visit(Option{.name = "lora-targets",
                 .help = "what is updated: attention: query, key, value, output; linear: and the feed-forward block's",
                 .stated = Stated::changed},
          one_of<LowRank::Targets>(LowRank::target_names), m.targets);
  }
  static Index added(const LowRank& m, const StepSizes& s) {
    const Index two = 2 * s.width + s.queries() + s.keys();  // query and value, or key and output
    const Index attention = m.all_of_attention() ? 2 * two : two;
    return m.rank * (attention + (m.feed() ? (s.gated ? 3 : 2) * (s.width + s.ffn) : 0));
  }
  static constexpr PeftTensor tensors[] = {{"lora_A.weight", "lora_A.weight"}, {"lora_B.weight", "lora_B.weight"}};
  static constexpr std::string_view without[] = {
      "bias",       "fan_in_fan_out",    "lora_bias",    "use_dora",   "rank_pattern",           "alpha_pattern",
      "use_qalora", "layer_replication", "arrow_config", "use_bdlora", "alora_invocation_tokens"};
  static constexpr std::string_view starts[] = {"gaussian", "orthogonal", "eva"};
  using Of = PeftSign::Of;
  static constexpr auto attention = name_at(LowRank::target_names, 1), linear = name_at(LowRank::target_names, 2);
  static constexpr PeftSign signs[] = {{Of::query, Of::key, "lora_A.weight", "lora-targets", attention},
                                       {Of::up, Of::up, "lora_A.weight", "lora-targets", linear},
                                       {Of::down, Of::down, "lora_A.weight", "lora-targets", linear}};
  static constexpr PeftForm peft{.type = "LORA",
                                 .tensors = tensors,
                                 .without = without,
                                 .signs = signs,
                                 .start = "init_lora_weights",
                                 .starts = starts};
  static void peft_numbers(auto& m, auto&& visit) {
    visit("r", m.rank);
    visit("lora_alpha", m.alpha);
  }
  /// The factor is then alpha/√r.
  static void peft_flags(LowRank& m, auto&& has) {
    if (has("use_rslora")) m.alpha *= std::sqrt(static_cast<double>(m.rank));
  }
  static PeftProduct peft_product(const LowRank& m) { return {m.rank, m.alpha / static_cast<double>(m.rank)}; }
  /// What the first factors read, where nothing else keeps it, and what they give. What a gate made is freed by the
  /// time that its gradients are there; where nothing is dropped one gradient is that of a block's input and output.
  static Kept kept(const LowRank& m, const StepSizes& s) {
    const Index attention = s.width + (m.all_of_attention() ? 4 : 2) * m.rank;
    if (!m.feed()) return {attention};
    const Index feed = s.width + s.ffn + (s.gated ? 3 : 2) * m.rank;
    return {attention, feed, -(s.gated ? s.ffn : 0) - (s.drops ? 0 : s.width)};
  }
  /// Values a token alive in a block that keeps nothing, while more than query and value is updated, at most: keys,
  /// values and what output reads, or what the feed-forward block reads and a gate; and what a layer gives, what its
  /// update gives, and that scaled.
  static Index passing(const LowRank& m, const StepSizes& s) {
    const Index attention = m.all_of_attention() ? 2 * s.keys() + s.queries() + 3 * s.width + m.rank : 0;
    const Index feed = m.feed() ? (s.gated ? 4 : 3) * s.ffn + (s.gated ? 2 : 1) * s.width + m.rank : 0;
    return std::max(attention, feed);
  }
};

/// Updates that are zero at the start.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const LowRank& method, const AdaptOptions& options) {
  for (auto* layer : layers) {
    const auto add = [&](nn::Linear<T, B>& linear, std::uint32_t place, std::uint32_t draw) {
      linear.update = nn::Lora<T, B>::make(linear.in(), linear.out(), method.rank, method.alpha,
                                           {options.seed, layer->site + place, draw});
    };
    const auto updated = [&](nn::MultiHeadAttention<T, B>& attention, std::uint32_t more) {
      add(attention.query, more + 6, 0);
      add(attention.value, more + 7, 0);
      if (!method.all_of_attention()) return;
      add(attention.key, more + 6, 1);
      add(attention.output, more + 7, 1);
    };
    updated(layer->attention, 0);
    if (layer->cross) updated(*layer->cross, layer->more);
    if (!method.feed()) continue;
    add(layer->up, 6, 2);
    add(layer->down, 7, 2);
    if (layer->gate) add(*layer->gate, 6, 3);
  }
}

}  // namespace meft
