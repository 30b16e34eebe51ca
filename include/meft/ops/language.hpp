// Owns: the loss of a language model, from hidden states to words. The logits of a batch never exist whole: rows go in
// chunks, and the gradients are made while a chunk's logits are there.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <type_traits>
#include <utility>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/loss.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/base/compose.hpp>
#include <meft/ops/linear.hpp>
#include <meft/tensor/math.hpp>

namespace meft {

namespace detail {

/// The most rows whose logits over `words` are there at once: 16 MiB of floats.
template <Backend B>
Index logits_at_once(Index words, bool bias) {
  const Index most = std::clamp<Index>((Index{1} << 22) / words, 16, 1024);
  return B::on_host && !bias ? most / 12 * 12 : most;  // whole tiles; a bias adds up chunks
}

/// Calls f(numbers, labels, x rows, logits) for chunks of the rows whose label counts, ascending: of label_rows.
template <Real T, Backend B, class W, class F>
void for_label_chunks(const Tensor<T, B>& x, const W& w, const Tensor<T, B>& bias,
                      const Tensor<std::int32_t, B>& labels, std::int32_t ignore, Index counted, const F& f) {
  const Index words = w.shape()[0], width = w.shape()[1];
  const Index most = logits_at_once<B>(words, bias.defined()), all = label_rows<B>(labels.size(), counted);
  Tensor<std::int32_t, B> rows(Shape{all}), chosen(Shape{all});
  counted_rows(B{}, labels.size(), labels.data(), ignore, all, rows.data(), chosen.data());
  for (Index first = 0; first < all; first += most) {
    const Index last = std::min(all, first + most), n = last - first;
    const auto numbers = std::as_const(rows).rows(first, last), classes = std::as_const(chosen).rows(first, last);
    Tensor<T, B> part({n, width}), logits({n, words});
    gather_rows(B{}, n, width, x.data(), numbers.data(), part.data());
    Linear::multiply(logits, std::as_const(part), w, bias);
    f(numbers, classes, part, logits);
  }
}

template <Real T, Backend B, class W>
Index check_language(const char* op, const Tensor<T, B>& x, const W& w, const Tensor<T, B>& bias,
                     const Tensor<std::int32_t, B>& labels, std::int32_t ignore) {
  const std::string name = std::string(op) + ": ";
  const Shape& shape = w.shape();
  if (x.rank() != 2 || shape.rank() != 2 || x.dim(1) != shape[1])
    fail(name + "expected x [n, h] and w [words, h]", x, w);
  if (w.size() == 0) fail(name + "w has no elements", w);
  if (bias.defined() && !(bias.shape() == Shape{shape[0]})) fail(name + "the bias has not one element a word", bias, w);
  if (labels.rank() != 1 || labels.dim(0) != x.dim(0)) fail(name + "not one label a row", labels, x);
  const LabelCheck check = check_labels(B{}, labels.size(), labels.data(), shape[0], ignore);
  if (const Index bad = check.outside; bad >= 0)
    fail(name + "a label outside the words", w, "position " + std::to_string(bad),
         "label " + std::to_string(labels.rows(bad, bad + 1).item()));
  return check.counted;
}

template <Real T, Backend B>
void require_counted(Index counted, const Tensor<T, B>& x, std::int32_t ignore, Where where = {}) {
  require(counted > 0, {"linear_cross_entropy: no row counts", where}, x, "ignored label " + std::to_string(ignore));
}

/// Zeros, in the shape of each that is needed; w is a tensor or packed.
template <Real T, Backend B, class W>
std::array<Tensor<T, B>, 3> zero_gradients(Needs<3> need, const Tensor<T, B>& x, const W& w, const Tensor<T, B>& bias) {
  std::array<Tensor<T, B>, 3> out;
  if (need[0]) out[0] = Tensor<T, B>::zeros(x.shape());
  if (need[1]) out[1] = Tensor<T, B>::zeros(w.shape());
  if (need[2]) out[2] = Tensor<T, B>::zeros(bias.shape());
  return out;
}

}  // namespace detail

/// y = mean over the n counted rows of ln Σ exp(z) − z[label], z = x·wᵀ + b; with g = (softmax(z) − [label])·dy/n:
/// dx = g·w, dw = gᵀ·x, db = Σ g. Keeps the gradients for dy = 1.
template <Backend B>
struct LinearCrossEntropy {
  static constexpr const char* name = "linear_cross_entropy";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend>
  struct Saved {
    Tensor<T, B> dx, dw, db;
  };

