// Owns: `adapt`, which puts a method on a model, and the usual methods, which keep their activations: full, head only,
// BitFit, adapters, LoRA.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <meft/method/meft.hpp>

namespace meft {

/// Everything trains.
struct Full {};
/// Only the task's head trains.
struct HeadOnly {};
/// Biases train. Ben Zaken et al., arXiv 2106.10199.
struct BitFit {};
/// Sequential adapters behind both blocks. Houlsby et al., arXiv 1902.00751. The norms train too, as there.
struct Houlsby {
  Index bottleneck = 8;
  float dropout = 0;
  std::uint64_t seed = 0;
};
/// Low-rank updates of query and value. Hu et al., arXiv 2106.09685.
struct LowRank {
  Index rank = 8;
  double alpha = 16;
  std::uint64_t seed = 0;
};

namespace detail {

template <class Model, class Keep>
void train_only(Model& model, const Keep& keep) {
  nn::for_each_parameter(model, [&](const std::string& name, auto& p) { p.set_trainable(keep(name)); });
}

/// The layers one after the other, with frozen weights packed.
template <class Model>
auto plain_body(Model& model, bool recompute) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  nn::pack<T, B>(model);
  return body_of(model, [&](auto& layers) {
    return Chain<T, B>{.layers = layers, .plain = layers.size(), .recompute = recompute};
  });
}

}  // namespace detail

/// Sets what trains in `model` (its `layers` among it), adds what the method adds, packs what is frozen, and gives the
/// body that runs the layers. Works for every model with `layers` and `decoder_layers` of nn::TransformerLayer.
template <class Model>
auto adapt(Model& model, Full, bool recompute = false) {
  detail::train_only(model, [](const std::string&) { return true; });
  return detail::plain_body(model, recompute);
}
template <class Model>
auto adapt(Model& model, HeadOnly, bool recompute = false) {
  detail::train_only(model, [](const std::string&) { return false; });
  return detail::plain_body(model, recompute);
}
template <class Model>
auto adapt(Model& model, BitFit, bool recompute = false) {
  detail::train_only(model, [](const std::string& name) { return name.ends_with("bias"); });
  return detail::plain_body(model, recompute);
}
template <class Model>
auto adapt(Model& model, Houlsby options, bool recompute = false) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  freeze(model);
  detail::for_each_layer(model, [&](auto& layer) {
    nn::walk(layer, [](const std::string&, nn::LayerNorm<T, B>& norm) {
      norm.weight.set_trainable(true);
      norm.bias.set_trainable(true);
    });
    const auto adapter = [&](std::uint32_t place) {
      return nn::Adapter<T, B>::make(layer.width(), options.bottleneck, layer.activation, options.dropout,
                                     layer.site + place, options.seed);
    };
    layer.attention_adapter = adapter(3);
    layer.mlp_adapter = adapter(4);
    layer.mlp_placement = nn::TransformerLayer<T, B>::Placement::sequential;
  });
  return detail::plain_body(model, recompute);
}
template <class Model>
auto adapt(Model& model, LowRank options, bool recompute = false) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  detail::train_only(model, [](const std::string&) { return false; });
  detail::for_each_layer(model, [&](auto& layer) {
    const auto add = [&](nn::Linear<T, B>& linear, std::uint32_t place) {
      linear.lora = nn::Lora<T, B>::make(linear.in(), linear.out(), options.rank, options.alpha,
                                         {options.seed, layer.site + place, 0});
    };
    add(layer.attention.query, 6);
    add(layer.attention.value, 7);
    if (layer.cross) {
      add(layer.cross->query, layer.more + 6);
      add(layer.cross->value, layer.more + 7);
    }
  });
  return detail::plain_body(model, recompute);
}

/// MEFT on a whole model: freezes and packs it, then couples its layers.
template <class Model, MeftMethod Method>
auto adapt(Model& model, Method method) {
  freeze(model);
  nn::pack<typename Model::value_type, typename Model::backend>(model);
  return detail::body_of(model, [&](auto& layers) {
    auto own = method;
    auto& reversible = own.options.reversible_layers;  // the smaller of two lists may be reversible as a whole
    if (!model.decoder_layers.empty() &&
        reversible <= static_cast<Index>(std::max(model.layers.size(), model.decoder_layers.size())))
      reversible = std::min(reversible, static_cast<Index>(layers.size()));
    return couple(layers, std::move(own));
  });
}

}  // namespace meft
