// Owns: the layer norm module.
#pragma once

#include <meft/nn/module.hpp>
#include <meft/ops/residual.hpp>

namespace meft::nn {

/// y = (x − mean)/√(variance + ε)·weight + bias over the last axis.
template <Real T, Backend B = Cpu>
struct LayerNorm {
  Parameter<T, B> weight, bias;
  double epsilon = 1e-12;

  static LayerNorm empty(Index width, double epsilon) {
    return {Parameter<T, B>::empty({width}), Parameter<T, B>::empty({width}), epsilon};
  }
  static LayerNorm identity(Index width, double epsilon) {
    return {Parameter<T, B>::ones({width}), Parameter<T, B>::zeros({width}), epsilon};
  }

  Var<T, B> operator()(const Var<T, B>& x) const { return layer_norm(x, weight, bias, epsilon); }

  /// The same of x + dropout(t, p, key, first_element).
  Var<T, B> of_sum(const Var<T, B>& x, const Var<T, B>& t, double p, Key key, std::uint64_t first_element) const {
    return residual_norm(x, t, weight, bias, epsilon, p, key, first_element);
  }

  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

}  // namespace meft::nn
