// Owns: the affine map with Hugging Face's weight layout, for trained weights and for packed frozen ones.
#pragma once

#include <algorithm>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/tensor/packed.hpp>

namespace meft {

/// y = x·wᵀ + b,  dx = dy·w,  dw = dyᵀ·x,  db = Σ dy, with w [out, in]. An empty b stands for none.
struct Linear {
  static constexpr const char* name = "linear";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, w;
  };

  template <Real T, Backend B>
  static Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& w,
                              const Tensor<T, B>& bias) {
    Tensor<T, B> y = start(saved, need, x, w, bias);
    multiply(y, x, w, bias);
    return y;
  }

  /// Checks and saves; y is still to be computed.
  template <Real T, Backend B>
  static Tensor<T, B> start(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& w,
                            const Tensor<T, B>& bias) {
    require(w.rank() == 2 && x.rank() >= 1 && x.dim(-1) == w.dim(1),
            "linear: the last extent of a is not the second of b", x, w);
    require(w.size() > 0, "linear: a weight without elements", w);
    require(!bias.defined() || bias.shape() == Shape{w.dim(0)}, "linear: the bias has not one element a row of b", bias,
            w);
    if (need[0]) saved.w = w;
    if (need[1]) saved.x = x;
    return Tensor<T, B>(x.shape().with(-1, w.dim(0)));
  }
  template <Real T, Backend B>
  static void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& w, const Tensor<T, B>& bias) {
    gemm(B{}, product(y, x, w, bias), Strided<T>{w.data(), 1, w.dim(1)});
  }
  /// As gemm_activated.
  template <Real T, Backend B>
  static bool multiply(Activation f, Tensor<T, B>& before, Tensor<T, B>& y, const Tensor<T, B>& x,
                       const Tensor<T, B>& w, const Tensor<T, B>& bias) {
    return gemm_activated(B{}, f, product(y, x, w, bias), Strided<T>{w.data(), 1, w.dim(1)}, before.data());
  }

  template <Real T, Backend B>
  static void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const PackedWeight<T, B>& w, const Tensor<T, B>& bias) {
    w.forward(x, bias, y);
  }
  /// dx[rows, in] ← g[rows, out]·w.
  template <Real T, Backend B>
  static void multiply_back(Index rows, const T* g, const Tensor<T, B>& w, T* dx) {
    const Index out = w.dim(0), in = w.dim(1);
    gemm(B{}, Product<T>{rows, in, out, {g, out, 1}, dx, in}, Strided<T>{w.data(), in, 1});
  }
  template <Real T, Backend B>
  static void multiply_back(Index rows, const T* g, const PackedWeight<T, B>& w, T* dx) {
    w.backward(rows, g, dx);
  }

  /// How many rows of a perturbed weight [.., in] exist at a time.
  template <Backend B>
  static constexpr Index rows_at_once(Index in) {
    return std::max<Index>(16, (B::on_host ? Index{1} << 17 : Index{1} << 24) / in / 16 * 16);
  }
  /// w as it is read: of a perturbed one a few rows at a time, so that the whole never exists.
  template <Real T, Backend B>
  static void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const Parameter<T, B>& w, const Tensor<T, B>& bias) {
    if (!w.perturbed()) return multiply(y, x, w.value(), bias);
    const Index out = w.shape()[0], in = w.shape()[1];
    const Index each = rows_at_once<B>(in);
    for (Index first = 0; first < out; first += each) {
      const Index last = std::min(out, first + each);
      const UseScope use(Use::workspace);
      const auto rows = w.read_rows(first, last);
      auto p = product(y, x, rows, bias);
      p.c += first;
      p.ldc = out;
      if (bias.defined()) p.bias += first;
      gemm(B{}, p, Strided<T>{rows.data(), 1, in});
    }
  }

  /// `into`: what dx is added to, in its place; empty: nothing.
  template <Real T, Backend B>
  static auto backward(const Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy, const Tensor<T, B>& into) {
    const Index out = dy.dim(-1), rows = dy.size() / out;
    const auto flat = dy.reshape({rows, out});
    return grads(
        need,
        [&] {
          const bool adds = into.defined();
          Tensor<T, B> dx = adds ? into : Tensor<T, B>(dy.shape().with(-1, saved.w.dim(1)));
          const Index in = saved.w.dim(1);
          gemm(B{},
               Product<T>{rows, in, out, {flat.data(), out, 1}, dx.data(), in, adds ? Start::accumulate : Start::zero},
               Strided<T>{saved.w.data(), in, 1});
          return dx;
        },
        [&] {
          return gemm(t(flat), saved.x.reshape({rows, saved.x.dim(-1)}));
        },
        [&] { return sum_axis(flat, 0); });
  }

  template <Real T, Backend B>
  static auto backward(const Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) {
    return backward(saved, need, dy, Tensor<T, B>());
  }

 private:
  template <Real T, Backend B>
  static Product<T> product(Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& w, const Tensor<T, B>& bias) {
    const Index in = w.dim(1), out = w.dim(0);
    return {x.size() / in, out, in, {x.data(), in, 1}, y.data(), out, bias.defined() ? Start::bias : Start::zero,
            bias.data()};
  }
};

