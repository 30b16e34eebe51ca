// Owns: the gate of a feed-forward block: one projection's activation times another projection.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/compose.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// y = f(g) ⊙ u,  dg = dy ⊙ u ⊙ f'(g),  du = dy ⊙ f(g). Shazeer, "GLU variants improve transformer", arXiv 2002.05202.
/// Keeps g and u.
struct GatedActivation {
  static constexpr const char* name = "gated";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> g, u;
  };

  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<2> need, const Tensor<T, B>& g, const Tensor<T, B>& u) const {
    require(g.shape() == u.shape(), "gated: the shapes of gate and gated differ", g, u);
    Tensor<T, B> y(g.shape());
    visit(f, [&](auto act) { map(B{}, Gate<decltype(act)>{}, g.size(), y.data(), g.data(), u.data()); });
    if (need.any()) saved.g = g;
    if (need[0]) saved.u = u;
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 2> backward(const auto& saved, Needs<2> need, Tensor<T, B> dy) const {
    Tensor<T, B> dg, du;
    visit(f, [&](auto act) {
      const T *g = saved.g.data(), *d = std::as_const(dy).data();
      if (need[1]) {
        du = Tensor<T, B>(dy.shape());
        map(B{}, Gate<decltype(act)>{}, dy.size(), du.data(), g, d);
      }
      if (need[0]) {
        dg = overwrite(dy);
        map(B{}, GateSlope<decltype(act)>{}, dy.size(), dg.data(), d, g, saved.u.data());
      }
    });
    return {dg, du};
  }

  Activation f;
};

/// f(g) ⊙ u; g and u [..] of one shape.
template <Operand G, Operand U>
VarOf<G> gated(const G& g, const U& u, Activation f, Where where = Where::current()) {
  return apply(where, GatedActivation{f}, g, u);
}

}  // namespace meft
