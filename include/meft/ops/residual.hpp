// Owns: what a transformer's blocks are joined by: a residual's sum with dropout, and its layer norm, in one pass.
#pragma once

#include <meft/backend/kernels/dropout.hpp>
#include <meft/backend/kernels/norm.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/norm.hpp>

namespace meft {

/// y = x + m ⊙ t, or x + (a + m ⊙ t) where a is not empty,  dx = da = dy,  dt = m ⊙ dy, with the mask m of Dropout.
/// Keeps nothing.
struct Residual {
  static constexpr const char* name = "residual";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {};

  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<3>, const Tensor<T, B>& x, const Tensor<T, B>& t, const Tensor<T, B>& a) const {
    require(x.shape() == t.shape() && (!a.defined() || x.shape() == a.shape()), "residual: the shapes differ", x, t);
    Tensor<T, B> y(x.shape());
    add_dropped(B{}, x.size(), x.data(), t.data(), y.data(), drop.p, drop.key, drop.first, a.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 3> backward(const auto& saved, Needs<3> need, Tensor<T, B> dy) const {
    Tensor<T, B> dx, dt, da;
    if (need[0]) dx = dy;
    if (need[2]) da = dy;
    if (need[1] && drop.p == 0) dt = dy;
    else if (need[1]) dt = std::get<0>(drop.template backward<T, B>(saved, {true}, std::move(dy)));
    return {dx, dt, da};
  }

  Dropout drop;
};

/// y = LN(s),  s = x + m ⊙ t or x + (a + m ⊙ t): LayerNorm of a Residual, in one pass. Keeps s and its rows' mean and
/// rstd.
struct ResidualNorm {
  static constexpr const char* name = "residual_norm";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  using Saved = LayerNorm::Saved<T, B>;

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<5> need, const Tensor<T, B>& x, const Tensor<T, B>& t,
                       const Tensor<T, B>& gamma, const Tensor<T, B>& beta, const Tensor<T, B>& a) const {
    require(x.shape() == t.shape() && (!a.defined() || x.shape() == a.shape()),
            "residual_norm: the shapes of the sum's sides differ", x, t);
    norm.check(x, gamma, beta);
    const Index rows = x.shape().outer(-1);
    Tensor<T, B> y(x.shape()), mean(Shape{rows}), rstd(Shape{rows});
    const bool kept = need[0] || need[1] || need[2] || need[4];
    Tensor<T, B> s = kept ? Tensor<T, B>(x.shape()) : y;
    const auto& drop = residual.drop;
    T *const sum = s.data(), *const normed = y.data();
    const auto run = [&](auto... rounded) {
      residual_norm(B{}, rows, x.dim(-1), x.data(), t.data(), a.data(), drop.p, drop.key, drop.first, gamma.data(),
                    beta.data(), static_cast<T>(norm.epsilon), sum, normed, mean.data(), rstd.data(), rounded...);
    };
    if constexpr (Tensor<T, B>::rounds) run(y.fill_rounded(norm.hand));
    else run();
    norm.keep(saved, of_norm(need), s, gamma, mean, rstd);
    return y;
  }
  /// `into`: what dx is added to, in its place; empty: nothing.
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 5> backward(const auto& saved, Needs<5> need, Tensor<T, B> dy,
                                       const Tensor<T, B>& into = {}) const {
    auto wanted = of_norm(need);
    [[maybe_unused]] const auto& drop = residual.drop;
    [[maybe_unused]] const bool round = wanted[0] && need[1] && drop.p != 0 && drop.gradient == Hand::rounded;
    if constexpr (Tensor<T, B>::rounds)
      if (round) {
        wanted.wanted[0] = false;
        const auto weights = norm.template backward<T, B>(saved, wanted, dy);
        const bool adds = into.defined() && !need[4];
        auto dt = Tensor<T, B>::handed(dy.shape(), drop.gradient), ds = adds ? into : overwrite(dy);
        residual_norm_backward(B{}, dy.shape().outer(-1), saved.width, saved.x.data(), saved.gamma.data(),
                               saved.mean.data(), saved.rstd.data(), std::as_const(dy).data(), drop.p, drop.key,
                               drop.first, adds ? into.data() : nullptr, ds.data(), dt.fill_rounded(drop.gradient));
        return {need[0] ? added(adds ? Tensor<T, B>() : into, ds) : Tensor<T, B>(), dt, weights[1], weights[2],
                need[4] ? ds : Tensor<T, B>()};
      }
    auto [ds, dgamma, dbeta] = norm.template backward<T, B>(saved, wanted, std::move(dy));
    std::array<Tensor<T, B>, 3> sides;
    if (ds.defined()) sides = residual.template backward<T, B>(saved, {need[0], need[1], need[4]}, std::move(ds));
    return {need[0] ? added(into, sides[0]) : sides[0], sides[1], dgamma, dbeta, sides[2]};
  }

  Residual residual;
  LayerNorm norm;

 private:
  /// x, added to `into` in its place where that is not empty.
  template <Real T, Backend B>
  static Tensor<T, B> added(Tensor<T, B> into, const Tensor<T, B>& x) {
    if (!into.defined()) return x;
    map(B{}, Add{}, into.size(), into.data(), std::as_const(into).data(), x.data());
    return into;
  }
  static Needs<3> of_norm(Needs<5> need) { return {{need[0] || need[1] || need[4], need[2], need[3]}}; }
};

/// x + dropout(t, p, key, first_element), or with a not empty x + (a + dropout(t)); all [..] of one shape.
template <Operand X, Operand U>
VarOf<X> residual(const X& x, const U& t, double p = 0, Key key = {}, std::uint64_t first_element = 0,
                  Hand gradient = Hand::in_full, const VarOf<X>& a = {}, Where where = Where::current()) {
  require(p >= 0 && p < 1, {"residual: p is not in [0, 1)", where}, p);
  return apply(where, Residual{{p, key, first_element, gradient}}, x, t, a);
}

/// layer_norm of that sum; handed on in full, or rounded too.
template <Operand X, Operand U, Operand G, Operand H>
VarOf<X> residual_norm(const X& x, const U& t, const G& gamma, const H& beta, double epsilon = 1e-5, double p = 0,
                       Key key = {}, std::uint64_t first_element = 0, Hand gradient = Hand::in_full,
                       const VarOf<X>& a = {}, Hand hand = Hand::in_full, Where where = Where::current()) {
  require(p >= 0 && p < 1, {"residual_norm: p is not in [0, 1)", where}, p);
  return apply(where, ResidualNorm{{{p, key, first_element, gradient}}, {epsilon, hand}}, x, t, gamma, beta, a);
}

}  // namespace meft
