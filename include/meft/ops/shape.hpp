// Owns: ops that move elements: reshape, transpose, concat, slice, gather.
#pragma once

#include <concepts>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <meft/backend/kernels/rows.hpp>

namespace meft {

namespace detail {

/// x with its axes in `order`, copied.
template <Scalar T, Backend B>
Tensor<T, B> permuted(const Tensor<T, B>& x, const AxisOrder& order) {
  Shape shape;
  for (int i = 0; i < x.rank(); ++i) shape.push(x.dim(order[static_cast<std::size_t>(i)]));
  Tensor<T, B> y(shape);
  permute(B{}, x.shape(), order, x.data(), y.data());
  return y;
}
inline AxisOrder inverse(const AxisOrder& order, int rank) {
  AxisOrder out{};
  for (int i = 0; i < rank; ++i) out[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = i;
  return out;
}

/// Elements [begin, end) of an axis: shared when they lie together, else copied.
template <Scalar T, Backend B>
Tensor<T, B> sliced(const Tensor<T, B>& x, int axis, Index begin, Index end) {
  const Shape shape = x.shape().with(axis, end - begin);
  const Index outer = x.shape().outer(axis), inner = x.shape().inner(axis), n = x.dim(axis);
  if (outer == 1) return x.reshape(Shape{n, inner}).rows(begin, end).reshape(shape);
  Tensor<T, B> y(shape);
  copy_rows(B{}, outer, (end - begin) * inner, x.data() + begin * inner, n * inner, y.data(), (end - begin) * inner);
  return y;
}

}  // namespace detail

/// y = x under another shape,  dx = dy under x's shape. Elements are shared.
struct Reshape {
  static constexpr const char* name = "reshape";
  template <Scalar T, Backend B>
  struct Saved {
    Shape shape;
  };
  auto forward(auto& saved, Needs<1>, const auto& x) const {
    saved.shape = x.shape();
    return x.reshape(to);
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) {
    return {dy.reshape(saved.shape)};
  }
  Shape to;
};

/// y = x with its axes in another order,  dx = dy with its axes back.
struct Permute {
  static constexpr const char* name = "transpose";
  template <Scalar T, Backend B>
  struct Saved {};
  auto forward(auto&, Needs<1>, const auto& x) const { return detail::permuted(x, order); }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    return {detail::permuted(dy, detail::inverse(order, dy.rank()))};
  }
  AxisOrder order{};
};

/// y = elements [begin, end) of an axis,  dx = dy there and 0 elsewhere.
struct Slice {
  static constexpr const char* name = "slice";
  template <Scalar T, Backend B>
  struct Saved {
    Shape shape;
  };
  auto forward(auto& saved, Needs<1>, const auto& x) const {
    require(0 <= begin && begin <= end && end <= x.dim(axis), "slice: outside the axis", x, axis, begin, end);
    saved.shape = x.shape();
    return detail::sliced(x, axis, begin, end);
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) const {
    auto dx = Tensor<T, B>::zeros(saved.shape);
    const Index inner = dx.shape().inner(axis), run = (end - begin) * inner;
    copy_rows(B{}, dx.shape().outer(axis), run, dy.data(), run, dx.data() + begin * inner, dx.dim(axis) * inner);
    return {dx};
  }
  int axis;
  Index begin, end;
};

/// y[i] = x[rows[i]] along the first axis,  dx[rows[i]] += dy[i], ascending in i.
template <Backend B>
struct Gather {
  static constexpr const char* name = "gather";
  template <Scalar T, Backend>
  struct Saved {
    Shape shape;
  };
  template <Real T>
  Tensor<T, B> forward(auto& saved, Needs<1>, const Tensor<T, B>& x) const {
    require(x.rank() >= 1 && rows.rank() == 1, "gather: rows are not one list of rows of a table", x, rows);
    const Index bad = first_outside(B{}, rows.size(), rows.data(), x.dim(0));
    if (bad >= 0) {
      const std::string row = std::to_string(rows.rows(bad, bad + 1).item());
      fail("gather: no such row", x, "position " + std::to_string(bad), "row " + row);
    }
    saved.shape = x.shape();
    Tensor<T, B> y(x.shape().with(0, rows.size()));
    gather_rows(B{}, rows.size(), x.shape().inner(0), x.data(), rows.data(), y.data());
    return y;
  }
  template <Real T>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) const {
    auto dx = Tensor<T, B>::zeros(saved.shape);
    scatter_rows(B{}, rows.size(), dx.shape().inner(0), dy.data(), rows.data(), dx.data());
    return {dx};
  }
  Tensor<std::int32_t, B> rows;
};

/// The same elements under another shape of equal size.
template <Operand X>
VarOf<X> reshape(const X& x, const Shape& shape, Where where = Where::current()) {
  return apply(where, Reshape{shape}, x);
}
/// One extent may be -1, and is then found from the others.
template <Operand X>
VarOf<X> reshape(const X& x, std::initializer_list<Index> dims, Where where = Where::current()) {
  return apply(where, Reshape{fitting(dims, x.size(), where)}, x);
}

