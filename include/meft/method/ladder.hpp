// Owns: a narrow transformer beside frozen layers, fed by their outputs. With taps h_0 … h_L: s_0 = D_0·h_0,
// s_i = side_i(q_i·s_{i−1} + (1 − q_i)·D_i·h_i), q_i = σ(α_i/temperature), α_i = 0 at the start; side_i is a layer as
// the model's, narrower; out = U·LN(s_L). Must not know: the methods that are ladders.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// What makes one ladder of the other.
struct LadderSpec {
  Index reduction = 8;         // how many times narrower than the layers
  double temperature = 1;      // of the gates
  bool gate_features = false;  // a gate a feature, else a layer
  Index rank = 0;         // D_i = LN(B_i·f(A_i·h)) with A_i [rank, width], f the layers' activation; 0: one matrix
  bool residual = false;  // h_L is added, and U begins at zero
  bool mixed = false;     // out = β·h_L + (1 − β)·U·LN(s_L), β = 1 at the start
};

/// The width of a ladder's heads: even, since positions turn pairs.
constexpr Index ladder_head(const LadderSpec& spec, Index head) {
  return std::max<Index>((head / spec.reduction + 1) / 2 * 2, 2);
}

/// The network. Its layers have the model's kind of norms, activation, heads and positions, each head as many times
/// narrower as the layers, and no attention to another sequence.
template <Real T, Backend B = Cpu>
struct Ladder {
  static constexpr double deviation = 0.02;

  /// D_i: [tokens, width] → [tokens, width/r].
  struct Down {
    nn::Linear<T, B> first;
    std::optional<nn::Linear<T, B>> second{};
    std::optional<nn::Norm<T, B>> norm{};
    Activation activation = Activation::gelu;

    Var<T, B> operator()(const Var<T, B>& h) const {
      return second ? (*norm)((*second)(first.activated(h, activation))) : first(h);
    }
    static void parts(auto& self, auto&& visit) {
      visit(self.second ? "first" : "", self.first);
      visit("second", self.second);
      visit("norm", self.norm);
    }
  };

  LadderSpec spec{};
  std::vector<Down> down{};
  Parameter<T, B> gates{};  // α [L, 1] or [L, width/r]
  std::vector<nn::TransformerLayer<T, B>> layers{};
  nn::Norm<T, B> norm{};
  nn::Linear<T, B> up{};    // U [width, width/r]
  Parameter<T, B> share{};  // β [1], or none

  static Ladder make(const LadderSpec& spec, const std::vector<nn::TransformerLayer<T, B>>& beside,
                     std::uint64_t seed) {
    require(spec.reduction > 0, "ladder: option reduction: expected an integer from 1, found", spec.reduction);
    const auto& first = beside.front();
    const auto count = static_cast<Index>(beside.size());
    const Index width = first.width(), inner = std::max<Index>(width / spec.reduction, 1);
    std::uint32_t site = side_site(first.site);
    const auto linear = [&](Index in, Index out) {
      return nn::Linear<T, B>::normal(in, out, {seed, site++, 0}, deviation);
    };
    const auto norm = [&] { return nn::Norm<T, B>::identity(inner, first.mlp_norm.epsilon, first.mlp_norm.kind); };
    Ladder net{.spec = spec};
    for (Index i = 0; i <= count; ++i) {
      Down one{linear(width, spec.rank ? spec.rank : inner)};
      if (spec.rank) one.second = linear(spec.rank, inner), one.norm = norm(), one.activation = first.activation;
      net.down.push_back(std::move(one));
    }
    net.gates = Parameter<T, B>::zeros({count, spec.gate_features ? inner : 1});
    for (const auto& layer : beside) net.layers.push_back(narrow(layer, spec, inner, seed, site));
    net.norm = norm();
    net.up = linear(inner, width);
    if (spec.residual) net.up.weight.value().zero();
    if (spec.mixed) net.share = Parameter<T, B>::ones({1});
    return net;
  }

