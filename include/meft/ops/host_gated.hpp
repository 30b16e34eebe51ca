// Owns: a gated feed-forward block of a host, frozen and in bf16, as one op: the products make and read what is between
// them, rounded.
#pragma once

#include <meft/ops/host_feed_forward.hpp>

namespace meft {

/// g = x·gateᵀ,  u = x·upᵀ,  h = f(g) ⊙ u,  y = h·downᵀ + c,  dh = dy·down,  dg = dh ⊙ u ⊙ f'(g),  du = dh ⊙ f(g),  dc
/// = Σ dy, of weights that fuse. h, dg and du are rounded as they are made. Keeps g and u. x comes twice: dg·gate and
/// du·up are added to its gradient one after the other, as two maps do it. The bits of the maps and `gated` one by one.
template <Real T, Backend B>
struct HostGated {
  static constexpr const char* name = "gated";
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  struct Saved {
    Tensor<T, B> g, u;
  };
  PackedWeight<T, B> gate, up, down;
  Activation f;

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& /*x*/,
                       const Tensor<T, B>& bias) const {
    require(x.rank() >= 1 && x.dim(-1) == up.shape()[1] && gate.shape() == up.shape() &&
                up.shape()[0] == down.shape()[1] && (!bias.defined() || bias.size() == down.shape()[0]),
            "gated: the weights do not fit x", x, gate, up, down);
    const Index rows = x.size() / x.dim(-1);
    const Shape inner = x.shape().with(-1, up.shape()[0]);
    const bool keeps = need[0] || need[1];
    Tensor<T, B> g(inner), u;
    auto h = detail::handed_on<B>(inner);
    gate.forward(rows, x.data(), nothing, g.data());
    if (keeps) u = Tensor<T, B>(inner);
    visit(f, [&](auto act) {
      const auto gated = ended(Swapped<Gate<decltype(act)>>{}, nothing, h.data(), std::as_const(g).data());
      if (keeps) up.forward_ended(rows, x.data(), nothing, ended(Identity{}, u.data(), nullptr), gated);
      else up.forward_ended(rows, x.data(), nothing, gated);
    });
    if (keeps) saved = {g, u};
    g = {};
    Tensor<T, B> y(x.shape().with(-1, down.shape()[0]));
    down.forward(rows, std::as_const(h).data(), bias.data(), y.data());
    return y;
  }
  std::array<Tensor<T, B>, 3> backward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) const {
    std::array<Tensor<T, B>, 3> out;
    if (need[2]) out[2] = sum_axis(dy.reshape({-1, dy.dim(-1)}), 0);
    if (!need[0] && !need[1]) return out;
    const Index rows = dy.size() / dy.dim(-1);
    auto dg = detail::handed_on<B>(saved.g.shape()), du = detail::handed_on<B>(saved.g.shape());
    visit(f, [&](auto act) {
      const T *g = std::as_const(saved.g).data(), *u = std::as_const(saved.u).data();
      down.backward_ended(rows, dy.data(), ended(Swapped<Gate<decltype(act)>>{}, nothing, du.data(), g),
                          ended(GateSlope<decltype(act)>{}, nothing, dg.data(), g, u));
    });
    saved = {};
    const auto through = [&](const PackedWeight<T, B>& w, Tensor<bf16, B>& d) {
      Tensor<T, B> dx(dy.shape().with(-1, up.shape()[1]));
      w.backward(rows, std::as_const(d).data(), dx.data());
      d = {};
      return dx;
    };
    if (need[0]) out[0] = through(gate, dg);
    if (need[1]) out[1] = through(up, du);
    return out;
  }

 private:
  static constexpr T* nothing = nullptr;
};

/// (f(x·gateᵀ) ⊙ x·upᵀ)·downᵀ + bias. x [.., n], gate and up [m, n], down [k, m], bias [k] or empty.
template <Operand X, Real T, Backend B, Operand C>
VarOf<X> host_gated(const X& x, const PackedWeight<T, B>& gate, const PackedWeight<T, B>& up,
                    const PackedWeight<T, B>& down, const C& bias, Activation f, Where where = Where::current()) {
  return apply(where, HostGated<T, B>{gate, up, down, f}, x, x, bias);
}

}  // namespace meft
