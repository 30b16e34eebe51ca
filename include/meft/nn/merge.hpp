// Owns: taking what methods added to the weights into them.
#pragma once

#include <algorithm>
#include <concepts>
#include <utility>
#include <variant>
#include <vector>

#include <meft/nn/transformer.hpp>

namespace meft::nn {

/// Takes the update into weight and bias, and `in` [in], or none: a factor of the input that was applied before. In
/// double, rounded once; a packed weight is packed again.
template <Real T, Backend B>
void merge(Linear<T, B>& linear, const Parameter<T, B>& in = {}) {
  if (!linear.update.index() && !in.defined()) return;
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
  if (in.defined()) {
    const auto factor = in.value().values();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(factor[i % factor.size()]);
  }
  std::vector<T> rounded(w.size());
  std::transform(w.begin(), w.end(), rounded.begin(), [](double x) { return static_cast<T>(x); });
  const auto merged = Tensor<T, B>::from({linear.out(), linear.in()}, rounded);
  if (linear.packed.defined()) linear.packed = PackedWeight<T, B>(merged, linear.packed.precision());
  else linear.weight.value() = merged;
}

/// Merges every linear layer below `module`, and the scales of hidden features into the weights that read them. The
/// module then computes what it did, up to rounding, without these updates; a body made of it before does not change.
template <Real T, Backend B, class Module>
void merge_updates(Module& module) {
  walk(module, [](const std::string&, TransformerLayer<T, B>& layer) {
    merge(layer.down, layer.hidden_scale);
    layer.hidden_scale = {};
  });
  walk(module, [](const std::string&, Linear<T, B>& linear) { merge(linear); });
}

}  // namespace meft::nn
