// Owns: sequential adapters. Houlsby et al., arXiv 1902.00751.
#pragma once

#include <meft/method/adapt.hpp>

namespace meft {

/// Adapters behind the attention and the feed-forward block. The norms train too, as there.
struct Houlsby {
  Index bottleneck = 8;
  float dropout = 0;  // inside the adapters
};

template <>
struct Described<Houlsby> {
  static constexpr std::string_view name = "adapter", about = "adapters behind both blocks, and norms";
  static constexpr MethodFacts facts{.apart = "adapters are layers of their own"};
  static void options(auto& m, auto&& visit) {
    visit(Option{"bottleneck", "width of the adapters"}, Whole{1, 65536}, m.bottleneck);
  }
  static Index added(const Houlsby& m, const StepSizes& s) { return 4 * s.width * m.bottleneck; }
  /// In the lowest layer attention keeps nothing: nothing below its output trains.
  template <Real T, Backend B>
  static Index activation(const Houlsby& m, const StepSizes& s) {
    const Index adapters = 2 * s.width + 3 * m.bottleneck;
    return s.plain(s.unattended() + adapters, s.layer() + adapters, s.gradients(2));
  }
};

template <class Model>
auto adapt(Model& model, const Houlsby& method, const AdaptOptions& options = {}) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  detail::require_options(method);
  detail::train_none(model, options);
  detail::for_each_layer(model, [&](auto& layer) {
    nn::walk(layer, [](const std::string&, nn::Norm<T, B>& norm) {
      norm.weight.set_trainable(true);
      norm.bias.set_trainable(true);
    });
    const auto adapter = [&](std::uint32_t place) {
      return nn::Adapter<T, B>::make(layer.width(), method.bottleneck, layer.activation, method.dropout,
                                     layer.site + place, options.seed);
    };
    layer.attention_adapter = adapter(3);
    layer.mlp_adapter = adapter(4);
    layer.mlp_placement = nn::TransformerLayer<T, B>::Placement::sequential;
  });
  return detail::plain_body(model, options);
}

}  // namespace meft
