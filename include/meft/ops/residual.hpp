// Owns: what a transformer's blocks are joined by: a residual's sum with dropout, and its layer norm, in one pass.
#pragma once

#include <meft/backend/kernels/dropout.hpp>
#include <meft/backend/kernels/norm.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/norm.hpp>

namespace meft {

/// y = x + m ⊙ t,  dx = dy,  dt = m ⊙ dy, with the mask m of Dropout. Keeps nothing.
struct Residual {
  static constexpr const char* name = "residual";
  template <Scalar T, Backend B>
  struct Saved {};

  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<2>, const Tensor<T, B>& x, const Tensor<T, B>& t) const {
    require(x.shape() == t.shape(), "residual: the shapes differ", x, t);
    Tensor<T, B> y(x.shape());
    add_dropped(B{}, x.size(), x.data(), t.data(), y.data(), drop.p, drop.key, drop.first);
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 2> backward(const auto& saved, Needs<2> need, Tensor<T, B> dy) const {
    Tensor<T, B> dx, dt;
    if (need[0]) dx = dy;
    if (need[1] && drop.p == 0) dt = dy;
    else if (need[1]) dt = std::get<0>(drop.template backward<T, B>(saved, {true}, std::move(dy)));
    return {dx, dt};
  }

  Dropout drop;
};

/// y = LN(s),  s = x + m ⊙ t: LayerNorm of a Residual, in one pass. Keeps s and its rows' mean and rstd.
struct ResidualNorm {
  static constexpr const char* name = "residual_norm";
  template <Scalar T, Backend B>
  using Saved = LayerNorm::Saved<T, B>;

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<4> need, const Tensor<T, B>& x, const Tensor<T, B>& t,
                       const Tensor<T, B>& gamma, const Tensor<T, B>& beta) const {
    require(x.shape() == t.shape(), "residual_norm: the shapes of the sum's sides differ", x, t);
    norm.check(x, gamma, beta);
    const Index rows = x.shape().outer(-1);
    Tensor<T, B> s(x.shape()), y(x.shape()), mean(Shape{rows}), rstd(Shape{rows});
    const auto& drop = residual.drop;
    residual_norm(B{}, rows, x.dim(-1), x.data(), t.data(), drop.p, drop.key, drop.first, gamma.data(), beta.data(),
                  static_cast<T>(norm.epsilon), s.data(), y.data(), mean.data(), rstd.data());
    norm.keep(saved, {need[0] || need[1], need[2], need[3]}, s, gamma, mean, rstd);
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 4> backward(const auto& saved, Needs<4> need, Tensor<T, B> dy) const {
    auto [ds, dgamma, dbeta] =
        norm.template backward<T, B>(saved, {need[0] || need[1], need[2], need[3]}, std::move(dy));
    std::array<Tensor<T, B>, 2> sides;
    if (ds.defined()) sides = residual.template backward<T, B>(saved, {need[0], need[1]}, std::move(ds));
    return {sides[0], sides[1], dgamma, dbeta};
  }

  Residual residual;
  LayerNorm norm;
};

/// x + dropout(t, p, key, first_element); x and t [..] of one shape.
template <Operand X, Operand U>
VarOf<X> residual(const X& x, const U& t, double p = 0, Key key = {}, std::uint64_t first_element = 0,
                  Where where = Where::current()) {
  require(p >= 0 && p < 1, {"residual: p is not in [0, 1)", where}, p);
  return apply(where, Residual{{p, key, first_element}}, x, t);
}

/// layer_norm(residual(x, t, p, key, first_element), gamma, beta, epsilon).
template <Operand X, Operand U, Operand G, Operand H>
VarOf<X> residual_norm(const X& x, const U& t, const G& gamma, const H& beta, double epsilon = 1e-5, double p = 0,
                       Key key = {}, std::uint64_t first_element = 0, Where where = Where::current()) {
  require(p >= 0 && p < 1, {"residual_norm: p is not in [0, 1)", where}, p);
  return apply(where, ResidualNorm{{{p, key, first_element}}, {epsilon}}, x, t, gamma, beta);
}

}  // namespace meft
