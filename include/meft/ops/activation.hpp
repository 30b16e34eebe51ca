// Owns: elementwise functions of one operand.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/compose.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// y = f(x),  dx = dy·f'. Keeps x or y or neither, as the functor's derivative reads them.
template <class F>
struct Unary {
  static constexpr const char* name = F::name;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> kept;
  };
  static auto forward(auto& saved, Needs<1> need, const auto& x) {
    auto y = map(F{}, x);
    if (need[0] && F::needs_x) saved.kept = x;
    if (need[0] && F::needs_y) saved.kept = y;
    return y;
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, Tensor<T, B> dy) {
    Tensor<T, B> dx = overwrite(dy);
    const T* d = dy.data();
    if constexpr (F::needs_x || F::needs_y) map(B{}, Slope<F>{}, dy.size(), dx.data(), d, saved.kept.data());
    else map(B{}, Slope<F>{}, dy.size(), dx.data(), d);
    return {dx};
  }
};

/// −x.
template <Operand X>
VarOf<X> neg(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Neg>{}, x);
}
template <Operand X>
VarOf<X> operator-(const X& x) {
  return neg(x);
}
/// eˣ.
template <Operand X>
VarOf<X> exp(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Exp>{}, x);
}
/// ln x.
template <Operand X>
VarOf<X> log(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Log>{}, x);
}
/// √x.
template <Operand X>
VarOf<X> sqrt(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Sqrt>{}, x);
}
/// x².
template <Operand X>
VarOf<X> square(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Square>{}, x);
}
/// |x|, with derivative 0 at 0.
template <Operand X>
VarOf<X> abs(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Abs>{}, x);
}
template <Operand X>
VarOf<X> tanh(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Tanh>{}, x);
}
/// 1/(1 + e⁻ˣ).
template <Operand X>
VarOf<X> sigmoid(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Sigmoid>{}, x);
}
/// max(x, 0), with derivative 0 at 0.
template <Operand X>
VarOf<X> relu(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Relu>{}, x);
}
/// x·σ(x).
template <Operand X>
VarOf<X> silu(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Silu>{}, x);
}
/// x·Φ(x), Φ the normal distribution function (Hugging Face's `gelu`).
template <Operand X>
VarOf<X> gelu(const X& x, Where where = Where::current()) {
  return apply(where, Unary<Gelu>{}, x);
}
/// The tanh approximation of gelu (Hugging Face's `gelu_new`).
template <Operand X>
VarOf<X> gelu_tanh(const X& x, Where where = Where::current()) {
  return apply(where, Unary<GeluTanh>{}, x);
}
/// The activation chosen at run time.
template <Operand X>
VarOf<X> activate(const X& x, Activation activation, Where where = Where::current()) {
  return visit(activation, [&](auto f) { return apply(where, Unary<decltype(f)>{}, x); });
}

}  // namespace meft
