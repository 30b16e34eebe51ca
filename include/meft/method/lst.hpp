// Owns: ladder side tuning. Sung, Cho, Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer
// Learning", arXiv 2206.06522. With taps h_0 … h_L: s_0 = D_0·h_0, s_i = side_i(q_i·s_{i−1} + (1 − q_i)·D_i·h_i),
// q_i = σ(α_i/0.1), α_i = 0 at the start; side_i is a layer as the model's, r times narrower; out = U·LN(s_L), which
// takes the place of h_L, or is added to it.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// A narrow transformer beside frozen layers.
struct Lst {
  Index reduction = 8;                    // r: how many times narrower than the layers
  SideStart start = SideStart::backbone;  // random: as its authors
};

/// The network. Its layers have the model's kind of norms, activation, heads and positions, each head r times narrower,
/// and no attention to another sequence.
template <Real T, Backend B = Cpu>
struct LstNetwork {
  static constexpr double temperature = 0.1, deviation = 0.02;

  std::vector<nn::Linear<T, B>> down;  // D_i [width/r, width], of h_0 … h_L
  Parameter<T, B> gates;               // α [L]
  std::vector<nn::TransformerLayer<T, B>> layers;
  nn::Norm<T, B> norm;
  nn::Linear<T, B> up;  // U [width, width/r]
  bool residual = true;

  static LstNetwork make(const Lst& method, const std::vector<nn::TransformerLayer<T, B>>& beside, std::uint64_t seed) {
    const auto& first = beside.front();
    const auto count = static_cast<Index>(beside.size());
    const Index width = first.width(), inner = std::max<Index>(width / method.reduction, 1);
    std::uint32_t site = side_site(first.site);
    const auto linear = [&](Index in, Index out) {
      return nn::Linear<T, B>::normal(in, out, {seed, site++, 0}, deviation);
    };
    LstNetwork net;
    for (Index i = 0; i <= count; ++i) net.down.push_back(linear(width, inner));
    net.gates = Parameter<T, B>::zeros({count});
    for (const auto& layer : beside) {
      net.layers.push_back(narrow(layer, method.reduction, inner));
      nn::for_each_parameter(net.layers.back(), [&](const std::string&, auto& p) {
        if (p.shape().rank() > 1) fill_normal(p.value(), {seed, site++, 0}, deviation);
        else p.value().zero();
      });
      for (auto* one : {&net.layers.back().attention_norm, &net.layers.back().mlp_norm})
        one->weight.value() = Parameter<T, B>::ones({inner}).value();
    }
    net.norm = nn::Norm<T, B>::empty(inner, first.mlp_norm.epsilon, first.mlp_norm.kind);
    net.norm.weight.value() = Parameter<T, B>::ones({inner}).value();
    if (net.norm.bias.defined()) net.norm.bias.value().zero();
    net.up = linear(inner, width);
    net.residual = method.start == SideStart::backbone;
    if (net.residual) net.up.weight.value().zero();
    return net;
  }

  Var<T, B> operator()(const typename SideNetwork<T, B>::Taps& h, const Context<T, B>& context) const {
    const auto q = sigmoid(gates / temperature);
    auto s = down[0](h[0]);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto at = static_cast<Index>(i);
      const auto tap = down[i + 1](h[i + 1]);
      s = layers[i](tap + slice(q, 0, at, at + 1) * (s - tap), context);
    }
    const auto out = up(norm(s));
    return residual ? h.back() + out : out;
  }

  static void parts(auto& self, auto&& visit) {
    visit("down", self.down);
    visit("gates", self.gates);
    visit("layer", self.layers);
    visit("norm", self.norm);
    visit("up", self.up);
  }

 private:
  /// A layer as `layer`, of width `inner`, uninitialised.
  static nn::TransformerLayer<T, B> narrow(const nn::TransformerLayer<T, B>& layer, Index reduction, Index inner) {
    const auto& a = layer.attention;
    const Index head = a.query.out() / a.heads;
    auto out = nn::TransformerLayer<T, B>::empty(
        *layer.names,
        {.width = inner,
         .heads = a.heads,
         .key_heads = a.key_heads,
         .head_width = std::max<Index>((head / reduction + 1) / 2 * 2, 2),  // even: positions turn pairs
         .ffn = std::max<Index>(layer.up.out() / reduction, 1),
         .activation = layer.activation,
         .gated = layer.gate.has_value(),
         .norm = layer.mlp_norm.kind,
         .epsilon = layer.mlp_norm.epsilon,
         .norm_first = layer.norm_first,
         .causal = a.causal,
         .bias = layer.up.bias.defined(),
         .qkv_bias = a.query.bias.defined()},
        0);
    if (a.rotary) {
      out.attention.rotary = a.rotary;
      Index& turned = out.attention.rotary->rotated;
      turned = std::max<Index>(turned / reduction / 2 * 2, 2);
    }
    return out;
  }
};

template <>
struct Described<Lst> {
  static constexpr std::string_view name = "lst", about = "a ladder: a narrow transformer beside frozen layers";
  static constexpr MethodFacts facts{.beside = true, .recomputes = false, .trains_layers = false, .starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"reduction", "how many times narrower the network beside the layers is"}, Whole{1, 1024}, m.reduction);
    visit(side_start_option, side_starts, m.start);
  }
  static Index added(const Lst& m, Index width) { return width * width / m.reduction; }
  /// Taps, and of each narrow layer what a layer that trains keeps; a frozen layer takes more where it is very wide.
  template <Real T, Backend B>
  static Index activation(const Lst& m, const StepSizes& s) {
    const Index n = s.tokens, inner = std::max<Index>(s.width / m.reduction, 1);
    const Index hidden = std::max<Index>(s.ffn / m.reduction, 1);
    const Index kept = (s.layers + 1) * s.width + s.layers * (9 * inner + 2 * hidden + s.heads + 4);
    const Index layer = (s.layers + 2) * s.width + std::max(2 * s.ffn, s.attention());
    return n * std::max(kept + 3 * s.width, layer);
  }
};

template <class Model>
auto adapt(Model& model, const Lst& method, const AdaptOptions& options = {}) {
  using Network = LstNetwork<typename Model::value_type, typename Model::backend>;
  return detail::side_body(model, options,
                           [&](const auto& layers) { return Network::make(method, layers, options.seed); });
}

}  // namespace meft
