// Owns: taking what methods added to the weights into them.
#pragma once

#include <algorithm>
#include <concepts>
#include <functional>
#include <initializer_list>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <meft/nn/transformer.hpp>

namespace meft::nn {

/// Takes the update into weight and bias; then `in`, or none, which has the weight [out, in] do what was done to the
/// input before. In double, rounded once; a packed weight is packed again.
template <Real T, Backend B>
void merge(Linear<T, B>& linear, const std::function<void(std::vector<double>&)>& in = {}) {
  if (!linear.update.index() && !in) return;
  const auto was = (linear.packed.defined() ? linear.packed.unpack() : linear.weight.value()).values();
  std::vector<double> w(was.begin(), was.end());
  std::vector<T> bias;
  if (linear.bias.defined()) bias = linear.bias.value().values();
  std::visit(
      [&](const auto& update) {
        if constexpr (!std::same_as<decltype(update), const std::monostate&>) update.merge(w, bias);
      },
      std::exchange(linear.update, {}));
  if (linear.bias.defined()) linear.bias.value() = Tensor<T, B>::from(linear.bias.shape(), bias);
  if (in) in(w);
  std::vector<T> rounded(w.size());
  std::transform(w.begin(), w.end(), rounded.begin(), [](double x) { return static_cast<T>(x); });
  const auto merged = Tensor<T, B>::from({linear.out(), linear.in()}, rounded);
  if (linear.packed.defined()) linear.packed = PackedWeight<T, B>(merged, linear.packed.precision());
  else linear.weight.value() = merged;
}

/// The same with a factor for each feature of the input.
template <Real T, Backend B>
void merge(Linear<T, B>& linear, const Parameter<T, B>& factors) {
  merge(linear, [&](std::vector<double>& w) {
    const auto factor = factors.value().values();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(factor[i % factor.size()]);
  });
}

/// Merges every linear layer below `module`, and what is done to their inputs into the weights that read them. The
/// module then computes what it did, up to rounding, without these updates; a body made of it before does not change.
template <Real T, Backend B, class Module>
void merge_updates(Module& module) {
  walk(module, [](const std::string&, TransformerLayer<T, B>& layer) {
    const auto scale_into = [](Parameter<T, B>& scale, Linear<T, B>& reader) {
      if (scale.defined()) merge(reader, std::exchange(scale, {}));
    };
    scale_into(layer.hidden_scale, layer.down);
    scale_into(layer.attention.attended_scale, layer.attention.output);
    if (layer.cross) scale_into(layer.cross->attended_scale, layer.cross->output);
    const auto map_into = [](std::optional<KroneckerMap<T, B>>& map, std::initializer_list<Linear<T, B>*> readers) {
      if (!map) return;
      for (auto* linear : readers)
        if (linear) merge(*linear, [&](std::vector<double>& w) { map->merge(w); });
      map.reset();
    };
    auto& attention = layer.attention;
    map_into(layer.attention_map, {&attention.query, &attention.key, &attention.value});
    if (layer.cross) map_into(layer.cross_map, {&layer.cross->query});
    map_into(layer.mlp_map, {layer.gate ? &*layer.gate : nullptr, &layer.up});
  });
  walk(module, [](const std::string&, Linear<T, B>& linear) { merge(linear); });
}

}  // namespace meft::nn