/// y = x·wᵀ + b with w frozen and packed: dx = dy·w. Saves nothing.
template <Real T, Backend B>
struct PackedLinear {
  static constexpr const char* name = "linear";
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  struct Saved {};
  PackedWeight<T, B> w;
  Hand gradient = Hand::in_full, hand = Hand::in_full;  // of x; of y, where a kernel gives it so

  Tensor<T, B> forward(auto& saved, Needs<2> need, const Tensor<T, B>& x, const Tensor<T, B>& bias) const {
    check(x, bias);
    if constexpr (Tensor<T, B>::rounds)
      if (hand == Hand::rounded && w.rounds()) {
        auto y = Tensor<T, B>::handed(x.shape().with(-1, w.shape()[0]), hand);
        if (w.forward_rounded(x, bias, y)) return y;
      }
    Tensor<T, B> y = start(saved, need, x, bias);
    multiply(y, x, bias);
    return y;
  }
  Tensor<T, B> start(auto&, Needs<2>, const Tensor<T, B>& x, const Tensor<T, B>& bias) const {
    check(x, bias);
    return Tensor<T, B>(x.shape().with(-1, w.shape()[0]));
  }
  void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& bias) const { w.forward(x, bias, y); }
  /// As gemm_activated.
  bool multiply(Activation f, Tensor<T, B>& before, Tensor<T, B>& y, const Tensor<T, B>& x,
                const Tensor<T, B>& bias) const {
    return w.forward_activated(f, x, bias, before.data(), y);
  }
  /// `into`: what dx is added to, in its place; empty: nothing.
  auto backward(const auto&, Needs<2> need, const Tensor<T, B>& dy, const Tensor<T, B>& into = {}) const {
    const Index in = w.shape()[1], out = w.shape()[0];
    return grads(
        need,
        [&] {
          const bool adds = into.defined();
          auto dx = adds ? into : Tensor<T, B>::handed(dy.shape().with(-1, in), w.rounds() ? gradient : Hand::in_full);
          w.backward(dy, dx, adds);
          return dx;
        },
        [&] {
          return sum_axis(dy.reshape({dy.size() / out, out}), 0);
        });
  }

 private:
  void check(const Tensor<T, B>& x, const Tensor<T, B>& bias) const {
    require(w.defined(), "linear: a packed weight that was default-made");
    require(x.rank() >= 1 && x.dim(-1) == w.shape()[1], "linear: the last extent of a is not the second of b", x, w);
    require(!bias.defined() || bias.shape() == Shape{w.shape()[0]}, "linear: the bias has not one element a row of b",
            bias, w);
  }
};

namespace detail {
/// x·wᵀ + bias with w perturbed.
template <Real T, Backend B>
[[gnu::cold, gnu::noinline]] Tensor<T, B> perturbed_linear(const Var<T, B>& x, const Parameter<T, B>& w,
                                                           const Var<T, B>& bias) {
  Linear::Saved<T, B> saved;
  auto y = Linear::start(saved, Needs<3>{}, x.value(), w.value(), bias.value());
  Linear::multiply(y, x.value(), w, bias.value());
  return y;
}
}  // namespace detail

/// x [.., in], w [out, in], bias [out] → [.., out].
template <Operand X, Operand W, Operand Bias>
VarOf<X> linear(const X& x, const W& w, const Bias& bias, Where where = Where::current()) {
  return apply(where, Linear{}, x, w, bias);
}
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear(const X& x, const Parameter<T, B>& w, const Bias& bias, Where where = Where::current()) {
  if (w.perturbed()) [[unlikely]]
    return detail::perturbed_linear(as_var(x), w, as_var(bias));
  return apply(where, Linear{}, x, w, bias);
}
template <Operand X, Operand W>
VarOf<X> linear(const X& x, const W& w, Where where = Where::current()) {
  return linear(x, w, VarOf<X>(), where);
}
/// The gradient of x and the result are handed on as said.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear(const X& x, const PackedWeight<T, B>& w, const Bias& bias, Hand gradient = Hand::in_full,
                Hand hand = Hand::in_full, Where where = Where::current()) {
  return apply(where, PackedLinear<T, B>{w, gradient, hand}, x, bias);
}
template <Operand X, Real T, Backend B>
VarOf<X> linear(const X& x, const PackedWeight<T, B>& w, Where where = Where::current()) {
  return apply(where, PackedLinear<T, B>{w}, x, VarOf<X>());
}

}  // namespace meft
