// Owns: full fine-tuning.
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// Everything trains. On a host, with precision bf16, the layers' products are in bf16: of weights, gradients and
/// moments in float.
struct Full {};

template <>
struct Described<Full> {
  static constexpr std::string_view name = "full", about = "everything";
  static constexpr MethodFacts facts{.trains_all = true, .narrows = true};
  static void options(auto&, auto&&) {}
  static Recipe recipe(const Full&) { return {.rate = 1e-4}; }
  static Index added(const Full&, const StepSizes&) { return 0; }
  /// At the end the word embeddings' gradient, at the start their norm beside the layers, may be the most.
  template <Real T, Backend B>
  static Index activation(const Full&, const StepSizes& s) {
    const Index inner = s.narrow && !s.gated ? s.ffn / 2 : s.ffn;  // in bf16
    const Index kept = s.layer() + 2 * s.width + inner, weight = s.width * s.ffn;
    const Index rows = s.vocabulary * s.width;  // the embeddings' gradient
    const Index plain = s.plain(kept, kept, s.gradients(1) + weight) + s.tokens * s.norm();
    if (s.held) return plain;
    return std::max(
        {plain, rows + 3 * s.tokens * s.width, s.at_head(s.tokens * s.layers * (s.recompute ? s.width : kept) + rows)});
  }
};

template <class Model>
auto adapt(Model& model, const Full&, const AdaptOptions& options = {}) {
  detail::train_only(model, options, [](const std::string&) { return true; });
  return detail::plain_body(model, options);
}

}  // namespace meft
