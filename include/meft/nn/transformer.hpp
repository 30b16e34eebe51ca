// Owns: one description of a transformer layer, from which the models configure theirs; methods attach to it here.
#pragma once

#include <optional>

#include <meft/nn/adapter.hpp>
#include <meft/nn/attention.hpp>

namespace meft::nn {

/// The names that a model family gives to the parts of a layer in its checkpoints.
struct LayerNames {
  const char *query, *key, *value, *output, *attention_norm, *up, *down, *mlp_norm;
};

/// Post-norm layer (Vaswani et al., arXiv 1706.03762): h = LN(x + attention(x)), y = LN(h + mlp(h)), with dropout
/// before each residual. x [tokens, width] → the same.
template <Real T, Backend B = Cpu>
struct TransformerLayer {
  const LayerNames* names = nullptr;
  SelfAttention<T, B> attention;
  LayerNorm<T, B> attention_norm;
  Linear<T, B> up, down;
  LayerNorm<T, B> mlp_norm;
  Activation activation = Activation::gelu;
  float dropout = 0;
  std::uint32_t site = 0;  // its dropouts draw from site, site + 1, …, site + sites − 1
  static constexpr std::uint32_t sites = 8;

  // What methods add. Sequential: t + adapter(t) on a block's output t. Parallel: adapter(block input) added to it.
  enum class Placement { sequential, parallel };
  std::optional<Adapter<T, B>> attention_adapter{}, mlp_adapter{}, reversible_adapter{};
  Placement mlp_placement = Placement::sequential;

  Var<T, B> drop(const Var<T, B>& x, const Context<T, B>& c, std::uint32_t offset) const {
    if (!c.run.training || dropout == 0) return x;
    return meft::dropout(x, dropout, c.run.key(site + offset), static_cast<std::uint64_t>(c.first_row * x.dim(-1)));
  }

  /// The attention block: LN(x + t), t = dropout(attention(x)).
  Var<T, B> attend(const Var<T, B>& x, const Context<T, B>& c) const {
    auto t = drop(attention(x, c), c, 1);
    if (attention_adapter) t = t + (*attention_adapter)(t, c);
    return attention_norm(x + t);
  }

  /// The feed-forward block: LN(h + u), u = dropout(mlp(h)).
  Var<T, B> feed(const Var<T, B>& h, const Context<T, B>& c) const {
    auto u = drop(down(activate(up(h), activation)), c, 2);
    if (mlp_adapter) u = u + (*mlp_adapter)(mlp_placement == Placement::parallel ? h : u, c);
    return mlp_norm(h + u);
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& c) const { return feed(attend(x, c), c); }

  Index width() const { return attention_norm.weight.shape()[0]; }

  static void parts(auto& self, auto&& visit) {
    visit(self.names->query, self.attention.query);
    visit(self.names->key, self.attention.key);
    visit(self.names->value, self.attention.value);
    visit(self.names->output, self.attention.output);
    visit(self.names->attention_norm, self.attention_norm);
    visit(self.names->up, self.up);
    visit(self.names->down, self.down);
    visit(self.names->mlp_norm, self.mlp_norm);
    visit("attention_adapter", self.attention_adapter);
    visit("mlp_adapter", self.mlp_adapter);
    visit("reversible_adapter", self.reversible_adapter);
  }
};

}  // namespace meft::nn
