// Owns: LoRA. Hu et al., arXiv 2106.09685.
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// Low-rank updates of query and value.
struct LowRank {
  Index rank = 8;
  double alpha = 16;
};

template <>
struct Described<LowRank> {
  static constexpr std::string_view name = "lora", about = "low-rank updates of query and value";
  static constexpr MethodFacts facts{.starts_as_is = true, .merges = true};
  static void options(auto& m, auto&& visit) { visit(Option{"lora-rank", "rank"}, Whole{1, 65536}, m.rank); }
  static Index added(const LowRank& m, Index width) { return 4 * width * m.rank; }
  template <Real T, Backend B>
  static Index activation(const LowRank& m, const StepSizes& s) {
    const Index kept = s.layer() + s.width + 2 * m.rank;
    return s.plain(kept, kept, s.gradients(2));
  }
};

template <class Model>
auto adapt(Model& model, const LowRank& method, const AdaptOptions& options = {}) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  detail::train_none(model, options);
  detail::for_each_layer(model, [&](auto& layer) {
    const auto add = [&](nn::Linear<T, B>& linear, std::uint32_t place) {
      linear.update = nn::Lora<T, B>::make(linear.in(), linear.out(), method.rank, method.alpha,
                                           {options.seed, layer.site + place, 0});
    };
    add(layer.attention.query, 6);
    add(layer.attention.value, 7);
    if (layer.cross) {
      add(layer.cross->query, layer.more + 6);
      add(layer.cross->value, layer.more + 7);
    }
  });
  return detail::plain_body(model, options);
}

}  // namespace meft
