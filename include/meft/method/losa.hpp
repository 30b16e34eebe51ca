// Owns: LoSA. Mercea, Gritsenko, Schmid, Arnab, "Time-, Memory- and Parameter-Efficient Visual Adaptation",
// arXiv 2402.02887. With taps h_1 … h_L: y_0 = 0, y_i = y_{i−1} + g_i(h_i + y_{i−1}), the output is h_L + y_L.
// Inferred, since neither the paper's formulas of g nor its code were at hand: with z what g reads,
// c = γ_c ⊙ U_c·gelu(D_c·LN(z)) mixes channels, t = γ_t ⊙ U_t·gelu(D_t·LN(z + c)ᵀ) tokens, and g(z) = c + t.
#pragma once

#include <algorithm>
#include <vector>

#include <meft/method/adapt.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// Low-rank mixers beside frozen layers: of channels, and in models that read images, whose sequences are of one
/// length, of tokens.
struct Losa {
  Index rank = 8;
};

/// One of a layer's mixers: γ ⊙ U·gelu(D·LN(x)), along the last axis or, of sequences of `tokens`, along theirs.
template <Real T, Backend B = Cpu>
struct LosaMixer {
  nn::Norm<T, B> norm;
  nn::Linear<T, B> down, up;
  Parameter<T, B> scale{};  // γ [width]
  Index tokens = 0;         // 0: channels

  /// x [rows, width], the same back.
  Var<T, B> operator()(const Var<T, B>& x) const {
    const auto low_rank = [&](const Var<T, B>& z) { return up(down.activated(z, Activation::gelu)); };
    const Index width = x.dim(1);
    if (!tokens) return low_rank(norm(x)) * scale;
    const auto across = permute(reshape(norm(x), {x.dim(0) / tokens, tokens, width}), {0, 2, 1});
    return reshape(permute(low_rank(across), {0, 2, 1}), x.shape()) * scale;
  }

  static void parts(auto& self, auto&& visit) {
    visit("norm", self.norm);
    visit("down", self.down);
    visit("up", self.up);
    visit("scale", self.scale);
  }
};

template <Real T, Backend B = Cpu>
struct LosaLayer {
  LosaMixer<T, B> channels;
  std::vector<LosaMixer<T, B>> tokens;  // one, or none

  static void parts(auto& self, auto&& visit) {
    visit("channels", self.channels);
    visit("tokens", self.tokens);
  }
};

template <Real T, Backend B = Cpu>
struct LosaNetwork {
  std::vector<LosaLayer<T, B>> layers;

  /// For images of `tokens` tokens; 0: of sequences of any length.
  static LosaNetwork make(const Losa& method, const std::vector<nn::TransformerLayer<T, B>>& frozen, Index tokens,
                          std::uint64_t seed) {
    constexpr double epsilon = 1e-5;
    const Index width = frozen.front().width();
    std::uint32_t site = side_site(frozen.front().site);
    const auto mixer = [&](Index axis, Index sequence) {
      LosaMixer<T, B> out{
          nn::Norm<T, B>::identity(width, epsilon), nn::Linear<T, B>::normal(axis, method.rank, {seed, site++, 0}),
          nn::Linear<T, B>::normal(method.rank, axis, {seed, site++, 0}), Parameter<T, B>::ones({width}), sequence};
      out.up.weight.value().zero();
      return out;
    };
    LosaNetwork net;
    for (std::size_t i = 0; i < frozen.size(); ++i) {
      net.layers.push_back({mixer(width, 0), {}});
      if (tokens) net.layers.back().tokens.push_back(mixer(tokens, tokens));
    }
    return net;
  }

  Var<T, B> operator()(const typename SideNetwork<T, B>::Taps& h, const Context<T, B>& context) const {
    for (const auto& mixer : layers.front().tokens)
      for (Index s = 0; s < context.offsets.sequences(); ++s)
        require(context.offsets.length(s) == mixer.tokens,
                "losa: mixes tokens of images of one size: tokens of an image, expected and found", mixer.tokens,
                context.offsets.length(s));
    Var<T, B> y;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto z = i ? h[i + 1] + y : h[i + 1];
      auto g = layers[i].channels(z);
      for (const auto& mixer : layers[i].tokens) g = g + mixer(z + g);
      y = i ? y + g : g;
    }
    return h.back() + y;
  }

  static void parts(auto& self, auto&& visit) { visit("layers", self.layers); }
};

template <>
struct Described<Losa> {
  static constexpr std::string_view name = "losa", about = "low-rank mixers beside frozen layers";
  static constexpr MethodFacts facts = side_facts;
  static void options(auto& m, auto&& visit) {
    visit(Option{"mixer-rank", "of the mixers of channels and of tokens"}, Whole{1, 65536}, m.rank);
  }
  static Recipe recipe(const Losa&) { return {.rate = 1e-3}; }
  static Index added(const Losa& m, const StepSizes& s) { return 2 * s.width * m.rank; }
  /// Taps; of each mixer what is normed and its two numbers, the normed, the hidden layer and what γ multiplies; in
  /// models of images that twice. On the way the gradients of y, g and z; or what is alive in a frozen layer.
  template <Real T, Backend B>
  static Index activation(const Losa& m, const StepSizes& s) {
    const Index mixers = s.layers * (s.images ? 2 : 1);
    const Index kept = (s.layers + 1) * s.width + mixers * (3 * s.width + 2 + m.rank), on_the_way = 4 * s.width;
    if (s.held) return s.tokens * kept;
    return std::max(s.tokens * std::max(kept + on_the_way, (s.layers + 2) * s.width + s.passing()),
                    s.at_head(s.tokens * kept));
  }
};

template <class Model>
auto adapt(Model& model, const Losa& method, const AdaptOptions& options = {}) {
  using Network = LosaNetwork<typename Model::value_type, typename Model::backend>;
  detail::require_options(method);
  Index tokens = 0;
  if (const auto& patches = model.spec.patches)
    tokens = options.image_tokens ? options.image_tokens : patches->tokens(patches->image, patches->image);
  return detail::side_body(model, options,
                           [&](const auto& layers) { return Network::make(method, layers, tokens, options.seed); });
}

}  // namespace meft
