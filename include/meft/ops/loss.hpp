// Owns: the losses: cross entropy of logits and labels, mean squared error.
#pragma once

#include <string>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/loss.hpp>
#include <meft/base/compose.hpp>

namespace meft {

/// y = mean over the counted rows of ln Σ exp(x) − x[label],  dx = (softmax(x) − [label])·dy/counted, 0 where ignored.
/// Keeps the logits, and the largest of each row and the sum of its exponentials.
template <Backend B>
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";
  template <Scalar T, Backend>
  struct Saved {
    Tensor<T, B> x, sums;
  };
  template <Real T>
  Tensor<T, B> forward(auto& saved, Needs<1> need, const Tensor<T, B>& x) const {
    require(x.rank() == 2 && labels.rank() == 1, "cross_entropy: expected logits [n, c] and labels [n]", x, labels);
    require(x.dim(0) == labels.dim(0), "cross_entropy: numbers of rows differ", x, labels);
    const LabelCheck check = check_labels(B{}, labels.size(), labels.data(), x.dim(1), ignore);
    if (const Index bad = check.outside; bad >= 0) {
      const std::string label = std::to_string(labels.rows(bad, bad + 1).item());
      fail("cross_entropy: a label outside the classes", x, "position " + std::to_string(bad), "label " + label);
    }
    require(check.counted > 0, "cross_entropy: no row counts", x, "ignored label " + std::to_string(ignore));
    const Index n = x.dim(0);
    Tensor<T, B> rows(Shape{n}), sums({2, n}), total{Shape{}};
    cross_entropy(B{}, n, x.dim(1), x.data(), labels.data(), ignore, rows.data(), sums.data());
    sum(B{}, 1, n, 1, std::as_const(rows).data(), total.data());
    if (need[0]) {
      saved.x = x;
      saved.sums = sums;
    }
    return map(Div{}, total, counted<T>());
  }
  template <Real T>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) const {
    const auto& x = saved.x;
    Tensor<T, B> dx(x.shape());
    const auto each = map(Div{}, dy, counted<T>());
    cross_entropy_backward(B{}, x.dim(0), x.dim(1), x.data(), labels.data(), ignore, saved.sums.data(), each.data(),
                           dx.data());
    return {dx};
  }
  /// How many rows count: known where the labels are.
  template <Real T>
  Tensor<T, B> counted() const {
    Tensor<T, B> out{Shape{}};
    count_labels(B{}, labels.size(), labels.data(), ignore, out.data());
    return out;
  }
  Tensor<std::int32_t, B> labels;
  std::int32_t ignore;
};

/// y = mean (x − target)²,  dx = 2(x − target)·dy/n,  dtarget = −dx.
struct MeanSquaredError {
  static constexpr const char* name = "mse";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, target;
  };
  template <Real T, Backend B>
  static Tensor<T, B> forward(auto& saved, Needs<2> need, const Tensor<T, B>& x, const Tensor<T, B>& target) {
    require(x.shape() == target.shape(), "mse: shapes differ", x, target);
    require(x.size() > 0, "mse: of no elements", x);
    if (need.any()) {
      saved.x = x;
      saved.target = target;
    }
    const auto squares = map(SquaredDifference{}, x, target);
    Tensor<T, B> total{Shape{}};
    sum(B{}, 1, x.size(), 1, squares.data(), total.data());
    return map(WithRight<Div, T>{{}, static_cast<T>(x.size())}, total);
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 2> backward(const auto& saved, Needs<2> need, const Tensor<T, B>& dy) {
    const auto slope = [&](const Tensor<T, B>& a, const Tensor<T, B>& b) {
      Tensor<T, B> d(a.shape());
      scaled_difference(B{}, a.size(), a.data(), b.data(), dy.data(), T(2) / static_cast<T>(a.size()), d.data());
      return d;
    };
    return grads(
        need, [&] { return slope(saved.x, saved.target); }, [&] { return slope(saved.target, saved.x); });
  }
};

/// Mean cross entropy of logits [n, c] and labels [n] in [0, c), over the rows whose label is not `ignore`. A label
/// outside the classes is an error that names its position; so are labels of which none counts.
template <Operand X, Backend B>
VarOf<X> cross_entropy(const X& logits, const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label,
                       Where where = Where::current()) {
  return apply(where, CrossEntropy<B>{labels, ignore}, logits);
}

/// Mean of (x − target)², over equal shapes.
template <Operand X, Operand Y>
VarOf<X> mse(const X& x, const Y& target, Where where = Where::current()) {
  return apply(where, MeanSquaredError{}, x, target);
}

}  // namespace meft
