// Owns: the affine map whose weight trains and is multiplied in bf16: on a host.
#pragma once

#include <meft/ops/linear_activation.hpp>
#include <meft/tensor/narrowed.hpp>

namespace meft {

/// y = x·wᵀ + b,  dx = dy·w,  dw = dyᵀ·x,  db = Σ dy, with w [out, in] in float and its panels in bf16. Of each of the
/// three products both sides are rounded to bf16, sums are in float. An empty b stands for none.
template <Real T, Backend B>
struct NarrowLinear {
  static constexpr const char* name = "linear";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T2, Backend B2>
  struct Saved {
    Tensor<T2, B2> x, w;  // w: so that a change of it before the backward pass is noticed
  };
  PackedWeight<T, B> panels;  // of w as it is

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& w,
                       const Tensor<T, B>& bias) const {
    Tensor<T, B> y = start(saved, need, x, w, bias);
    multiply(y, x, w, bias);
    return y;
  }
  Tensor<T, B> start(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& w,
                     const Tensor<T, B>& bias) const {
    Linear::Saved<T, B> all;
    auto y = Linear::start(all, need, x, w, bias);
    require(panels.shape() == w.shape(), "linear: the panels are not of the weight", panels, w);
    if (need[0]) saved.w = w;
    saved.x = all.x;
    return y;
  }
  void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& /*w*/, const Tensor<T, B>& bias) const {
    panels.forward(x, bias, y);
  }
  /// As gemm_activated.
  bool multiply(Activation f, Tensor<T, B>& before, Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& /*w*/,
                const Tensor<T, B>& bias) const {
    return panels.forward_activated(f, x, bias, before.data(), y);
  }

  auto backward(const Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy, const Tensor<T, B>& = {}) const {
    const Index out = panels.shape()[0], in = panels.shape()[1], rows = dy.size() / out;
    return grads(
        need,
        [&] {
          Tensor<T, B> dx(dy.shape().with(-1, in));
          panels.backward(dy, dx);
          return dx;
        },
        [&] {
          Tensor<T, B> dw({out, in});
          panels.gradient(rows, dy.data(), saved.x.data(), dw.data());
          return dw;
        },
        [&] {
          return sum_axis(dy.reshape({rows, out}), 0);
        });
  }
};

/// x [.., in], w [out, in], its panels, bias [out] → [.., out].
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> narrow_linear(const X& x, const PackedWeight<T, B>& panels, const Parameter<T, B>& w, const Bias& bias,
                       Where where = Where::current()) {
  return apply(where, NarrowLinear<T, B>{panels}, x, w, bias);
}
/// f(x·wᵀ + bias), as one op.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> narrow_linear_activation(const X& x, const PackedWeight<T, B>& panels, const Parameter<T, B>& w,
                                  const Bias& bias, Activation f, Where where = Where::current()) {
  return apply(where, ActivatedLinear<NarrowLinear<T, B>>{{panels}, f}, x, w, bias);
}

}  // namespace meft
