// Owns: an affine map with an activation after it, as one op: where the backend's product ends in the activation, what
// is between the two never goes to memory and back.
#pragma once

#include <meft/base/compose.hpp>
#include <meft/ops/linear.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// y = f(z), z = x·wᵀ + b,  dz = dy·f', the rest as `Affine` (Linear or PackedLinear) has it. Keeps z or y, as the
/// derivative of f reads them, and what Affine keeps. The same bits as the two ops where the backend does not fuse
/// them.
template <class Affine>
struct ActivatedLinear {
  static constexpr const char* name = "linear_activation";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    typename Affine::template Saved<T, B> affine;
    Tensor<T, B> kept;
  };
  Affine affine;
  Activation f;

  template <Real T, Backend B>
  Tensor<T, B> forward(Saved<T, B>& saved, auto need, const Tensor<T, B>& x, const auto&... rest) const {
    Tensor<T, B> y = affine.start(saved.affine, need, x, rest...);
    Tensor<T, B> z = reads_argument(f) ? Tensor<T, B>(y.shape()) : y;
    if (!affine.multiply(f, z, y, x, rest...)) {
      affine.multiply(z, x, rest...);
      visit(f, [&](auto g) { map(B{}, g, y.size(), y.data(), std::as_const(z).data()); });
    }
    if (need.any()) saved.kept = z;  // y itself where f reads that
    return y;
  }
  /// `into`: what dx is added to, in its place; empty: nothing.
  template <Real T, Backend B>
  auto backward(Saved<T, B>& saved, auto need, Tensor<T, B> dy, const Tensor<T, B>& into = {}) const {
    Tensor<T, B> dz = overwrite(dy);
    visit(f, [&](auto g) {
      map(B{}, Slope<decltype(g)>{}, dy.size(), dz.data(), std::as_const(dy).data(), std::as_const(saved.kept).data());
    });
    saved.kept = {};
    dy = {};
    return affine.backward(std::as_const(saved.affine), need, dz, into);
  }
};

/// f(x·wᵀ + bias). x [.., in], w [out, in] or packed, bias [out] → [.., out].
template <Operand X, Operand W, Operand Bias>
VarOf<X> linear_activation(const X& x, const W& w, const Bias& bias, Activation f, Where where = Where::current()) {
  return apply(where, ActivatedLinear<Linear>{{}, f}, x, w, bias);
}
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear_activation(const X& x, const Parameter<T, B>& w, const Bias& bias, Activation f,
                           Where where = Where::current()) {
  if (w.perturbed()) [[unlikely]] {
    auto y = detail::perturbed_linear(as_var(x), w, as_var(bias));
    visit(f, [&](auto g) { map(B{}, g, y.size(), y.data(), std::as_const(y).data()); });
    return y;
  }
  return apply(where, ActivatedLinear<Linear>{{}, f}, x, w, bias);
}
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear_activation(const X& x, const PackedWeight<T, B>& w, const Bias& bias, Activation f,
                           Where where = Where::current()) {
  return apply(where, ActivatedLinear<PackedLinear<T, B>>{{w}, f}, x, bias);
}

}  // namespace meft
