// Owns: one description of a transformer layer, from which every model configures its own; methods attach to it here.
#pragma once

#include <concepts>
#include <optional>

#include <meft/nn/adapter.hpp>
#include <meft/nn/attention.hpp>
#include <meft/nn/kronecker.hpp>
#include <meft/ops/feed_forward.hpp>
#include <meft/ops/gated.hpp>
#include <meft/ops/host_feed_forward.hpp>
#include <meft/ops/host_gated.hpp>
#include <meft/ops/scaled_activation.hpp>

namespace meft::nn {

/// The names that a model family gives to the parts of a layer in its checkpoints; those that it lacks are empty.
struct LayerNames {
  const char *query, *key, *value, *output, *attention_norm, *up, *down, *mlp_norm;
  const char *cross_query = "", *cross_key = "", *cross_value = "", *cross_output = "", *cross_norm = "";
  const char *attention_scale = "", *mlp_scale = "";
  const char* gate = "";
  const char *query_norm = "", *key_norm = "";
  const char *attention_post_norm = "", *mlp_post_norm = "";
};

/// What a family and its configuration make of a layer.
struct LayerSpec {
  Index width = 0, heads = 1;
  Index key_heads = 0, head_width = 0;  // of keys and values, and of every head; 0: as many as heads, width/heads
  Index ffn = 0;
  Activation activation = Activation::gelu;
  bool gated = false;  // down(activation(gate(x)) ⊙ up(x)) in place of down(activation(up(x)))
  NormKind norm = NormKind::layer;
  double epsilon = 1e-12;      // of the norms
  bool norm_first = false;     // pre-norm: each block norms its input; post-norm: its sum with the residual
  bool attention_norm = true;  // else what attention reads is not normed
  bool sandwich = false;       // what each block gives is normed too, before it meets the residual
  double scale = 0;            // of attention's scores; 0: 1/√(head width)
  bool causal = false;
  bool cross = false;    // a block that attends to the context's first side input, between the two others
  bool scaled = false;   // LayerScale (Touvron et al., arXiv 2103.17239): a factor for each feature of a block's output
  bool bias = true;      // of the linear layers, those of queries, keys and values apart
  bool qkv_bias = true;  // of these
  std::optional<bool> output_bias{};       // of attention's last one, where that is another than `bias`
  bool head_norms = false;                 // of each head's queries and keys
  Index window = 0;                        // of self-attention: keys nearer than so many places, its own too; 0: all
  std::optional<RotarySpec> rotary{};      // position, in self-attention; none: in what enters the layers, or
  std::optional<RelativeSpec> relative{};  // a table that the layers share
  float dropout = 0, attention_dropout = 0, activation_dropout = 0;
};

/// With B one of attention, cross attention, feed-forward network, and drop its dropout: post-norm (Vaswani et al.,
/// arXiv 1706.03762) y = LN(x + drop(B(x))), pre-norm (Xiong et al., arXiv 2002.04745) y = x + drop(B(LN(x))), between
/// two norms y = x + drop(LN(B(LN(x)))). x [tokens, width] → the same.
template <Real T, Backend B = Cpu>
struct TransformerLayer {
  const LayerNames* names = nullptr;
  MultiHeadAttention<T, B> attention;
  Norm<T, B> attention_norm;
  Linear<T, B> up, down;
  Norm<T, B> mlp_norm;
  Activation activation = Activation::gelu;
  bool norm_first = false;
  float dropout = 0, activation_dropout = 0;
  std::uint32_t site = 0;  // its dropouts draw from site, site + 1, …, site + sites − 1, and from more + these
  static constexpr std::uint32_t sites = 8, more = 0x40000000u;
  std::optional<MultiHeadAttention<T, B>> cross{};
  std::optional<Norm<T, B>> cross_norm{};
  Parameter<T, B> attention_scale{}, mlp_scale{};  // [width], or none
  std::optional<Linear<T, B>> gate{};              // of the feed-forward block
  std::optional<Norm<T, B>> attention_post_norm{}, mlp_post_norm{};

