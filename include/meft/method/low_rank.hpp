// Owns: LoRA. Hu et al., arXiv 2106.09685.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>
#include <utility>

#include <meft/method/adapt.hpp>

namespace meft {

/// Low-rank updates of linear layers; cross attention has its own.
struct LowRank {
  /// Of which: a bit each, at its place in Projection; `gate` where a block has one.
  enum class Targets : unsigned {
    query = 1,
    key = 2,
    value = 4,
    output = 8,
    up = 16,
    gate = 32,
    down = 64,
    query_value = query | value,
    attention = query | key | value | output,
    linear = attention | up | gate | down
  };
  static constexpr std::pair<std::string_view, Targets> names[] = {{"query-value", Targets::query_value},
                                                                   {"attention", Targets::attention},
                                                                   {"linear", Targets::linear},
                                                                   {"query", Targets::query},
                                                                   {"key", Targets::key},
                                                                   {"value", Targets::value},
                                                                   {"output", Targets::output},
                                                                   {"up", Targets::up},
                                                                   {"gate", Targets::gate},
                                                                   {"down", Targets::down}};
  Index rank = 8;
  double alpha = 16;
  Targets targets = Targets::query_value;

  bool updates(Targets one) const { return count(one) > 0; }
  /// How many of these.
  Index count(Targets these) const {
    return std::popcount(static_cast<unsigned>(targets) & static_cast<unsigned>(these));
  }
};
constexpr LowRank::Targets operator|(LowRank::Targets a, LowRank::Targets b) {
  return static_cast<LowRank::Targets>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

template <>
struct Described<LowRank> {
  static constexpr std::string_view name = "lora", about = "low-rank updates, of query and value or more";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"lora-rank", "rank"}, Whole{1, 65536}, m.rank);
    visit(Option{.name = "lora-alpha", .help = "the updates' factor times the rank", .stated = Stated::changed},
          Positive{}, m.alpha);
    visit(Option{.name = "lora-targets",
                 .help = "what is updated: query, key, value, output, up, gate, down, some of them; query-value; "
                         "attention: its four; linear: all",
                 .stated = Stated::changed},
          SomeOf<Targets>{LowRank::names}, m.targets);
  }
  using Targets = LowRank::Targets;
  static constexpr Targets queries = Targets::query | Targets::output, keys = Targets::key | Targets::value,
                           entering = Targets::query | keys;
  static constexpr Targets feeding(const StepSizes& s) {
    return s.gated ? Targets::up | Targets::gate | Targets::down : Targets::up | Targets::down;
  }
  static Index added(const LowRank& m, const StepSizes& s) {
    return m.rank * (m.count(queries) * (s.width + s.queries()) + m.count(keys) * (s.width + s.keys()) +
                     m.count(feeding(s)) * (s.width + s.ffn));
  }
  static constexpr PeftTensor tensors[] = {{"lora_A.weight", "lora_A.weight"},
                                           {"lora_B.weight", "lora_B.weight", PeftTensor::Shape::outputs}};
  static constexpr std::string_view without[] = {
      "bias",       "fan_in_fan_out",    "lora_bias",    "use_dora",   "rank_pattern",           "alpha_pattern",
      "use_qalora", "layer_replication", "arrow_config", "use_bdlora", "alora_invocation_tokens"};
  static constexpr std::string_view starts[] = {"gaussian", "orthogonal", "eva", "mica"};
  static constexpr PeftForm peft{
      .type = "LORA", .tensors = tensors, .without = without, .start = "init_lora_weights", .starts = starts};
  static void peft_numbers(auto& m, auto&& visit) {
    visit("r", m.rank);
    visit("lora_alpha", m.alpha);
  }
  /// The factor is then alpha/√r.
  static void peft_flags(LowRank& m, auto&& has) {
    if (has("use_rslora")) m.alpha *= std::sqrt(static_cast<double>(m.rank));
  }
  static void peft_changed(LowRank& m, auto&& has) {
    Targets found{};
    for (const auto& [name, one] : LowRank::names) {
      const auto bits = static_cast<unsigned>(one);
      if (std::has_single_bit(bits) && has(static_cast<Projection>(std::countr_zero(bits)))) found = found | one;
    }
    if (found != Targets{}) m.targets = found;
  }
  static PeftProduct peft_product(const LowRank& m) { return {m.rank, m.alpha / static_cast<double>(m.rank)}; }
  /// What the first factors read, where nothing else keeps it, and what they give. What a gate made is freed by the
  /// time that its gradients are there; where nothing is dropped one gradient is that of a block's input and output.
  static Kept kept(const LowRank& m, const StepSizes& s) {
    const Index attention = (m.updates(entering) ? s.width : 0) + m.count(Targets::attention) * m.rank;
    if (!m.updates(feeding(s))) return {attention};
    const Index in = m.updates(Targets::up | Targets::gate) ? s.width : 0,
                hidden = m.updates(Targets::down) ? s.ffn : 0;
    const Index moving = m.updates(Targets::down) ? -(s.gated ? s.ffn : 0) - (s.drops ? 0 : s.width)
                         : s.gated                ? -(s.drops ? 0 : s.width)
                                                  : s.ffn - 2 * s.width;
    return {attention, in + hidden + m.count(feeding(s)) * m.rank, moving};
  }
  /// Of those of the lowest layer what is below all updates, and not kept.
  static Index below(const LowRank& m, const StepSizes& s) {
    if (m.updates(entering)) return 0;
    if (m.updates(Targets::output)) return s.attention() - s.queries();
    const Index feed = m.updates(s.gated ? Targets::gate : Targets::up) ? 0
                       : m.updates(Targets::up)                         ? s.ffn
                                                                        : s.hidden();
    return s.attention() + (s.gated ? 2 : 1) * s.norm() + feed;
  }
  /// Values a token alive in a block that keeps nothing, while more than query and value is updated, at most: keys,
  /// values and what output reads, or what the feed-forward block reads and a gate; and what a layer gives, what its
  /// update gives, and that scaled.
  static Index passing(const LowRank& m, const StepSizes& s) {
    const bool more = m.updates(Targets::key | Targets::output);
    const Index attention = more ? 2 * s.keys() + s.queries() + 3 * s.width + m.rank : 0;
    const Index inner = (s.gated ? 3 : 2) * (s.ffn + s.width) + m.rank;
    const Index first = m.updates(s.gated ? Targets::gate : Targets::up) ? s.ffn - s.width : 0;
    const Index feed = m.updates(feeding(s)) ? inner + first : 0;
    return std::max(attention, feed);
  }
};

