// Owns: multi-head attention with its projections: over the sequence itself, or over a side input.
#pragma once

#include <meft/nn/linear.hpp>
#include <meft/ops/attention.hpp>

namespace meft::nn {

/// output(attention(query(x), key(m), value(m))), x [tokens, width] → the same; m is x, or the side input that a
/// decoder reads. Names are the caller's.
template <Real T, Backend B = Cpu>
struct MultiHeadAttention {
  Linear<T, B> query, key, value, output;
  Index heads = 1;
  bool causal = false;
  float dropout = 0;  // of the probabilities
  std::uint32_t site = 0;

  static MultiHeadAttention empty(Index width, Index heads, bool bias = true, bool output_bias = true) {
    return {Linear<T, B>::empty(width, width, bias), Linear<T, B>::empty(width, width, bias),
            Linear<T, B>::empty(width, width, bias), Linear<T, B>::empty(width, width, output_bias), heads};
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
                               .causal = causal,
                               .dropout = context.run.training ? dropout : 0.0f,
                               .key = context.run.key(site),
                               .first_row = context.first_row,
                               .precision = query.weight.trainable() ? Precision::f32 : query.precision};
    return output(attention(query(x), key(memory), value(memory), spec));
  }
};

}  // namespace meft::nn
