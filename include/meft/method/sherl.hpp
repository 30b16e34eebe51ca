// Owns: SHERL. Diao et al., "SHERL: Synthesizing High Accuracy and Efficient Memory for Resource-Limited Transfer
// Learning", arXiv 2407.07523. With taps h_0 … h_m, m layers below the late ones: t_i = LN(h_i·W_iᵀ + b_i), a = t_m;
// of each token ρ_i = Σ_j relu(cos(t_i, t_j)), c_i = relu(w·(t_i ⊙ a) + b)/ρ_i, over their sum, for i, j < m, with ρ_i
// at least ½: it is, from 1 on, unless t_i is zero;
// o = dropout(LN(W_o·relu(a + Σ c_i·t_i) + b_o)) + tanh(γ/0.1)·h_m, γ = 0 at the start. The late layers, frozen, run on
// o and are differentiated.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// A network that mixes what comes out of frozen layers, and the highest layers on top of it.
struct Sherl {
  Index projection = 512;                 // the width of t_i
  Index late_layers = 1;                  // the highest, which read the network's output
  SideStart start = SideStart::backbone;  // h_m is added as it is, and the norm of the rest is zero
};

template <Real T, Backend B = Cpu>
struct SherlNetwork {
  static constexpr double temperature = 0.1, floor = 1e-12;  // of γ; below the sum of c and in the cosine
  static constexpr float dropout = 0.1f;

  std::vector<SideProjection<T, B>> taps;  // of h_0 … h_m
  nn::Linear<T, B> gate;                   // w [1, projection]
  nn::Linear<T, B> output;                 // W_o [width, projection]
  nn::Norm<T, B> norm;
  Parameter<T, B> residual{};  // γ [1]; none: h_m is added as it is
  std::size_t late = 1;
  std::uint32_t site = 0;

  static SherlNetwork make(const Sherl& method, const std::vector<nn::TransformerLayer<T, B>>& layers,
                           std::uint64_t seed) {
    const auto depth = static_cast<Index>(layers.size());
    require(method.late_layers < depth,
            "sherl: option late-layers: all layers are late, so that none is left to be mixed", method.late_layers,
            depth);
    constexpr double epsilon = 1e-5;
    const Index width = layers.front().width(), inner = method.projection;
    SherlNetwork net;
    net.site = side_site(layers.front().site);
    std::uint32_t site = net.site + 1;
    const auto linear = [&](Index in, Index out) { return nn::Linear<T, B>::normal(in, out, {seed, site++, 0}); };
    net.late = static_cast<std::size_t>(method.late_layers);
    for (Index i = 0; i <= depth - method.late_layers; ++i)
      net.taps.push_back({linear(width, inner), nn::Norm<T, B>::identity(inner, epsilon)});
    net.gate = linear(inner, 1);
    net.gate.bias = Parameter<T, B>::ones({1});  // no tap is dead
    net.output = linear(inner, width);
    net.norm = nn::Norm<T, B>::identity(width, epsilon);
    if (method.start == SideStart::backbone) net.norm.weight.value().zero();
    else net.residual = Parameter<T, B>::zeros({1});
    return net;
  }

  Var<T, B> operator()(const typename SideNetwork<T, B>::Taps& h, const Context<T, B>& context) const {
    const Index tokens = h.front().dim(0), inner = gate.in(), shallow = static_cast<Index>(taps.size()) - 1;
    std::vector<Var<T, B>> t;
    for (std::size_t i = 0; i + 1 < taps.size(); ++i) t.push_back(reshape(taps[i](h[i]), {tokens, 1, inner}));
    const auto a = taps.back()(h.back());
    const auto all = concat(std::exchange(t, {}), 1);  // [tokens, shallow, inner]
    const auto unit = rms_norm(all, Tensor<T, B>::full({inner}, T(1)), floor);
    const auto alike = sum(relu(gram(unit) / inner), {{-1}});  // ρ [tokens, shallow]
    const auto rho = alike + relu(0.5 - alike);                // of a zero t_i ½, of others to the bit what it is
    const auto raw = relu(reshape(gate(all * reshape(a, {tokens, 1, inner})), {tokens, shallow})) / rho;
    const auto share = raw / (sum(raw, {{-1}, true}) + floor);
    const auto mixed = reshape(matmul(reshape(share, {tokens, 1, shallow}), all), {tokens, inner});
    const auto o = meft::dropout(norm(output(relu(a + mixed))), context.run.training ? dropout : 0.0f,
                                 context.run.key(site), static_cast<std::uint64_t>(context.first_row * output.out()));
    return residual.defined() ? o + tanh(residual / temperature) * h.back() : o + h.back();
  }

  static void parts(auto& self, auto&& visit) {
    visit("taps", self.taps);
    visit("gate", self.gate);
    visit("output", self.output);
    visit("norm", self.norm);
    visit("residual", self.residual);
  }
};

template <>
struct Described<Sherl> {
  static constexpr std::string_view name = "sherl", about = "mixed outputs of frozen layers, and late layers on top";
  static constexpr MethodFacts facts = side_facts;
  static void options(auto& m, auto&& visit) {
    visit(projection_option, projections, m.projection);
    visit(Option{"late-layers", "the highest N layers read the network's output"}, Whole{0, 1024}, m.late_layers);
    visit(side_start_option, side_starts, m.start);
  }
  static Recipe recipe(const Sherl&) { return {.rate = 1e-3}; }  // measured: bench/RESULTS.md
  static Index added(const Sherl& m, const StepSizes& s) { return s.width * m.projection; }
  /// Taps; of each projection what is normed, t, its unit vector and t ⊙ a; on the way their gradients, or the late
  /// layers.
  template <Real T, Backend B>
  static Index activation(const Sherl& m, const StepSizes& s) {
    const Index inner = m.projection, below = s.layers - m.late_layers;
    const Index kept = (below + 1) * (s.width + inner + 2) + below * (3 * inner + 2 * below) + 3 * s.width;
    if (s.held) return s.tokens * (kept + m.late_layers * s.layer());
    const Index late = m.late_layers * s.layer() + 4 * s.width + s.hidden();
    return std::max(s.tokens * (kept + std::max(late, (3 * below + 2) * inner) + 2 * s.width),
                    s.at_head(s.tokens * (kept + m.late_layers * s.layer())));
  }
};

template <class Model>
auto adapt(Model& model, const Sherl& method, const AdaptOptions& options = {}) {
  using Network = SherlNetwork<typename Model::value_type, typename Model::backend>;
  detail::require_options(method);
  return detail::side_body(model, options,
                           [&](const auto& layers) { return Network::make(method, layers, options.seed); });
}

}  // namespace meft
