// Owns: multi-head attention with its projections: over the sequence itself, or over a side input.
#pragma once

#include <optional>

#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>
#include <meft/nn/relative.hpp>
#include <meft/ops/prefix_attention.hpp>
#include <meft/ops/rotary.hpp>
#include <meft/ops/shape.hpp>

namespace meft::nn {

/// Keys and values [m, key_heads · head width] before those of every sequence, as attention takes them: normed and
/// turned. No token stands for them: the others keep their positions.
template <Real T, Backend B = Cpu>
struct Prefix {
  Parameter<T, B> key, value;

  static void parts(auto& self, auto&& visit) {
    visit("key", self.key);
    visit("value", self.value);
  }
};

/// output(attention(query(x), key(m), value(m))), x [tokens, width] → the same; m is x, or the side input that a
/// decoder reads. Queries have heads · head width features, keys and values key_heads · head width. Names are the
/// caller's.
template <Real T, Backend B = Cpu>
struct MultiHeadAttention {
  Linear<T, B> query, key, value, output;
  Index heads = 1, key_heads = 1;
  bool causal = false;
  float dropout = 0;  // of the probabilities
  std::uint32_t site = 0;
  std::optional<RotarySpec> rotary{};                  // of queries and keys
  Index window = 0;                                    // as meft::Attention's
  std::optional<Norm<T, B>> query_norm{}, key_norm{};  // of each head's features, before position
  double scale = 0;                                    // of the scores; 0: 1/√(head width)
  std::optional<RelativeBias<T, B>> relative{};        // another module's, which names it
  std::optional<Prefix<T, B>> prefix{};
  Parameter<T, B> attended_scale{};  // [heads · head width], or none: a factor for each feature that `output` reads

  static MultiHeadAttention empty(Index width, Index heads, Index key_heads, Index head_width, bool bias,
                                  bool output_bias) {
    const Index queries = heads * head_width, keys = key_heads * head_width;
    return {Linear<T, B>::empty(width, queries, bias),
            Linear<T, B>::empty(width, keys, bias),
            Linear<T, B>::empty(width, keys, bias),
            Linear<T, B>::empty(queries, width, output_bias),
            heads,
            key_heads};
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& context) const { return attend(x, nullptr, context); }
  /// Reads `side` in place of x.
  Var<T, B> operator()(const Var<T, B>& x, const Side<T, B>& side, const Context<T, B>& context) const {
    return attend(x, &side, context);
  }
  /// How x is to be handed on, where only this reads it.
  Hand reads() const {
    for (const auto* of : {&query, &key, &value})
      if (of->reads() == Hand::in_full) return query.reads_too();
    return Hand::rounded;
  }
  /// Of sequences of x, behind `earlier` tokens where there are such; handed on as said where they are neither normed
  /// nor turned.
  Var<T, B> queries(const Var<T, B>& x, const Offsets& offsets, Hand hand = Hand::in_full,
                    const Offsets& earlier = {}) const {
    return placed(query, x, query_norm, offsets, earlier, heads, hand);
  }
  /// What queries are multiplied with of sequences of `memory`.
  Var<T, B> keys(const Var<T, B>& memory, const Offsets& offsets, Hand hand = Hand::in_full,
                 const Offsets& earlier = {}) const {
    return placed(key, memory, key_norm, offsets, earlier, key_heads, hand);
  }

 private:
  Var<T, B> attend(const Var<T, B>& x, const Side<T, B>* side, const Context<T, B>& context) const {
    const auto& memory = side ? side->value : x;
    const Offsets earlier = context.earlier();
    const meft::Attention spec{.queries = context.offsets,
                               .keys = side ? side->offsets : context.offsets.behind(earlier),
                               .heads = heads,
                               .key_heads = key_heads,
                               .causal = causal,
                               .scale = scale,
                               .dropout = context.run.training ? dropout : 0.0f,
                               .key = context.run.key(site),
                               .first_row = context.first_row,
                               .precision = query.weight.trainable() ? Precision::f32 : arithmetic(query.precision),
                               .window = window,
                               .hand = attended_scale.defined() || prefix ? Hand::in_full : output.reads(),
                               .gradients = reads_gradients()};
    const bool rounds = !prefix && !context.cache && spec.template takes_rounded<T, B>(query.out());
    const Hand in = rounds ? Hand::rounded : Hand::in_full;
    const auto kept = [&](const void* name, const auto& made) {
      return side ? context.once(name, side->offsets, made) : context.behind(name, made());
    };
    // The order in which the gradients of x are added follows that of the projections.
    const auto v = kept(&value, [&] { return value(memory, Hand::in_full, in); });
    const auto k =
        kept(&key, [&] { return side ? keys(memory, side->offsets, in) : keys(memory, context.offsets, in, earlier); });
    const auto bias = relative ? (*relative)() : Var<T, B>();
    const auto attended = [&](const Var<T, B>& q) {
      return prefix ? prefix_attention(q, k, v, prefix->key, prefix->value, bias, spec)
                    : attention(q, k, v, bias, spec);
    };
    const auto mixed = attended(queries(x, context.offsets, in, earlier));
    return attended_scale.defined() ? output(mixed * attended_scale) : output(mixed, spec.hand);
  }
  /// How the projections' gradients are to be handed on.
  Hand reads_gradients() const {
    const bool alone = !query_norm && !key_norm && !rotary && !prefix;
    for (const auto* of : {&query, &key, &value})
      if (!alone || of->reads() == Hand::in_full) return Hand::in_full;
    return Hand::rounded;
  }
  /// A projection of x with its heads normed and turned.
  Var<T, B> placed(const Linear<T, B>& projection, const Var<T, B>& from, const std::optional<Norm<T, B>>& norm,
                   const Offsets& offsets, const Offsets& earlier, Index count, Hand hand) const {
    auto x = projection(from, Hand::in_full, norm || rotary ? Hand::in_full : hand);
    if (norm) {
      const Shape shape = x.shape();
      x = reshape((*norm)(reshape(x, Shape{shape[0] * count, shape[1] / count})), shape);
    }
    return rotary ? meft::rotary(x, offsets, count, *rotary, earlier) : x;
  }
};

}  // namespace meft::nn
