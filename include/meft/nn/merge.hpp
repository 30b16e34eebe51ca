// Owns: taking what methods added to the weights into them.
#pragma once

#include <algorithm>
#include <vector>

#include <meft/nn/transformer.hpp>

namespace meft::nn {

/// W ← l ⊙ (W + ΔW) ⊙ in, b ← l ⊙ b, computed in double and rounded once; a packed weight is packed again. `in` [in],
/// or none: a factor of the input that was applied before.
template <Real T, Backend B>
void merge(Linear<T, B>& linear, const Parameter<T, B>& in = {}) {
  if (!linear.lora && !linear.scale.defined() && !in.defined()) return;
  const auto columns = static_cast<std::size_t>(linear.in()), rows = static_cast<std::size_t>(linear.out());
  const auto was = (linear.packed.defined() ? linear.packed.unpack() : linear.weight.value()).values();
  std::vector<double> w(was.begin(), was.end());
  if (linear.lora) {
    const auto a = linear.lora->a.value().values(), b = linear.lora->b.value().values();
    const std::size_t rank = a.size() / columns;
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < rank; ++k)
        for (std::size_t j = 0; j < columns; ++j)
          w[i * columns + j] +=
              linear.lora->scale * static_cast<double>(b[i * rank + k]) * static_cast<double>(a[k * columns + j]);
    linear.lora.reset();
  }
  if (linear.scale.defined()) {
    const auto scale = linear.scale.value().values();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(scale[i / columns]);
    if (linear.bias.defined()) {
      auto bias = linear.bias.value().values();
      for (std::size_t i = 0; i < rows; ++i) bias[i] *= scale[i];
      linear.bias.value() = Tensor<T, B>::from(linear.bias.shape(), bias);
    }
    linear.scale = {};
  }
  if (in.defined()) {
    const auto factor = in.value().values();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(factor[i % columns]);
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
