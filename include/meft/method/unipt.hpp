// Owns: UniPT. Diao et al., "UniPT: Universal Parallel Tuning for Transfer Learning with Efficient Parameter and
// Memory", arXiv 2308.14316. With taps h_0 … h_L: t_i = LN(h_i·W_iᵀ + b_i), a = t_L; for each sequence
// m_i = (A_i + I)·t_i, A_i = relu(a·t_iᵀ) with rows divided by their sums; q = softmax over i < L of
// w·(mean a ⊙ mean t_i); out = W_o·relu(a + LN(P·Σ q_i m_i)) + b_o, to which h_L may be added.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/ops/relu_attention.hpp>
#include <meft/ops/softmax.hpp>

namespace meft {

/// A network beside frozen layers that projects what comes out of each and mixes it.
struct Unipt {
  Index projection = 512;                 // the width of t_i
  SideStart start = SideStart::backbone;  // random: as in the authors' code for images and texts
};

/// The network. In a causal model no token may see a later one: A_i has rows up to a token's own alone, and q is each
/// token's own, of w·(a ⊙ t_i). The softmax does not see the bias of the paper's w, which is left out.
template <Real T, Backend B = Cpu>
struct UniptNetwork {
  std::vector<SideProjection<T, B>> taps;  // of h_0 … h_L
  nn::Linear<T, B> gate;                   // w [1, projection]
  nn::Linear<T, B> mix;                    // P
  nn::Norm<T, B> mix_norm;
  nn::Linear<T, B> output;  // W_o
  bool residual = true, causal = false;

  static UniptNetwork make(const Unipt& method, const std::vector<nn::TransformerLayer<T, B>>& layers,
                           std::uint64_t seed) {
    constexpr double epsilon = 1e-5;
    const Index width = layers.front().width(), inner = method.projection;
    std::uint32_t site = side_site(layers.front().site);
    const auto linear = [&](Index in, Index out) { return nn::Linear<T, B>::normal(in, out, {seed, site++, 0}); };
    UniptNetwork net;
    for (std::size_t i = 0; i <= layers.size(); ++i)
      net.taps.push_back({linear(width, inner), nn::Norm<T, B>::identity(inner, epsilon)});
    net.gate = linear(inner, 1);
    net.gate.bias = {};
    net.mix = linear(inner, inner);
    net.mix_norm = nn::Norm<T, B>::identity(inner, epsilon);
    net.output = linear(inner, width);
    net.residual = method.start == SideStart::backbone;
    if (net.residual) net.output.weight.value().zero();
    net.causal = layers.front().attention.causal;
    return net;
  }

  Var<T, B> operator()(const typename SideNetwork<T, B>::Taps& h, const Context<T, B>& context) const {
    const Offsets& offsets = context.offsets;
    const Offsets seen = context.seen();
    std::vector<Var<T, B>> t, gates;
    for (std::size_t i = 0; i < taps.size(); ++i) t.push_back(taps[i](h[i]));
    const auto a = std::exchange(t.back(), {});
    t.pop_back();
    const auto of_sequence = [&](const Var<T, B>& x) { return causal ? x : mean_rows(x, offsets); };
    const auto guide = of_sequence(a);
    for (const auto& x : t) gates.push_back(gate(guide * of_sequence(x)));
    auto q = softmax(concat(gates, 1));  // [sequences, L], in a causal model [tokens, L]
    if (!causal) q = gather(q, sequence_of_rows(offsets));
    const auto all = context.behind(&taps.back(), a);
    Var<T, B> sum;
    for (std::size_t i = 0; i < t.size(); ++i) {
      const auto at = static_cast<Index>(i);
      const auto m = relu_attention(all, context.behind(&taps[i], t[i]), seen, causal);
      const auto part = (context.cache ? gather(m, last_rows(seen, offsets)) : m) * slice(q, 1, at, at + 1);
      sum = i ? sum + part : part;
    }
    const auto out = output(relu(a + mix_norm(mix(sum))));
    return residual ? h.back() + out : out;
  }

  static void parts(auto& self, auto&& visit) {
    visit("taps", self.taps);
    visit("gate", self.gate);
    visit("mix", self.mix);
    visit("mix_norm", self.mix_norm);
    visit("output", self.output);
  }

 private:
  /// The rows of the last tokens of each sequence, as many as `offsets` has.
  static Tensor<std::int32_t, B> last_rows(const Offsets& all, const Offsets& offsets) {
    std::vector<std::int32_t> out;
    for (Index s = 0; s < all.sequences(); ++s)
      for (Index row = all.end(s) - offsets.length(s); row < all.end(s); ++row)
        out.push_back(static_cast<std::int32_t>(row));
    return Tensor<std::int32_t, B>::from({offsets.tokens()}, out);
  }
  static Tensor<std::int32_t, B> sequence_of_rows(const Offsets& offsets) {
    std::vector<std::int32_t> out;
    for (Index s = 0; s < offsets.sequences(); ++s)
      out.insert(out.end(), static_cast<std::size_t>(offsets.length(s)), static_cast<std::int32_t>(s));
    return Tensor<std::int32_t, B>::from({offsets.tokens()}, out);
  }
};

template <>
struct Described<Unipt> {
  static constexpr std::string_view name = "unipt", about = "a network beside frozen layers that mixes their outputs";
  static constexpr MethodFacts facts = side_facts;
  static void options(auto& m, auto&& visit) {
    visit(projection_option, projections, m.projection);
    visit(side_start_option, side_starts, m.start);
  }
  static Index added(const Unipt& m, const StepSizes& s) { return s.width * m.projection; }
  /// Taps, and of each but the last what is normed, t and m, in a causal model a ⊙ t too, beside a few numbers a token.
  /// The most is there at the end of the forward pass, or where the gradients of W_o or of P are made; a frozen layer
  /// takes more where it is very wide.
  template <Real T, Backend B>
  static Index activation(const Unipt& m, const StepSizes& s) {
    const Index n = s.tokens, inner = m.projection, each = (s.causal ? 4 : 3) * inner + 5;
    const Index kept = (s.layers + 1) * s.width + s.layers * each + 10;
    if (s.held) return n * kept;
    const Index end =
        n * (kept + 6 * inner + s.width) + std::max({n * inner, n * s.width + s.width * inner, inner * inner});
    const Index layer = (s.layers + 2) * s.width + s.passing();
    return std::max({end, n * layer, s.at_head(n * kept)});
  }
};

template <class Model>
auto adapt(Model& model, const Unipt& method, const AdaptOptions& options = {}) {
  using Network = UniptNetwork<typename Model::value_type, typename Model::backend>;
  detail::require_options(method);
  return detail::side_body(model, options,
                           [&](const auto& layers) { return Network::make(method, layers, options.seed); });
}

}  // namespace meft
