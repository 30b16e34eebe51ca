// Owns: sum, mean and maximum over any axes.
#pragma once

#include <vector>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/base/compose.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// Which axes a reduction runs over: none named means all. `keep` leaves them with extent 1.
struct Over {
  std::vector<int> axes = {};
  bool keep = false;
};

namespace detail {

/// What a reduction does to a shape.
struct Reduction {
  std::array<bool, Shape::max_rank> gone{};
  Shape kept, out;  // with extents of 1 in place of the reduced axes, and the result's
  Index count = 1;  // elements that become one

  [[gnu::cold, gnu::noinline]] Reduction(const char* op, const Shape& x, const Over& over) {
    for (int axis : over.axes) {
      const int i = axis < 0 ? axis + x.rank() : axis;
      if (i < 0 || i >= x.rank()) fail(joined({op, ": no such axis"}), x, axis);
      auto& mark = gone[static_cast<std::size_t>(i)];
      if (mark) fail(joined({op, ": an axis is named twice"}), x, axis);
      mark = true;
    }
    if (over.axes.empty()) gone.fill(true);
    for (int i = 0; i < x.rank(); ++i) {
      if (at(i)) count *= x[i];
      kept.push(at(i) ? 1 : x[i]);
      if (!at(i) || over.keep) out.push(kept[i]);
    }
  }
  bool at(int axis) const { return gone[static_cast<std::size_t>(axis)]; }
};

/// Calls f(first, last) for each run of neighbouring axes that goes.
template <class F>
void for_each_run(const Reduction& plan, int rank, const F& f) {
  for (int last = rank - 1; last >= 0; --last) {
    if (!plan.at(last)) continue;
    int first = last;
    while (first > 0 && plan.at(first - 1)) --first;
    f(first, last);
    last = first;
  }
}

/// Σ x over the reduction's axes, neighbouring axes at once, the last ones first.
template <Real T, Backend B>
Tensor<T, B> sum_over(Tensor<T, B> x, const Reduction& plan) {
  for_each_run(plan, x.rank(), [&](int first, int last) {
    Shape shape = x.shape();
    for (int i = first; i <= last; ++i) shape[i] = 1;
    Tensor<T, B> y(shape);
    sum(B{}, x.shape().outer(first), x.size() / std::max<Index>(1, shape.size()), x.shape().inner(last),
        std::as_const(x).data(), y.data());
    x = std::move(y);
  });
  return x.reshape(plan.out);
}

/// x repeated along the reduction's axes to `shape`.
template <Real T, Backend B>
Tensor<T, B> repeat_over(Tensor<T, B> x, const Reduction& plan, const Shape& shape) {
  x = x.reshape(plan.kept);
  for_each_run(plan, x.rank(), [&](int first, int last) {
    Shape wider = x.shape();
    Index n = 1;
    for (int i = first; i <= last; ++i) n *= wider[i] = shape[i];
    Tensor<T, B> y(wider);
    repeat(B{}, x.shape().outer(first), n, x.shape().inner(last), std::as_const(x).data(), y.data());
    x = std::move(y);
  });
  return x;
}

}  // namespace detail

/// y = Σ x over axes,  dx = dy repeated; the mean of m elements: y = Σ x / m,  dx = dy/m repeated. Keeps nothing.
template <bool average>
struct Sum {
  static constexpr const char* name = average ? "mean" : "sum";
  template <Scalar T, Backend B>
  struct Saved {
    Shape shape;
  };
  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<1>, const Tensor<T, B>& x) const {
    const detail::Reduction plan(name, x.shape(), over);
    saved.shape = x.shape();
    auto y = detail::sum_over(x, plan);
    if constexpr (!average) return y;
    require(plan.count > 0, "mean: of no elements", x);
    return map(WithRight<Div, T>{{}, static_cast<T>(plan.count)}, y);
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, Tensor<T, B> dy) const {
    const detail::Reduction plan(name, saved.shape, over);
    if constexpr (average) dy = map(WithRight<Div, T>{{}, static_cast<T>(plan.count)}, dy);
    return {detail::repeat_over(std::move(dy), plan, saved.shape)};
  }
  Over over;
};

/// y = max x over axes,  dx = dy at the first place of the maximum, 0 elsewhere. Keeps that place, 4 bytes a result.
struct Max {
  static constexpr const char* name = "max";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<std::int32_t, B> at;
    Shape shape;
  };
  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<1> need, const Tensor<T, B>& x) const {
    const detail::Reduction plan(name, x.shape(), over);
    require(plan.count > 0, "max: of no elements", x);
    const Layout layout(plan, x.shape());
    const auto in = layout.moved ? detail::permuted(x, layout.order) : x;
    Tensor<T, B> y(plan.out);
    Tensor<std::int32_t, B> at(plan.out);
    max(B{}, layout.outer, plan.count, layout.inner, in.data(), y.data(), at.data());
    saved.shape = x.shape();
    if (need[0]) saved.at = at;
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) const {
    const detail::Reduction plan(name, saved.shape, over);
    const Layout layout(plan, saved.shape);
    Tensor<T, B> dx(layout.shape);
    max_backward(B{}, layout.outer, plan.count, layout.inner, dy.data(), saved.at.data(), dx.data());
    return {layout.moved ? detail::permuted(dx, detail::inverse(layout.order, dx.rank())) : dx};
  }

  Over over;

 private:
  /// The reduced axes side by side: as they are, or moved to the back.
  struct Layout {
    Layout(const detail::Reduction& plan, const Shape& x) {
      int first = 0, last = x.rank() - 1;
      while (first < last && !plan.at(first)) ++first;
      while (last > first && !plan.at(last)) --last;
      for (int i = first; i <= last; ++i) moved = moved || !plan.at(i);
      int to = 0;
      for (bool reduced : {false, true})
        for (int i = 0; i < x.rank(); ++i)
          if (plan.at(i) == reduced) order[static_cast<std::size_t>(to++)] = i;
      for (int i = 0; i < x.rank(); ++i) {
        shape.push(moved ? x[order[static_cast<std::size_t>(i)]] : x[i]);
        if (!plan.at(i)) (moved || i < first ? outer : inner) *= x[i];
      }
    }
    AxisOrder order{};
    Shape shape;
    Index outer = 1, inner = 1;
    bool moved = false;
  };
};

/// Σ over all axes: `sum(x)`; over some: `sum(x, {.axes = {0, -1}, .keep = true})`.
template <Operand X>
VarOf<X> sum(const X& x, Over over = {}, Where where = Where::current()) {
  return apply(where, Sum<false>{std::move(over)}, x);
}
/// The mean; of no elements it is an error.
template <Operand X>
VarOf<X> mean(const X& x, Over over = {}, Where where = Where::current()) {
  return apply(where, Sum<true>{std::move(over)}, x);
}
/// The maximum; of no elements it is an error; a NaN wins.
template <Operand X>
VarOf<X> max(const X& x, Over over = {}, Where where = Where::current()) {
  return apply(where, Max{std::move(over)}, x);
}

}  // namespace meft
