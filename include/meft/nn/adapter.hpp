// Owns: the bottleneck adapter.
#pragma once

#include <optional>

#include <meft/nn/linear.hpp>
#include <meft/nn/norm.hpp>
#include <meft/ops/bottleneck.hpp>

namespace meft::nn {

/// up(dropout(activation(down(norm(x))))), without a residual of its own. Houlsby et al., arXiv 1902.00751; MEFT, arXiv
/// 2306.00477, section 3.1. x [tokens, width] → the same.
template <Real T, Backend B = Cpu>
struct Adapter {
  Linear<T, B> down, up;
  Activation activation = Activation::gelu;
  float dropout = 0;
  std::uint32_t site = 0;
  std::optional<Norm<T, B>> norm{};  // of the input

  /// Weights N(0, deviation²), biases zero, with `adds_nothing` the weights of `up` too; a norm when `norm_epsilon` is
  /// given.
  static Adapter make(Index width, Index bottleneck, Activation activation, float dropout, std::uint32_t site,
                      std::uint64_t seed, std::optional<double> norm_epsilon = {}, double deviation = 0.02,
                      bool adds_nothing = false) {
    Adapter out{Linear<T, B>::normal(width, bottleneck, {seed, 2 * site, 0}, deviation),
                Linear<T, B>::normal(bottleneck, width, {seed, 2 * site + 1, 0}, deviation), activation, dropout, site};
    if (adds_nothing) out.up.weight.value().zero();
    if (norm_epsilon) out.norm = Norm<T, B>::identity(width, *norm_epsilon);
    return out;
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& context) const {
    const auto& run = context.run;
    const Var<T, B> in = norm ? (*norm)(x) : x;
    if constexpr (Tensor<T, B>::rounds)
      if (whole(run.training ? dropout : 0))
        return bottleneck(in, down.weight, down.bias, up.weight, up.bias, activation);
    const auto inner = down.activated(in, activation, run.training ? dropout : 0, run.key(site),
                                      static_cast<std::uint64_t>(context.first_row * down.out()));
    return up(inner);
  }

  /// Whether nothing is between the two weights but the activation, and nothing changes them.
  bool whole(float dropped) const {
    for (const auto* of : {&down, &up})
      if (of->packed.defined() || of->update.index() || !of->bias.defined() || of->weight.perturbed()) return false;
    return dropped == 0 && down.out() <= Bottleneck::widest;
  }

  static void parts(auto& self, auto&& visit) {
    visit("down", self.down);
    visit("up", self.up);
    visit("norm", self.norm);
  }
};

}  // namespace meft::nn