  // What methods add. Sequential: t + adapter(t) on a block's output t. Parallel: adapter(what the block reads) added.
  enum class Placement { sequential, parallel };
  std::optional<Adapter<T, B>> attention_adapter{}, mlp_adapter{}, reversible_adapter{};
  Placement mlp_placement = Placement::sequential;
  Parameter<T, B> hidden_scale{};  // [ffn], or none: a factor for each feature behind the activation
  std::optional<KroneckerMap<T, B>> attention_map{}, cross_map{},
      mlp_map{};  // of what a block reads, behind its norm where that is first
  std::optional<KroneckerMap<T, B>>
      reversible_map{};  // in place of the reversible adapter: its change of what it reads

  /// Layer `number` of a model, its parameters uninitialised.
  static TransformerLayer empty(const LayerNames& names, const LayerSpec& spec, std::uint32_t number) {
    const auto norm = [&] { return Norm<T, B>::empty(spec.width, spec.epsilon, spec.norm); };
    const Index head_width = spec.head_width ? spec.head_width : spec.width / spec.heads;
    const auto attention_of = [&](bool causal, std::uint32_t of) {
      auto a = MultiHeadAttention<T, B>::empty(spec.width, spec.heads, spec.key_heads ? spec.key_heads : spec.heads,
                                               head_width, spec.qkv_bias, spec.output_bias.value_or(spec.bias));
      a.causal = causal;
      a.dropout = spec.attention_dropout;
      a.site = of;
      return a;
    };
    const std::uint32_t site = number * sites;
    TransformerLayer layer{&names,
                           attention_of(spec.causal, site),
                           norm(),
                           Linear<T, B>::empty(spec.width, spec.ffn, spec.bias),
                           Linear<T, B>::empty(spec.ffn, spec.width, spec.bias),
                           norm(),
                           spec.activation,
                           spec.norm_first,
                           spec.dropout,
                           spec.activation_dropout,
                           site};
    layer.attention.rotary = spec.rotary;
    layer.attention.window = spec.window;
    layer.attention.scale = spec.scale;
    if (!spec.attention_norm) layer.attention_norm = {{}, {}, spec.epsilon, spec.norm};
    if (spec.sandwich)
      for (auto* of : {&layer.attention_post_norm, &layer.mlp_post_norm}) *of = norm();
    if (spec.head_norms)
      for (auto* of : {&layer.attention.query_norm, &layer.attention.key_norm})
        *of = Norm<T, B>::empty(head_width, spec.epsilon, spec.norm);
    if (spec.gated) layer.gate = Linear<T, B>::empty(spec.width, spec.ffn, spec.bias);
    if (spec.cross) {
      layer.cross = attention_of(false, more + site);
      layer.cross->scale = spec.scale;
      layer.cross_norm = norm();
    }
    if (spec.scaled)
      for (auto* scale : {&layer.attention_scale, &layer.mlp_scale}) *scale = Parameter<T, B>::empty({spec.width});
    return layer;
  }

  /// How what `attend` reads is to be handed to it.
  Hand attends_to() const { return norm_first || attention_map ? Hand::in_full : attention.query.reads_too(); }
  /// The attention blocks: over the sequence, then over the side input where there is one.
  Var<T, B> attend(const Var<T, B>& x, const Context<T, B>& c) const {
    auto h = block(
        x, attention_norm, attention_post_norm, c, 1, attention_scale, attention_adapter,
        {attention_map ? Hand::in_full : attention.reads(), attention.output.reads(), cross ? Hand::in_full : fed()},
        [&](const Var<T, B>& in) { return attention(mapped(in, attention_map, c), c); });
    if (!cross) return h;
    require(!c.sides.empty(), "transformer layer: cross attention needs a side input");
    return block(h, *cross_norm, {}, c, more + 1, {}, {}, {Hand::in_full, cross->output.reads(), fed()},
                 [&](const Var<T, B>& in) { return (*cross)(mapped(in, cross_map, c), c.sides.front(), c); });
  }

