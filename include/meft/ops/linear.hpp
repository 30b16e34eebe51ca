// Owns: the affine map with Hugging Face's weight layout, for trained weights and for packed frozen ones.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/tensor/packed.hpp>

namespace meft {

/// y = x·wᵀ + b,  dx = dy·w,  dw = dyᵀ·x,  db = Σ dy, with w [out, in]. An empty b stands for none.
struct Linear {
  static constexpr const char* name = "linear";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, w;
  };

  template <Real T, Backend B>
  static Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& w,
                              const Tensor<T, B>& bias) {
    require(w.rank() == 2 && x.rank() >= 1 && x.dim(-1) == w.dim(1),
            "linear: the last extent of a is not the second of b", x, w);
    require(!bias.defined() || bias.size() == w.dim(0), "linear: the bias has not one element a row of b", bias, w);
    if (need[0]) saved.w = w;
    if (need[1]) saved.x = x;
    Tensor<T, B> y(x.shape().with(-1, w.dim(0)));
    const Index in = w.dim(1), out = w.dim(0);
    gemm(B{},
         Product<T>{x.size() / in,
                    out,
                    in,
                    {x.data(), in, 1},
                    y.data(),
                    out,
                    bias.defined() ? Start::bias : Start::zero,
                    bias.data()},
         Strided<T>{w.data(), 1, in});
    return y;
  }

  template <Real T, Backend B>
  static auto backward(const Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) {
    const Index out = dy.dim(-1), rows = dy.size() / out;
    const auto flat = dy.reshape({rows, out});
    return grads(
        need,
        [&] {
          Tensor<T, B> dx(dy.shape().with(-1, saved.w.dim(1)));
          const Index in = saved.w.dim(1);
          gemm(B{}, Product<T>{rows, in, out, {flat.data(), out, 1}, dx.data(), in}, Strided<T>{saved.w.data(), in, 1});
          return dx;
        },
        [&] {
          return gemm(t(flat), saved.x.reshape({rows, -1}));
        },
        [&] { return sum_axis(flat, 0); });
  }
};

/// y = x·wᵀ + b with w frozen and packed: dx = dy·w. Saves nothing.
template <Real T, Backend B>
struct PackedLinear {
  static constexpr const char* name = "linear";
  template <Scalar, Backend>
  struct Saved {};
  PackedWeight<T, B> w;

  auto forward(auto&, Needs<2>, const Tensor<T, B>& x, const Tensor<T, B>& bias) const {
    const Index in = w.shape()[1], out = w.shape()[0];
    require(x.rank() >= 1 && x.dim(-1) == in, "linear: the last extent of a is not the second of b", x, w);
    require(!bias.defined() || bias.size() == out, "linear: the bias has not one element a row of b", bias, w);
    Tensor<T, B> y(x.shape().with(-1, out));
    w.forward(x.size() / in, x.data(), bias.defined() ? bias.data() : nullptr, y.data());
    return y;
  }
  auto backward(const auto&, Needs<2> need, const Tensor<T, B>& dy) const {
    const Index in = w.shape()[1], out = w.shape()[0];
    return grads(
        need,
        [&] {
          Tensor<T, B> dx(dy.shape().with(-1, in));
          w.backward(dy.size() / out, dy.data(), dx.data());
          return dx;
        },
        [&] {
          return sum_axis(dy.reshape({-1, out}), 0);
        });
  }
};

/// x [.., in], w [out, in], bias [out] → [.., out].
template <Operand X, Operand W, Operand Bias>
VarOf<X> linear(const X& x, const W& w, const Bias& bias, Where where = Where::current()) {
  return apply(where, Linear{}, x, w, bias);
}
template <Operand X, Operand W>
VarOf<X> linear(const X& x, const W& w, Where where = Where::current()) {
  return apply(where, Linear{}, x, w, VarOf<X>());
}
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear(const X& x, const PackedWeight<T, B>& w, const Bias& bias, Where where = Where::current()) {
  return apply(where, PackedLinear<T, B>{w}, x, bias);
}
template <Operand X, Real T, Backend B>
VarOf<X> linear(const X& x, const PackedWeight<T, B>& w, Where where = Where::current()) {
  return apply(where, PackedLinear<T, B>{w}, x, VarOf<X>());
}

}  // namespace meft