  /// w is a tensor, or packed and without a gradient.
  template <Real T, class W>
  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const W& w,
                       const Tensor<T, B>& bias) const {
    const Index counted = detail::check_language(name, x, w, bias, labels, ignore), words = w.shape()[0],
                width = w.shape()[1];
    detail::require_counted(counted, x, ignore);
    auto zeros = detail::zero_gradients(need, x, w, bias);
    saved = {std::move(zeros[0]), std::move(zeros[1]), std::move(zeros[2])};
    Tensor<T, B> count{Shape{}};
    count_labels(B{}, labels.size(), labels.data(), ignore, count.data());
    const auto each = map(Div{}, Tensor<T, B>::full(Shape{}, T(1)), count);
    auto losses = Tensor<T, B>::zeros(Shape{x.dim(0)});
    Tensor<T, B> total{Shape{}};
    detail::for_label_chunks(
        x, w, bias, labels, ignore, counted, [&](const auto& numbers, const auto& classes, const auto& part, auto& z) {
          const Index n = numbers.size();
          Tensor<T, B> loss(Shape{n}), sums({2, n});
          cross_entropy(B{}, n, words, std::as_const(z).data(), classes.data(), ignore, loss.data(), sums.data());
          scatter_rows(B{}, n, 1, std::as_const(loss).data(), numbers.data(), losses.data());
          if (!need.any()) return;
          cross_entropy_backward(B{}, n, words, std::as_const(z).data(), classes.data(), ignore,
                                 std::as_const(sums).data(), each.data(), z.data());
          const T* g = z.data();
          if (need[0]) {
            Tensor<T, B> d({n, width});
            Linear::multiply_back(n, g, w, d.data());
            scatter_rows(B{}, n, width, std::as_const(d).data(), numbers.data(), saved.dx.data());
          }
          if (need[1])
            gemm(B{}, Product<T>{words, width, n, {g, 1, words}, saved.dw.data(), width, Start::accumulate},
                 Strided<T>{part.data(), width, 1});
          if (need[2]) {
            const auto d = sum_axis(z, 0);
            map(B{}, Add{}, words, saved.db.data(), std::as_const(saved.db).data(), d.data());
          }
        });
    sum(B{}, 1, x.dim(0), 1, std::as_const(losses).data(), total.data());
    return map(Div{}, total, count);
  }

  template <Real T>
  std::array<Tensor<T, B>, 3> backward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) const {
    const auto times = [&](Tensor<T, B>& d) {
      if constexpr (B::on_host)
        if (dy.item() == T(1)) return std::move(d);
      return scaled(std::move(d), dy);
    };
    return grads(
        need, [&] { return times(saved.dx); }, [&] { return times(saved.dw); }, [&] { return times(saved.db); });
  }
  /// The same, whatever w was.
  template <Real T>
  auto gradients(Saved<T, B>& saved, const auto& /*w*/, Needs<3> need, const Tensor<T, B>& dy) const {
    return backward(saved, need, dy);
  }

  Tensor<std::int32_t, B> labels;
  std::int32_t ignore;
};

/// Mean cross entropy of the words that x·wᵀ + b predicts. x [n, h], w [words, h], b [words] or empty, labels [n] in
/// [0, words) or `ignore`. A label outside is an error that names its position; so is a batch in which none counts.
template <Operand X, Operand W, Operand Bias, Backend B>
VarOf<X> linear_cross_entropy(const X& x, const W& w, const Bias& bias, const Tensor<std::int32_t, B>& labels,
                              std::int32_t ignore = ignored_label, Where where = Where::current()) {
  return apply(where, LinearCrossEntropy<B>{labels, ignore}, x, w, bias);
}

