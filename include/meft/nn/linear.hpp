// Owns: the linear layer: trained, or frozen and packed, with what methods add to it: a low-rank update, a scale.
#pragma once

#include <optional>

#include <meft/nn/module.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/reversible/context.hpp>
#include <meft/tensor/random.hpp>

namespace meft::nn {

/// ΔW = (α/r)·B·A. Hu et al., "LoRA", arXiv 2106.09685, equation 3.
template <Real T, Backend B = Cpu>
struct Lora {
  Parameter<T, B> a, b;  // [r, in] normal, [out, r] zero
  double scale = 1;

  static Lora make(Index in, Index out, Index rank, double alpha, Key key) {
    Lora lora{Parameter<T, B>::empty({rank, in}), Parameter<T, B>::zeros({out, rank}),
              alpha / static_cast<double>(rank)};
    fill_normal(lora.a.value(), key, 1.0 / std::sqrt(static_cast<double>(in)));
    return lora;
  }
  Var<T, B> operator()(const Var<T, B>& x) const { return linear(linear(x, a), b) * T(scale); }

  static void parts(auto& self, auto&& visit) {
    visit("lora_A.weight", self.a);
    visit("lora_B.weight", self.b);
  }
};

/// y = x·Wᵀ + b, x [.., in] → [.., out]; with both updates y = l ⊙ ((W + ΔW)·x + b).
template <Real T, Backend B = Cpu>
struct Linear {
  Parameter<T, B> weight, bias;  // [out, in], [out] or empty
  PackedWeight<T, B> packed{};   // in place of the weight, once packed
  std::optional<Lora<T, B>> lora{};
  Parameter<T, B> scale{};               // l [out], or none
  Precision precision = Precision::f32;  // in which a frozen weight is packed

  static Linear empty(Index in, Index out, bool with_bias = true) {
    Linear l{Parameter<T, B>::empty({out, in}), {}};
    if (with_bias) l.bias = Parameter<T, B>::empty({out});
    return l;
  }
  /// N(0, deviation²) weights, zero bias.
  static Linear normal(Index in, Index out, Key key, double deviation = 0.02) {
    Linear l{Parameter<T, B>::empty({out, in}), Parameter<T, B>::zeros({out})};
    fill_normal(l.weight.value(), key, deviation);
    return l;
  }

  Var<T, B> operator()(const Var<T, B>& x) const {
    auto y = packed.defined() ? linear(x, packed, bias) : linear(x, weight, bias);
    if (lora) y = y + (*lora)(x);
    return scale.defined() ? y * scale : y;
  }

  /// activate_dropout((*this)(x), f, p, key, first_element), as one op where nothing is dropped.
  Var<T, B> activated(const Var<T, B>& x, Activation f, double p = 0, Key key = {},
                      std::uint64_t first_element = 0) const {
    if (p != 0 || lora || scale.defined()) return activate_dropout((*this)(x), f, p, key, first_element);
    return packed.defined() ? linear_activation(x, packed, bias, f) : linear_activation(x, weight, bias, f);
  }

  Index in() const { return packed.defined() ? packed.shape()[1] : weight.shape()[1]; }
  Index out() const { return packed.defined() ? packed.shape()[0] : weight.shape()[0]; }

  /// Lays a frozen weight out for multiplication and lets the original go; a trained one stays as it is.
  void pack() {
    if (packed.defined() || weight.trainable() || !weight.defined()) return;
    packed = PackedWeight<T, B>(weight.value(), precision);
    weight.value() = {};
  }

  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
    visit("", self.lora);
    visit("scale", self.scale);
  }
};

/// Sets in what the linear layers below `module` are packed; do it before they are.
template <Real T, Backend B, class Module>
void set_precision(Module& module, Precision precision) {
  walk(module, [&](const std::string&, Linear<T, B>& layer) { layer.precision = precision; });
}

/// Packs every frozen linear layer below `module`.
template <Real T, Backend B, class Module>
void pack(Module& module) {
  walk(module, [](const std::string&, Linear<T, B>& layer) { layer.pack(); });
}

}  // namespace meft::nn
