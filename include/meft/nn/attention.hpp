// Owns: multi-head attention with its projections: over the sequence itself, or over a side input.
#pragma once

#include <optional>

#include <meft/nn/linear.hpp>
#include <meft/ops/attention.hpp>
#include <meft/ops/rotary.hpp>

namespace meft::nn {

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
  std::optional<RotarySpec> rotary{};  // of queries and keys

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

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& context) const {
    return attend(x, x, context.offsets, context);
  }
  /// Reads `side` in place of x.
  Var<T, B> operator()(const Var<T, B>& x, const Side<T, B>& side, const Context<T, B>& context) const {
    return attend(x, side.value, side.offsets, context);
  }

 private:
  Var<T, B> attend(const Var<T, B>& x, const Var<T, B>& memory, const Offsets& keys,
                   const Context<T, B>& context) const {
    const meft::Attention spec{.queries = context.offsets,
                               .keys = keys,
                               .heads = heads,
                               .key_heads = key_heads,
                               .causal = causal,
                               .dropout = context.run.training ? dropout : 0.0f,
                               .key = context.run.key(site),
                               .first_row = context.first_row,
                               .precision = query.weight.trainable() ? Precision::f32 : query.precision};
    // The order in which the gradients of x are added follows that of the projections.
    const auto v = value(memory);
    const auto k = turned(key(memory), keys, key_heads);
    return output(attention(turned(query(x), context.offsets, heads), k, v, spec));
  }
  Var<T, B> turned(Var<T, B> x, const Offsets& offsets, Index count) const {
    return rotary ? meft::rotary(x, offsets, count, *rotary) : x;
  }
};

}  // namespace meft::nn