/// Axis i of the result is axis order[i] of x, each axis once.
template <Operand X>
VarOf<X> permute(const X& x, std::initializer_list<int> order, Where where = Where::current()) {
  const int rank = x.shape().rank();
  const bool complete = static_cast<int>(order.size()) == rank;
  require(complete, {"transpose: the order does not name every axis", where}, x, order.size());
  Permute op;
  unsigned seen = 0;
  std::size_t i = 0;
  for (int axis : order) {
    const int at = axis < 0 ? axis + rank : axis;
    require(at >= 0 && at < rank, {"transpose: no such axis", where}, x, axis);
    require(!(seen >> at & 1u), {"transpose: an axis is named twice", where}, x, axis);
    seen |= 1u << at;
    op.order[i++] = at;
  }
  return apply(where, op, x);
}
/// x with axes a and b exchanged; negative axes count from the back.
template <Operand X>
VarOf<X> transpose(const X& x, int a = -1, int b = -2, Where where = Where::current()) {
  const int rank = x.shape().rank();
  for (int axis : {a, b}) require(axis >= -rank && axis < rank, {"transpose: no such axis", where}, x, axis);
  Permute op;
  for (int k = 0; k < rank; ++k) op.order[static_cast<std::size_t>(k)] = k;
  const auto i = static_cast<std::size_t>(x.shape().index(a)), j = static_cast<std::size_t>(x.shape().index(b));
  std::swap(op.order[i], op.order[j]);
  return apply(where, op, x);
}

/// Elements [begin, end) of `axis`. Along the first axis they are shared, so a slice keeps all of x's memory alive.
template <Operand X>
VarOf<X> slice(const X& x, int axis, Index begin, Index end, Where where = Where::current()) {
  const int rank = x.shape().rank();
  require(axis >= -rank && axis < rank, {"slice: no such axis", where}, x, axis);
  return apply(where, Slice{x.shape().index(axis), begin, end}, x);
}

/// Rows of x [v, ..] by number: rows [n] → [n, ..].
template <Operand X, Backend B>
VarOf<X> gather(const X& x, const Tensor<std::int32_t, B>& rows, Where where = Where::current()) {
  return apply(where, Gather<B>{rows}, x);
}

namespace detail {

/// y = its inputs one after the other along an axis,  dx = their parts of dy.
template <Real T, Backend B>
struct ConcatNode final : Slot<T, B> {
  ConcatNode() : Slot<T, B>("concat") {}
  void backward(Tape& tape) override {
    const auto dy = std::exchange(this->gradient, {});
    Index at = 0;
    for (std::size_t i = 0; i < inputs.size(); at += extents[i++])
      if (inputs[i] >= 0) tape.add(inputs[i], sliced(dy, axis, at, at + extents[i]));
  }
  int axis = 0;
  std::vector<int> inputs;  // nodes; -1 where no gradient is needed
  std::vector<Index> extents;
};

}  // namespace detail

/// The inputs one after the other along `axis`; their other extents are equal.
template <Real T, Backend B>
Var<T, B> concat(std::span<const Var<T, B>> list, int axis = 0, Where where = Where::current()) {
  require(!list.empty(), {"concat: an empty list", where});
  const Shape& first = list.front().shape();
  require(axis >= -first.rank() && axis < first.rank(), {"concat: no such axis", where}, first, axis);
  auto node = std::make_unique<detail::ConcatNode<T, B>>();
  node->axis = axis = first.index(axis);
  Index total = 0;
  bool wanted = false;
  for (const auto& x : list) {
    if (!x.defined()) detail::refuse_empty("concat", where);
    require(x.shape().rank() == first.rank() && x.shape().with(axis, 0) == first.with(axis, 0),
            {"concat: shapes differ besides the axis", where}, first, x);
    const bool want = Tape::current() && Tape::current()->wants(x, node->name, where);
    node->inputs.push_back(want ? Tape::node(x) : -1);
    node->extents.push_back(x.dim(axis));
    total += x.dim(axis);
    wanted = wanted || want;
  }
  Tensor<T, B> y(first.with(axis, total), where);
  const Index inner = first.inner(axis);
  T* to = y.data();
  for (const auto& x : list) {
    const Index run = x.dim(axis) * inner;
    copy_rows(B{}, first.outer(axis), run, x.value().data(), run, to, total * inner);
    to += run;
  }
  if (wanted) return Tape::current()->template attach<T, B>(std::move(y), std::move(node));
  Var<T, B> out(std::move(y));
  for (const auto& x : list) out = Tape::unrecorded<T, B>("concat", out.value(), {&out, &x});
  return out;
}
template <Real T, Backend B>
Var<T, B> concat(const std::vector<Var<T, B>>& list, int axis = 0, Where where = Where::current()) {
  return concat(std::span<const Var<T, B>>(list), axis, where);
}
template <Real T, Backend B>
Var<T, B> concat(std::initializer_list<Var<T, B>> list, int axis = 0, Where where = Where::current()) {
  return concat(std::span<const Var<T, B>>(list.begin(), list.size()), axis, where);
}

namespace detail {
/// A list in braces of operands of several kinds.
template <Real T, Backend B>
struct Operands {
  template <Operand... X>
  requires(std::same_as<VarOf<X>, Var<T, B>>&&...) Operands(const X&... x) : list{as_var(x)...} {}
  std::vector<Var<T, B>> list;
};
}  // namespace detail

/// Of tensors, parameters and variables: in float or double on the CPU, concat<T, B>({…}) elsewhere.
template <Real T = float, Backend B = Cpu>
Var<T, B> concat(std::type_identity_t<detail::Operands<T, B>> x, int axis = 0, Where where = Where::current()) {
  return concat(std::span<const Var<T, B>>(x.list), axis, where);
}
template <std::same_as<double> T = double>
Var<T> concat(std::type_identity_t<detail::Operands<T, Cpu>> x, int axis = 0, Where where = Where::current()) {
  return concat(std::span<const Var<T>>(x.list), axis, where);
}

}  // namespace meft
