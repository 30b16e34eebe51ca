// Owns: (IA)³. Liu et al., "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
// arXiv 2205.05638, section 3.3: k = l_k ⊙ (x·W_kᵀ + b_k), v likewise, u = l_ff ⊙ γ(x·W_upᵀ + b).
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// A factor for each feature of keys, values and the feed-forward block's hidden layer, one at the start; cross
/// attention has its own.
struct Ia3 {};

template <>
struct Described<Ia3> {
  static constexpr std::string_view name = "ia3", about = "factors of keys, values and hidden features";
  static constexpr MethodFacts facts{.starts_as_is = true, .merges = true};
  static void options(auto&, auto&&) {}
  static Index added(const Ia3&, Index) { return 0; }
  /// Kept besides: what the factors multiply. On the way: the block's gradient, and three times the hidden layer's,
  /// behind the factor, before it, and times what the factor multiplied.
  template <Real T, Backend B>
  static Index activation(const Ia3&, const StepSizes& s) {
    const Index kept = s.layer() + 2 * s.width + s.ffn;
    return s.plain(kept, kept, s.gradients(1) + 2 * s.tokens * s.ffn);
  }
};

template <class Model>
auto adapt(Model& model, const Ia3&, const AdaptOptions& options = {}) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  detail::train_none(model, options);
  const auto scaled = [](nn::MultiHeadAttention<T, B>& attention) {
    for (auto* linear : {&attention.key, &attention.value}) linear->update = nn::Scale<T, B>::ones(linear->out());
  };
  detail::for_each_layer(model, [&](auto& layer) {
    scaled(layer.attention);
    if (layer.cross) scaled(*layer.cross);
    layer.hidden_scale = Parameter<T, B>::ones({layer.up.out()});
  });
  return detail::plain_body(model, options);
}

}  // namespace meft
