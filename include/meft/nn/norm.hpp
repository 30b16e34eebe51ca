// Owns: the norm module, of every kind.
#pragma once

#include <meft/nn/module.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/residual.hpp>

namespace meft::nn {

enum class NormKind {
  layer,
  layer_no_bias,
  rms,
  rms_plus_one  // weights are kept less one, as Gemma's are
};

/// y = (x − mean)/√(variance + ε)·weight + bias over the last axis, or RMS norm, y = x/√(mean(x²) + ε)·weight. Without
/// a weight y = x.
template <Real T, Backend B = Cpu>
struct Norm {
  Parameter<T, B> weight, bias;  // [width]
  double epsilon = 1e-12;
  NormKind kind = NormKind::layer;

  static Norm empty(Index width, double epsilon, NormKind kind = NormKind::layer) {
    Norm out{Parameter<T, B>::empty({width}), {}, epsilon, kind};
    if (kind == NormKind::layer) out.bias = Parameter<T, B>::empty({width});
    return out;
  }
  /// With the weights of one that only norms.
  static Norm identity(Index width, double epsilon, NormKind kind = NormKind::layer) {
    Norm out = empty(width, epsilon, kind);
    out.reset();
    return out;
  }
  /// The weights become so.
  void reset() {
    if (!weight.defined()) return;
    const UseScope use(Use::parameter);
    weight.value() = Tensor<T, B>::full(weight.shape(), kind == NormKind::rms_plus_one ? T(0) : T(1));
    if (bias.defined()) bias.value().zero();
  }

  /// Handed on as said.
  Var<T, B> operator()(const Var<T, B>& x, Hand hand = Hand::in_full) const {
    if (!weight.defined()) return x;
    if (kind == NormKind::rms) return rms_norm(x, weight, epsilon, hand);
    if (kind == NormKind::rms_plus_one) return rms_norm(x, weight + T(1), epsilon, hand);
    return layer_norm(x, weight, bias, epsilon, hand);
  }

  /// The same of the sum that `residual` gives; `hand` is not rounded alone.
  Var<T, B> of_sum(const Var<T, B>& x, const Var<T, B>& t, double p, Key key, std::uint64_t first_element,
                   Hand gradient, const Var<T, B>& a, Hand hand) const {
    return kind == NormKind::layer
               ? residual_norm(x, t, weight, bias, epsilon, p, key, first_element, gradient, a, hand)
               : (*this)(residual(x, t, p, key, first_element, gradient, a), hand);
  }

  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

}  // namespace meft::nn