/// ln p(label) of each row under softmax(x·wᵀ + b), 0 where the label is `ignore`. x [n, h], w [words, h] a tensor, a
/// parameter or packed, b [words] or empty, labels [n] → [n]. No gradients. A label outside is an error that names its
/// position.
template <Real T, Backend B, class W>
Tensor<T, B> label_log_likelihood(const Tensor<T, B>& x, const W& w, const Tensor<T, B>& bias,
                                  const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label) {
  const Index counted = detail::check_language("label_log_likelihood", x, w, bias, labels, ignore);
  auto out = Tensor<T, B>::zeros(Shape{x.dim(0)});
  detail::for_label_chunks(
      x, w, bias, labels, ignore, counted, [&](const auto& numbers, const auto& classes, const auto&, const auto& z) {
        const Index n = numbers.size();
        Tensor<T, B> loss(Shape{n}), sums({2, n});
        cross_entropy(B{}, n, w.shape()[0], z.data(), classes.data(), ignore, loss.data(), sums.data());
        map(B{}, Neg{}, n, loss.data(), std::as_const(loss).data());
        scatter_rows(B{}, n, 1, std::as_const(loss).data(), numbers.data(), out.data());
      });
  return out;
}

/// y = ln p(label) of each row under softmax(z), z = x·wᵀ + b, 0 where the label is `ignore`; with g = dy·([label] −
/// softmax(z)):  dx = g·w, dw = gᵀ·x, db = Σ g. The logits are made anew for the gradients.
template <Backend B>
struct TokenLogLikelihood {
  static constexpr const char* name = "token_log_likelihood";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend>
  struct Saved {
    Tensor<T, B> x, w, bias;
  };

  /// w is a tensor, or packed and then not kept.
  template <Real T, class W>
  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const W& w,
                       const Tensor<T, B>& bias) const {
    if (need.any()) {
      saved = {x, {}, bias};
      if constexpr (std::is_same_v<W, Tensor<T, B>>) saved.w = w;
    }
    return label_log_likelihood(x, w, bias, labels, ignore);
  }

  template <Real T>
  auto backward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) const {
    return gradients(saved, saved.w, need, dy);
  }
  /// w is a tensor, or packed and without a gradient.
  template <Real T, class W>
  std::array<Tensor<T, B>, 3> gradients(const Saved<T, B>& saved, const W& w, Needs<3> need,
                                        const Tensor<T, B>& dy) const {
    const auto &x = saved.x, &bias = saved.bias;
    const Index counted = detail::check_language(name, x, w, bias, labels, ignore), words = w.shape()[0],
                width = w.shape()[1];
    auto out = detail::zero_gradients(need, x, w, bias);
    const auto minus = map(Neg{}, dy), one = Tensor<T, B>::full(Shape{}, T(1));
    const auto weighed = [](Tensor<T, B>& rows, const Tensor<T, B>& by) {
      map_broadcast(B{}, Mul{}, rows.shape(), rows.data(), rows.shape(), std::as_const(rows).data(),
                    Shape{by.size(), 1}, by.data());
    };
    detail::for_label_chunks(
        x, w, bias, labels, ignore, counted, [&](const auto& numbers, const auto& classes, auto& part, auto& z) {
          const Index n = numbers.size();
          Tensor<T, B> loss(Shape{n}), sums({2, n}), by(Shape{n});
          gather_rows(B{}, n, 1, minus.data(), numbers.data(), by.data());
          cross_entropy(B{}, n, words, std::as_const(z).data(), classes.data(), ignore, loss.data(), sums.data());
          cross_entropy_backward(B{}, n, words, std::as_const(z).data(), classes.data(), ignore,
                                 std::as_const(sums).data(), one.data(), z.data());
          const T* g = std::as_const(z).data();
          if (need[0]) {
            Tensor<T, B> d({n, width});
            Linear::multiply_back(n, g, w, d.data());
            weighed(d, by);
            scatter_rows(B{}, n, width, std::as_const(d).data(), numbers.data(), out[0].data());
          }
          if (need[1]) {
            weighed(part, by);
            gemm(B{}, Product<T>{words, width, n, {g, 1, words}, out[1].data(), width, Start::accumulate},
                 Strided<T>{std::as_const(part).data(), width, 1});
          }
          if (need[2]) {
            weighed(z, by);
            const auto d = sum_axis(z, 0);
            map(B{}, Add{}, words, out[2].data(), std::as_const(out[2]).data(), d.data());
          }
        });
    return out;
  }

  Tensor<std::int32_t, B> labels;
  std::int32_t ignore;
};