  /// A layer as `layer`, of width `inner`: matrices from N(0, 0.02²), of sites from `site` on.
  static nn::TransformerLayer<T, B> narrow(const nn::TransformerLayer<T, B>& layer, const LadderSpec& spec, Index inner,
                                           std::uint64_t seed, std::uint32_t& site) {
    const auto& a = layer.attention;
    auto out = nn::TransformerLayer<T, B>::empty(*layer.names,
                                                 {.width = inner,
                                                  .heads = a.heads,
                                                  .key_heads = a.key_heads,
                                                  .head_width = ladder_head(spec, a.query.out() / a.heads),
                                                  .ffn = std::max<Index>(layer.up.out() / spec.reduction, 1),
                                                  .activation = layer.activation,
                                                  .gated = layer.gate.has_value(),
                                                  .norm = layer.mlp_norm.kind,
                                                  .epsilon = layer.mlp_norm.epsilon,
                                                  .norm_first = layer.norm_first,
                                                  .causal = a.causal,
                                                  .bias = layer.up.bias.defined(),
                                                  .qkv_bias = a.query.bias.defined()},
                                                 0);
    out.attention.relative = a.relative;
    if (a.rotary) {
      out.attention.rotary = a.rotary;
      Index& turned = out.attention.rotary->rotated;
      turned = std::max<Index>(turned / spec.reduction / 2 * 2, 2);
    }
    nn::for_each_parameter(out, [&](const std::string&, auto& p) {
      if (p.shape().rank() > 1) fill_normal(p.value(), {seed, site++, 0}, deviation);
      else p.value().zero();
    });
    for (auto* one : {&out.attention_norm, &out.mlp_norm})
      *one = nn::Norm<T, B>::identity(inner, layer.mlp_norm.epsilon, layer.mlp_norm.kind);
    return out;
  }

  Var<T, B> operator()(const typename SideNetwork<T, B>::Taps& h, const Context<T, B>& context) const {
    const auto q = sigmoid(gates / spec.temperature);
    auto s = down[0](h[0]);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto at = static_cast<Index>(i);
      const auto tap = down[i + 1](h[i + 1]);
      s = layers[i](tap + slice(q, 0, at, at + 1) * (s - tap), context);
    }
    const auto out = up(norm(s));
    if (share.defined()) return h.back() * share + out * (1 - share);
    return spec.residual ? h.back() + out : out;
  }

  static void parts(auto& self, auto&& visit) {
    visit("down", self.down);
    visit("gates", self.gates);
    visit("layer", self.layers);
    visit("norm", self.norm);
    visit("up", self.up);
    visit("share", self.share);
  }
};

inline constexpr Option reduction_option{"reduction", "how many times narrower the network beside the layers is"};
inline constexpr Whole reductions{1, 1024};

/// The most elements alive in a step: taps, what makes them narrow, and of each narrow layer what a layer that trains
/// keeps; a frozen layer takes more where it is very wide.
inline Index ladder_activation(const LadderSpec& spec, const StepSizes& s) {
  const Index inner = std::max<Index>(s.width / spec.reduction, 1), hidden = std::max<Index>(s.ffn / spec.reduction, 1);
  const Index attention = 4 * s.heads * ladder_head(spec, s.width / s.heads) + s.heads;
  const Index down = spec.rank ? 2 * spec.rank + inner + 2 : 0, end = (spec.mixed ? 4 : 3) * s.width;
  const Index kept = (s.layers + 1) * (s.width + down) + s.layers * (attention + 5 * inner + 2 * hidden + 4);
  if (s.held) return s.tokens * kept;
  const Index layer = (s.layers + 2) * s.width + s.passing();
  return std::max(s.tokens * std::max(kept + end, layer), s.at_head(s.tokens * kept));
}

namespace detail {

template <class Model>
auto ladder_body(Model& model, const LadderSpec& spec, const AdaptOptions& options) {
  using Network = Ladder<typename Model::value_type, typename Model::backend>;
  return side_body(model, options, [&](const auto& layers) { return Network::make(spec, layers, options.seed); });
}

}  // namespace detail

}  // namespace meft
