// Owns: an activation, of a gate or not, times a trained factor for each feature, as one op.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/compose.hpp>
#include <meft/tensor/math.hpp>

namespace meft {

/// y = l ⊙ h,  h = f(g), or f(g) ⊙ u where there is a u,  dl = Σ dy ⊙ h,  dh = dy ⊙ l,  dg and du those of h. Keeps g
/// and u: h, which l's gradient needs, is made again.
struct ScaledActivation {
  static constexpr const char* name = "scaled_activation";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> g, l, u;
  };

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<3> need, const Tensor<T, B>& g, const Tensor<T, B>& l,
                       const Tensor<T, B>& u) const {
    require(g.rank() >= 1 && l.rank() == 1 && l.size() == g.dim(-1), "scaled_activation: a factor for each feature", g,
            l);
    require(!u.defined() || u.shape() == g.shape(), "scaled_activation: the shapes of gate and gated differ", g, u);
    if (need.any()) saved = {g, l, u};
    return scaled(visit(f, [&](auto act) { return u.defined() ? map(Gate<decltype(act)>{}, g, u) : map(act, g); }), l);
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 3> backward(const auto& saved, Needs<3> need, Tensor<T, B> dy) const {
    const Tensor<T, B>&g = saved.g, &u = saved.u;
    std::array<Tensor<T, B>, 3> out;
    visit(f, [&](auto act) {
      using Act = decltype(act);
      if (need[1]) {
        auto d = map(Gate<Act>{}, g, dy);
        if (u.defined()) map(B{}, Mul{}, d.size(), d.data(), std::as_const(d).data(), u.data());
        out[1] = sum_axis(d.reshape({d.shape().outer(-1), d.dim(-1)}), 0);
      }
      if (!need[0] && !need[2]) return;
      const auto dh = scaled(std::exchange(dy, {}), saved.l);
      if (need[2]) out[2] = map(Gate<Act>{}, g, dh);
      if (!need[0]) return;
      out[0] = overwrite(dh);
      if (u.defined()) map(B{}, GateSlope<Act>{}, g.size(), out[0].data(), dh.data(), g.data(), u.data());
      else map(B{}, SlopeAt<Act>{}, g.size(), out[0].data(), dh.data(), g.data());
    });
    return out;
  }

  Activation f;
};

/// factors ⊙ f(g). g [.., n], factors [n] → [.., n].
template <Operand G, Operand L>
VarOf<G> scaled_activation(const G& g, const L& factors, Activation f, Where where = Where::current()) {
  return apply(where, ScaledActivation{f}, g, factors, VarOf<G>());
}
/// factors ⊙ f(g) ⊙ u. u of g's shape.
template <Operand G, Operand L, Operand U>
VarOf<G> scaled_gated(const G& g, const L& factors, const U& u, Activation f, Where where = Where::current()) {
  return apply(where, ScaledActivation{f}, g, factors, u);
}

}  // namespace meft