  /// The feed-forward block.
  Var<T, B> feed(const Var<T, B>& h, const Context<T, B>& c) const {
    return block(
        h, mlp_norm, mlp_post_norm, c, 2, mlp_scale, mlp_adapter, {fed(), down.reads()},
        [&](const Var<T, B>& in) {
          const auto x = mapped(in, mlp_map, c);
          if constexpr (std::same_as<T, float>)
            if (whole(c)) return products(x);
          if constexpr (B::on_host && std::same_as<T, float>)
            if (whole_gated(c)) return host_gated(x, gate->packed, up.packed, down.packed, down.bias, activation);
          const auto inner = hidden(x, c);
          return down(inner);  // what `inner` was made from is freed by now
        },
        mlp_placement);
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& c) const { return feed(attend(x, c), c); }

  Index width() const { return down.out(); }

  static void parts(auto& self, auto&& visit) {
    visit(self.names->query, self.attention.query);
    visit(self.names->key, self.attention.key);
    visit(self.names->value, self.attention.value);
    visit(self.names->output, self.attention.output);
    visit(self.names->query_norm, self.attention.query_norm);
    visit(self.names->key_norm, self.attention.key_norm);
    visit(self.names->attention_norm, self.attention_norm);
    visit(self.names->attention_post_norm, self.attention_post_norm);
    if (self.cross) {
      visit(self.names->cross_query, self.cross->query);
      visit(self.names->cross_key, self.cross->key);
      visit(self.names->cross_value, self.cross->value);
      visit(self.names->cross_output, self.cross->output);
      visit(self.names->cross_norm, self.cross_norm);
    }
    visit(self.names->gate, self.gate);
    visit(self.names->up, self.up);
    visit(self.names->down, self.down);
    visit("attended_scale", self.attention.attended_scale);
    if (self.cross) visit("cross_attended_scale", self.cross->attended_scale);
    visit("hidden_scale", self.hidden_scale);
    visit(self.names->mlp_norm, self.mlp_norm);
    visit(self.names->mlp_post_norm, self.mlp_post_norm);
    visit(self.names->attention_scale, self.attention_scale);
    visit(self.names->mlp_scale, self.mlp_scale);
    visit("attention_prefix", self.attention.prefix);
    if (self.cross) visit("cross_prefix", self.cross->prefix);
    visit("attention_map", self.attention_map);
    visit("cross_map", self.cross_map);
    visit("mlp_map", self.mlp_map);
    visit("attention_adapter", self.attention_adapter);
    visit("mlp_adapter", self.mlp_adapter);
    visit("reversible_adapter", self.reversible_adapter);
    visit("reversible_map", self.reversible_map);
  }

