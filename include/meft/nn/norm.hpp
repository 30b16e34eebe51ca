// Owns: the norm module, of either kind.
#pragma once

#include <meft/nn/module.hpp>
#include <meft/ops/residual.hpp>

namespace meft::nn {

enum class NormKind { layer, rms };

/// y = (x − mean)/√(variance + ε)·weight + bias over the last axis, or RMS norm, y = x/√(mean(x²) + ε)·weight.
template <Real T, Backend B = Cpu>
struct Norm {
  Parameter<T, B> weight, bias;  // [width]; an RMS norm has no bias
  double epsilon = 1e-12;
  NormKind kind = NormKind::layer;

  static Norm empty(Index width, double epsilon, NormKind kind = NormKind::layer) {
    Norm out{Parameter<T, B>::empty({width}), {}, epsilon, kind};
    if (kind == NormKind::layer) out.bias = Parameter<T, B>::empty({width});
    return out;
  }
  /// A layer norm.
  static Norm identity(Index width, double epsilon) {
    return {Parameter<T, B>::ones({width}), Parameter<T, B>::zeros({width}), epsilon};
  }

  Var<T, B> operator()(const Var<T, B>& x) const {
    return kind == NormKind::rms ? rms_norm(x, weight, epsilon) : layer_norm(x, weight, bias, epsilon);
  }

  /// The same of x + dropout(t, p, key, first_element).
  Var<T, B> of_sum(const Var<T, B>& x, const Var<T, B>& t, double p, Key key, std::uint64_t first_element) const {
    return kind == NormKind::rms ? (*this)(residual(x, t, p, key, first_element))
                                 : residual_norm(x, t, weight, bias, epsilon, p, key, first_element);
  }

  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

}  // namespace meft::nn