/// Updates that are zero at the start. Errors: a layer has nothing of what is to be updated.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const LowRank& method, const AdaptOptions& options) {
  using Targets = LowRank::Targets;
  for (auto* layer : layers) {
    bool some = false;
    const auto add = [&](Targets of, nn::Linear<T, B>& linear, std::uint32_t place, std::uint32_t draw) {
      if (!method.updates(of)) return;
      some = true;
      linear.update = nn::Lora<T, B>::make(linear.in(), linear.out(), method.rank, method.alpha,
                                           {options.seed, layer->site + place, draw});
    };
    const auto updated = [&](nn::MultiHeadAttention<T, B>& attention, std::uint32_t more) {
      add(Targets::query, attention.query, more + 6, 0);
      add(Targets::value, attention.value, more + 7, 0);
      add(Targets::key, attention.key, more + 6, 1);
      add(Targets::output, attention.output, more + 7, 1);
    };
    updated(layer->attention, 0);
    if (layer->cross) updated(*layer->cross, layer->more);
    add(Targets::up, layer->up, 6, 2);
    add(Targets::down, layer->down, 7, 2);
    if (layer->gate) add(Targets::gate, *layer->gate, 6, 3);
    require(some, "lora: option lora-targets: the layers have nothing of it");
  }
}

}  // namespace meft