 private:
  /// What the feed-forward block's last projection reads.
  Var<T, B> hidden(const Var<T, B>& x, const Context<T, B>& c) const {
    const float p = c.run.training ? activation_dropout : 0;
    const auto key = c.run.key(site + more + 2);
    const auto at = first(up.out(), c);
    if (hidden_scale.defined())
      return meft::dropout(gate ? scaled_gated((*gate)(x), hidden_scale, up(x), activation)
                                : scaled_activation(up(x), hidden_scale, activation),
                           p, key, at);
    if (!gate) return up.activated(x, activation, p, key, at);
    const Hand hand = p != 0 ? Hand::in_full : down.reads();
    const Hand gradients = up.reads() == Hand::rounded ? gate->reads() : Hand::in_full;
    return meft::dropout(gated((*gate)(x), up(x), activation, hand, gradients), p, key, at);
  }
  /// The feed-forward block's products, with nothing but the activation between them.
  Var<T, B> products(const Var<T, B>& x) const {
    if constexpr (B::on_host)
      if (!up.packed.defined())
        return narrow_feed_forward(x, *up.narrow(), up.weight, up.bias, *down.narrow(), down.weight, down.bias,
                                   activation);
    return feed_forward(x, up.packed, up.bias, down.packed, down.bias, activation);
  }
  /// Whether that is so, and both are in bf16, frozen or both trained.
  bool whole(const Context<T, B>& c) const {
    return !gate && !hidden_scale.defined() && (activation_dropout == 0 || !c.run.training) && up.fuses() &&
           down.fuses() && up.packed.defined() == down.packed.defined() && up.bias.defined();
  }
  /// The same of a gate, all frozen, without biases inside.
  bool whole_gated(const Context<T, B>& c) const {
    const auto fits = [](const Linear<T, B>& layer) { return layer.packed.defined() && layer.fuses(); };
    return gate && !hidden_scale.defined() && (activation_dropout == 0 || !c.run.training) && fits(*gate) && fits(up) &&
           fits(down) && !gate->bias.defined() && !up.bias.defined();
  }
  /// In training dropout of x from the site at `offset`.
  Var<T, B> dropped(const Var<T, B>& x, const Context<T, B>& c, std::uint32_t offset) const {
    return c.run.training ? meft::dropout(x, dropout, c.run.key(site + offset), first(x.dim(-1), c)) : x;
  }
  /// The number of the first element of a tensor so wide.
  static std::uint64_t first(Index width, const Context<T, B>& c) {
    return static_cast<std::uint64_t>(c.first_row * width);
  }

  /// How what the feed-forward block reads is to be handed on.
  Hand fed() const {
    if (mlp_map) return Hand::in_full;
    const bool alone = !gate && !(mlp_adapter && mlp_placement == Placement::parallel);
    return alone ? up.reads() : up.reads_too();
  }
  /// Of a block: how what it reads is handed on, the gradient of what its last projection gives, and the block's result
  /// where it is normed.
  struct Hands {
    Hand in, gradient, out = Hand::in_full;
  };

  /// f in its residual, with norm, dropout from the site at `offset`, and what is there of scale and adapter.
  template <class F>
  Var<T, B> block(const Var<T, B>& x, const Norm<T, B>& norm, const std::optional<Norm<T, B>>& post_norm,
                  const Context<T, B>& c, std::uint32_t offset, const Parameter<T, B>& scale,
                  const std::optional<Adapter<T, B>>& adapter, Hands hands, const F& f,
                  Placement placement = Placement::sequential) const {
    const auto in = norm_first ? norm(x, hands.in) : x;
    auto t = f(in);
    if (post_norm) t = (*post_norm)(t), hands.gradient = Hand::in_full;
    float p = c.run.training ? dropout : 0;
    const auto key = c.run.key(site + offset);
    Var<T, B> beside;  // of a parallel adapter
    if (scale.defined() || (adapter && placement == Placement::sequential)) {
      t = scaled(dropped(t, c, offset), scale);
      p = 0;
      hands.gradient = Hand::in_full;
      if (adapter) t = t + (*adapter)(placement == Placement::parallel ? in : t, c);
    } else if (adapter) beside = (*adapter)(in, c);
    const auto element = first(t.dim(-1), c);
    return norm_first ? residual(x, t, p, key, element, hands.gradient, beside)
                      : norm.of_sum(x, t, p, key, element, hands.gradient, beside,
                                    hands.out == Hand::in_full ? Hand::in_full : Hand::both);
  }
  static Var<T, B> mapped(const Var<T, B>& x, const std::optional<KroneckerMap<T, B>>& map, const Context<T, B>& c) {
    return map ? (*map)(x, c) : x;
  }
  static Var<T, B> scaled(const Var<T, B>& x, const Parameter<T, B>& scale) { return scale.defined() ? x * scale : x; }
};

}  // namespace meft::nn
