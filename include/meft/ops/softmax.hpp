// Owns: softmax and its logarithm over one axis.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/softmax.hpp>
#include <meft/ops/shape.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// Softmax over the last axis: y = exp(x) / Σ exp(x),  dx = y ⊙ (dy − Σ y·dy).
/// Its logarithm: y = x − ln Σ exp(x),  dx = dy − exp(y)·Σ dy. Keeps y.
template <bool logarithm>
struct Softmax {
  static constexpr const char* name = logarithm ? "log_softmax" : "softmax";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> y;
  };
  template <Real T, Backend B>
  static Tensor<T, B> forward(auto& saved, Needs<1> need, const Tensor<T, B>& x) {
    Tensor<T, B> y(x.shape());
    softmax(B{}, x.shape().outer(-1), x.dim(-1), x.data(), y.data(), logarithm);
    if (need[0]) saved.y = y;
    return y;
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, Tensor<T, B> dy) {
    Tensor<T, B> dx = overwrite(dy);
    const T* d = dy.data();
    softmax_backward(B{}, dy.shape().outer(-1), dy.dim(-1), saved.y.data(), d, dx.data(), logarithm);
    return {dx};
  }
};

namespace detail {

template <bool logarithm, Operand X>
VarOf<X> softmax_over(const X& x, int axis, Where where) {
  const int rank = x.shape().rank();
  require(axis >= -rank && axis < rank, {logarithm ? "log_softmax: no such axis" : "softmax: no such axis", where}, x,
          axis);
  if (x.shape().index(axis) == rank - 1) return apply(where, Softmax<logarithm>{}, x);
  return transpose(apply(where, Softmax<logarithm>{}, transpose(x, axis, -1, where)), axis, -1, where);
}

}  // namespace detail

/// exp(x) / Σ exp(x) over `axis`. An axis other than the last costs a transposition each way.
template <Operand X>
VarOf<X> softmax(const X& x, int axis = -1, Where where = Where::current()) {
  return detail::softmax_over<false>(x, axis, where);
}
/// x − ln Σ exp(x) over `axis`.
template <Operand X>
VarOf<X> log_softmax(const X& x, int axis = -1, Where where = Where::current()) {
  return detail::softmax_over<true>(x, axis, where);
}

}  // namespace meft