namespace detail {

/// An op of x, w and a bias with w packed and frozen.
template <class Op, Real T, Backend B>
struct WithPacked {
  static constexpr const char* name = Op::name;
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  using Saved = typename Op::template Saved<T, B>;
  Op op;
  PackedWeight<T, B> w;

  static Needs<3> of_three(Needs<2> need) { return {{need[0], false, need[1]}}; }
  Tensor<T, B> forward(auto& saved, Needs<2> need, const Tensor<T, B>& x, const Tensor<T, B>& bias) const {
    return op.forward(saved, of_three(need), x, w, bias);
  }
  std::array<Tensor<T, B>, 2> backward(auto& saved, Needs<2> need, const Tensor<T, B>& dy) const {
    auto out = op.gradients(saved, w, of_three(need), dy);
    return {std::move(out[0]), std::move(out[2])};
  }
};

}  // namespace detail

/// linear_cross_entropy with w packed and frozen.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear_cross_entropy(const X& x, const PackedWeight<T, B>& w, const Bias& bias,
                              const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label,
                              Where where = Where::current()) {
  return apply(where, detail::WithPacked<LinearCrossEntropy<B>, T, B>{{labels, ignore}, w}, x, bias);
}
/// token_log_likelihood with w packed and frozen.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> token_log_likelihood(const X& x, const PackedWeight<T, B>& w, const Bias& bias,
                              const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label,
                              Where where = Where::current()) {
  return apply(where, detail::WithPacked<TokenLogLikelihood<B>, T, B>{{labels, ignore}, w}, x, bias);
}

/// label_log_likelihood with gradients. x [n, h], w [words, h], b [words] or empty, labels [n] → [n].
template <Operand X, Operand W, Operand Bias, Backend B>
VarOf<X> token_log_likelihood(const X& x, const W& w, const Bias& bias, const Tensor<std::int32_t, B>& labels,
                              std::int32_t ignore = ignored_label, Where where = Where::current()) {
  return apply(where, TokenLogLikelihood<B>{labels, ignore}, x, w, bias);
}
/// The same over a parameter, which may be perturbed: then without gradients.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> token_log_likelihood(const X& x, const Parameter<T, B>& w, const Bias& bias,
                              const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label,
                              Where where = Where::current()) {
  if (!w.perturbed()) return apply(where, TokenLogLikelihood<B>{labels, ignore}, x, w, bias);
  return label_log_likelihood(as_var(x).value(), w, as_var(bias).value(), labels, ignore);
}

/// linear_cross_entropy over a parameter, which may be perturbed: then without gradients.
template <Operand X, Real T, Backend B, Operand Bias>
VarOf<X> linear_cross_entropy(const X& x, const Parameter<T, B>& w, const Bias& bias,
                              const Tensor<std::int32_t, B>& labels, std::int32_t ignore = ignored_label,
                              Where where = Where::current()) {
  if (!w.perturbed()) return apply(where, LinearCrossEntropy<B>{labels, ignore}, x, w, bias);
  const auto found = label_log_likelihood(as_var(x).value(), w, as_var(bias).value(), labels, ignore);
  const Index counted = check_labels(B{}, labels.size(), labels.data(), w.shape()[0], ignore).counted;
  detail::require_counted(counted, found, ignore, where);
  Tensor<T, B> total{Shape{}};
  sum(B{}, 1, found.size(), 1, found.data(), total.data());
  return map(WithRight<Div, T>{{}, static_cast<T>(-counted)}, total);
}

}  // namespace meft
