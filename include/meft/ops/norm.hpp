// Owns: layer normalisation, and that by the root of the mean square.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/norm.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

namespace detail {

/// layer_norm_backward to a new dx, to dy where nobody else sees that, or on a device added to `into` where that is not
/// empty.
template <Real T, Backend B>
Tensor<T, B> norm_backward(const auto& saved, const T* mean, const Tensor<T, B>& dy, const Tensor<T, B>& into) {
  const Index n = saved.width, rows = dy.shape().outer(-1);
  Tensor<T, B> dx = into.defined() ? into : overwrite(dy);
  const auto run = [&](auto... from) {
    layer_norm_backward(B{}, rows, n, saved.x.data(), saved.gamma.data(), mean, saved.rstd.data(),
                        std::as_const(dy).data(), dx.data(), from...);
  };
  if constexpr (B::on_host) run();
  else run(into.data());
  return dx;
}

/// The norm of x, as it is to be handed on; no mean: by the root of the mean square.
template <Real T, Backend B>
Tensor<T, B> normed(Hand hand, const Tensor<T, B>& x, const Tensor<T, B>& gamma, const Tensor<T, B>& beta,
                    double epsilon, T* mean, T* rstd) {
  auto y = Tensor<T, B>::handed(x.shape(), hand);
  T* const full = y.fill_full();
  const auto run = [&](auto... rounded) {
    layer_norm(B{}, x.shape().outer(-1), x.dim(-1), x.data(), gamma.data(), beta.data(), static_cast<T>(epsilon), full,
               mean, rstd, rounded...);
  };
  if constexpr (Tensor<T, B>::rounds) run(y.fill_rounded(hand));
  else run();
  return y;
}

}  // namespace detail

/// y = x̂·gamma + beta, or without beta,  x̂ = (x − mean)·rstd,  rstd = 1/√(variance + epsilon), over the last axis.
/// dx = rstd·(g − mean(g) − x̂·mean(g·x̂)),  g = dy·gamma;  dgamma = Σ dy·x̂;  dbeta = Σ dy.
struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, mean, rstd, gamma;
    Index width = 0;
  };

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& gamma,
                       const Tensor<T, B>& beta) const {
    check(x, gamma, beta);
    const Index rows = x.shape().outer(-1);
    Tensor<T, B> mean(Shape{rows}), rstd(Shape{rows});
    auto y = detail::normed(hand, x, gamma, beta, epsilon, mean.data(), rstd.data());
    keep(saved, need, x, gamma, mean, rstd);
    return y;
  }

  /// `into`: what dx is added to, in its place; empty: nothing.
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 3> backward(const auto& saved, Needs<3> need, Tensor<T, B> dy,
                                              const Tensor<T, B>& into = {}) {
    const Index n = saved.width, rows = dy.shape().outer(-1);
    const T *x = saved.x.data(), *mean = saved.mean.data(), *rstd = saved.rstd.data(), *d = std::as_const(dy).data();
    Tensor<T, B> dx, dgamma, dbeta;
    if (need[1]) dgamma = Tensor<T, B>(Shape{n});
    if (need[2]) dbeta = Tensor<T, B>(Shape{n});
    if (need[1]) layer_norm_weights(B{}, rows, n, x, mean, rstd, d, dgamma.data(), need[2] ? dbeta.data() : nullptr);
    else if (need[2]) sum(B{}, 1, rows, n, d, dbeta.data());
    if (need[0]) dx = detail::norm_backward(saved, mean, dy, into);
    return {dx, dgamma, dbeta};
  }

  template <Real T, Backend B>
  static void check(const Tensor<T, B>& x, const Tensor<T, B>& gamma, const Tensor<T, B>& beta) {
    require(x.rank() >= 1 && x.dim(-1) > 0, "layer_norm: nothing to normalise", x);
    require(gamma.rank() == 1 && gamma.dim(0) == x.dim(-1), "layer_norm: gamma differs from the last axis", x, gamma);
    require(!beta.defined() || beta.shape() == gamma.shape(), "layer_norm: gamma and beta differ", gamma, beta);
  }
  template <Real T, Backend B>
  static void keep(auto& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& gamma,
                   const Tensor<T, B>& mean, const Tensor<T, B>& rstd) {
    saved.width = x.dim(-1);
    if (need[0]) saved.gamma = gamma;
    if (!need[0] && !need[1]) return;
    saved.x = x;
    saved.mean = mean;
    saved.rstd = rstd;
  }

  double epsilon;
  Hand hand = Hand::in_full;
};

/// y = x̂·gamma,  x̂ = x·rstd,  rstd = 1/√(mean(x²) + epsilon), over the last axis. Zhang and Sennrich, arXiv 1910.07467.
/// dx = rstd·(g − x̂·mean(g·x̂)),  g = dy·gamma;  dgamma = Σ dy·x̂.
struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, rstd, gamma;
    Index width = 0;
  };

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<2> need, const Tensor<T, B>& x, const Tensor<T, B>& gamma) const {
    require(x.rank() >= 1 && x.dim(-1) > 0, "rms_norm: nothing to normalise", x);
    require(gamma.rank() == 1 && gamma.dim(0) == x.dim(-1), "rms_norm: gamma differs from the last axis", x, gamma);
    const Index rows = x.shape().outer(-1);
    Tensor<T, B> rstd(Shape{rows});
    auto y = detail::normed(hand, x, gamma, Tensor<T, B>(), epsilon, static_cast<T*>(nullptr), rstd.data());
    saved.width = x.dim(-1);
    if (need[0]) saved.gamma = gamma;
    if (need.any()) saved.x = x, saved.rstd = rstd;
    return y;
  }

  /// `into`: what dx is added to, in its place; empty: nothing.
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 2> backward(const auto& saved, Needs<2> need, Tensor<T, B> dy,
                                              const Tensor<T, B>& into = {}) {
    const Index n = saved.width, rows = dy.shape().outer(-1);
    const T *x = saved.x.data(), *no_mean = nullptr, *rstd = saved.rstd.data(), *d = std::as_const(dy).data();
    Tensor<T, B> dx, dgamma;
    if (need[1]) {
      dgamma = Tensor<T, B>(Shape{n});
      layer_norm_weights(B{}, rows, n, x, no_mean, rstd, d, dgamma.data(), static_cast<T*>(nullptr));
    }
    if (need[0]) dx = detail::norm_backward(saved, no_mean, dy, into);
    return {dx, dgamma};
  }

  double epsilon;
  Hand hand = Hand::in_full;
};

/// x [.., n] normalised over its last axis; gamma [n], beta [n] or empty.
template <Operand X, Operand G, Operand H>
VarOf<X> layer_norm(const X& x, const G& gamma, const H& beta, double epsilon = 1e-5, Hand hand = Hand::in_full,
                    Where where = Where::current()) {
  return apply(where, LayerNorm{epsilon, hand}, x, gamma, beta);
}
/// x [.., n] over the root of the mean of its last axis' squares; gamma [n].
template <Operand X, Operand G>
VarOf<X> rms_norm(const X& x, const G& gamma, double epsilon = 1e-6, Hand hand = Hand::in_full,
                  Where where = Where::current()) {
  return apply(where, RmsNorm{epsilon, hand}, x, gamma);
}

}  // namespace meft
