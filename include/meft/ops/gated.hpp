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
    auto y = Tensor<T, B>::handed(g.shape(), hand);
    visit(f, [&](auto act) { put(hand, Gate<decltype(act)>{}, y, g.data(), u.data()); });
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
        du = Tensor<T, B>::handed(dy.shape(), gradients);
        put(gradients, Gate<decltype(act)>{}, du, g, d);
      }
      if (need[0]) {
        dg = gradients == Hand::rounded && Tensor<T, B>::rounds ? Tensor<T, B>::handed(dy.shape(), gradients)
                                                                : overwrite(dy);
        put(gradients, GateSlope<decltype(act)>{}, dg, d, g, saved.u.data());
      }
    });
    return {dg, du};
  }

  Activation f;
  Hand hand = Hand::in_full, gradients = Hand::in_full;  // the latter of g and u

 private:
  /// to = f(in…), as it is handed on.
  template <class F, Real T, Backend B>
  static void put([[maybe_unused]] Hand as, const F& f, Tensor<T, B>& to, const auto*... in) {
    if constexpr (Tensor<T, B>::rounds)
      if (as == Hand::rounded) return map(B{}, f, to.size(), to.fill_rounded(as), in...);
    map(B{}, f, to.size(), to.data(), in...);
  }
};

/// f(g) ⊙ u; g and u [..] of one shape. It and the gradients of both are handed on as said, in full or rounded alone.
template <Operand G, Operand U>
VarOf<G> gated(const G& g, const U& u, Activation f, Hand hand = Hand::in_full, Hand gradients = Hand::in_full,
               Where where = Where::current()) {
  return apply(where, GatedActivation{f, hand, gradients}, g, u);
}

}  // namespace meft
