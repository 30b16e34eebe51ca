// Owns: multi-head self-attention with its projections.
#pragma once

#include <meft/nn/linear.hpp>
#include <meft/ops/attention.hpp>

namespace meft::nn {

/// output(attention(query(x), key(x), value(x))), x [tokens, width] → the same. Names are the caller's.
template <Real T, Backend B = Cpu>
struct SelfAttention {
  Linear<T, B> query, key, value, output;
  Index heads = 1;
  bool causal = false;
  float dropout = 0;  // of the probabilities
  std::uint32_t site = 0;

  static SelfAttention empty(Index width, Index heads) {
    return {Linear<T, B>::empty(width, width), Linear<T, B>::empty(width, width), Linear<T, B>::empty(width, width),
            Linear<T, B>::empty(width, width), heads};
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& context) const {
    const meft::Attention spec{.queries = context.offsets,
                               .keys = context.offsets,
                               .heads = heads,
                               .causal = causal,
                               .dropout = context.run.training ? dropout : 0.0f,
                               .key = context.run.key(site),
                               .first_row = context.first_row};
    return output(attention(query(x), key(x), value(x), spec));
  }
};

}  // namespace meft::nn
