// Owns: ALoRE. Du et al., "ALoRE: efficient visual adaptation via aggregating low rank experts", arXiv 2412.08341. Its
// equations are inferred from the abstract and its count of parameters: the text was not at hand. The start, and the
// dropout between the factors, are RepAdapter's (Luo et al., arXiv 2302.08106).
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// x + s·Σ_i (A_i ⊗ U_i·V_i)·x in place of what a block reads: queries, keys and values; the queries of cross
/// attention; the feed-forward block. The residual does not see it.
struct Alore {
  Index terms = 4, rank = 4;
  double scale = 1;
  double dropout = 0.1;  // of what lies between V and A
};

template <>
struct Described<Alore> {
  static constexpr std::string_view name = "alore", about = "sums of Kronecker products on what blocks read";
  static constexpr MethodFacts facts{.starts_as_is = true};
  static void options(auto& m, auto&& visit) {
    visit(Option{"kronecker-terms", "of a sum; a divisor of the model's width"}, Whole{1, 4096}, m.terms);
    visit(Option{"kronecker-rank", "of a term"}, Whole{1, 65536}, m.rank);
    visit(Option{"kronecker-scale", "of the sum"}, Positive{}, m.scale);
    visit(Option{"kronecker-dropout", "inside of it"}, Share{}, m.dropout);
  }
  static Index added(const Alore& m, const StepSizes& s) {
    return 2 * (m.terms * m.terms * m.terms + 2 * s.width * m.rank);
  }
  static Kept kept(const Alore& m, const StepSizes& s) {
    const Index block = s.width + 2 * m.terms * m.terms * m.rank;
    return {block, block};
  }
  static Recipe recipe(const Alore&) { return {.rate = 1e-3}; }
};

/// U = 0 at the start.
template <Real T, Backend B>
void insert(const ChangedLayers<T, B>& layers, const Alore& method, const AdaptOptions& options) {
  for (auto* layer : layers) {
    const auto map = [&](std::uint32_t place) {
      return nn::KroneckerMap<T, B>::make(layer->width(), method.terms, method.rank, method.scale,
                                          static_cast<float>(method.dropout), layer->site + place, options.seed);
    };
    layer->attention_map = map(3);
    layer->mlp_map = map(4);
    if (layer->cross) layer->cross_map = map(layer->more + 3);
  }
}

}  // namespace meft
