// Owns: arithmetic on tensors that several ops share, without gradients: products, sums, broadcasting reductions.
#pragma once

#include <meft/backend/cpu/kernels.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/base/functor.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// A matrix read transposed: `gemm(t(x), dy)`.
template <Scalar T, Backend B>
struct Transposed {
  const Tensor<T, B>& of;
};
template <Scalar T, Backend B>
Transposed<T, B> t(const Tensor<T, B>& x) {
  return {x};
}

namespace detail {

/// A stack of equal matrices: the last two axes, repeated over the leading ones.
template <class T>
struct Matrices {
  Index batch, rows, columns;
  Strided<T> view;
};
template <Real T, Backend B>
Matrices<T> matrices(const Tensor<T, B>& x) {
  return {x.shape().outer(-2), x.dim(-2), x.dim(-1), {x.data(), x.dim(-1), 1}};
}
template <Real T, Backend B>
Matrices<T> matrices(const Transposed<T, B>& x) {
  return {x.of.shape().outer(-2), x.of.dim(-1), x.of.dim(-2), {x.of.data(), 1, x.of.dim(-1)}};
}
template <class T, class B>
const Tensor<T, B>& plain(const Tensor<T, B>& x) {
  return x;
}
template <class T, class B>
const Tensor<T, B>& plain(const Transposed<T, B>& x) {
  return x.of;
}

}  // namespace detail

/// Matrix product over the last two axes: [.., m, k] · [.., k, n] → [.., m, n]; either side may be `t(x)`. Leading axes
/// are equal. Callers check shapes.
template <class A, class W>
auto gemm(const A& a, const W& w) {
  const auto& first = detail::plain(a);
  using T = typename std::decay_t<decltype(first)>::value_type;
  using B = typename std::decay_t<decltype(first)>::backend;
  const auto ma = detail::matrices(a);
  const auto mw = detail::matrices(w);
  Shape shape = first.shape();
  shape[-2] = ma.rows;
  shape[-1] = mw.columns;
  Tensor<T, B> out(shape);
  gemm(B{},
       Product<T>{ma.rows, mw.columns, ma.columns, ma.view, out.data(), mw.columns, Start::zero, nullptr, ma.batch},
       mw.view);
  return out;
}

/// f(x...) elementwise on tensors of one shape, into a new tensor.
template <class F, Scalar T, Backend B, class... More>
Tensor<T, B> map(const F& f, const Tensor<T, B>& x, const More&... more) {
  Tensor<T, B> out(x.shape());
  map(B{}, f, x.size(), out.data(), x.data(), more.data()...);
  return out;
}

/// x·s, s broadcast: a single number, which the host need not know, or one for each feature.
template <Real T, Backend B>
Tensor<T, B> scaled(Tensor<T, B> x, const Tensor<T, B>& s) {
  Tensor<T, B> out = overwrite(x);
  map_broadcast(B{}, Mul{}, x.shape(), out.data(), x.shape(), std::as_const(x).data(), s.shape(), s.data());
  return out;
}

/// into += x, elementwise; takes x over when `into` is empty, and never writes into elements that others see.
template <Real T, Backend B>
[[gnu::cold, gnu::noinline]] void accumulate(Tensor<T, B>& into, Tensor<T, B> x) {
  if (!into.defined()) into = std::move(x);
  else if (into.unique())
    map(B{}, Add{}, into.size(), into.data(), std::as_const(into).data(), std::as_const(x).data());
  else if (x.unique()) {
    map(B{}, Add{}, x.size(), x.data(), std::as_const(into).data(), std::as_const(x).data());
    into = std::move(x);
  } else into = map(Add{}, into, x);
}

/// Sum over one axis, which disappears, in an order that depends on the shape alone. On the CPU: ascending, along the
/// last axis as 16 running sums that are joined; of more than 4096 elements the sums of as many.
template <Real T, Backend B>
Tensor<T, B> sum_axis(const Tensor<T, B>& x, int axis) {
  Tensor<T, B> out(x.shape().without(axis));
  sum(B{}, x.shape().outer(axis), x.dim(axis), x.shape().inner(axis), x.data(), out.data());
  return out;
}

/// Sums x over the axes that were broadcast, giving `shape`: one axis after the other, as sum_axis does.
template <Real T, Backend B>
Tensor<T, B> sum_to(const Tensor<T, B>& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  Tensor<T, B> out = x;
  while (out.rank() > shape.rank()) out = sum_axis(out, 0);
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] == 1 && out.dim(i) != 1) out = sum_axis(out, i).reshape(out.shape().with(i, 1));
  return out;
}

}  // namespace meft
