// Owns: two frozen affine maps with an activation between them, as one op, for devices: what is between them is made
// and read by the products.
#pragma once

#include <meft/base/compose.hpp>
#include <meft/ops/linear.hpp>

namespace meft {

/// z = x·upᵀ + b,  h = f(z),  y = h·downᵀ + c,  dh = dy·down,  dz = dh ⊙ f',  dx = dz·up,  db = Σ dz,  dc = Σ dy. h and
/// dz are rounded once. Keeps z, or h where that is what f' reads.
template <Real T, Backend B>
requires Tensor<T, B>::rounds struct FeedForward {
  static constexpr const char* name = "feed_forward";
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  struct Saved {
    Tensor<T, B> kept;
  };
  PackedWeight<T, B> up, down;
  Activation f;

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& up_bias,
                       const Tensor<T, B>& down_bias) const {
    require(x.rank() >= 1 && x.dim(-1) == up.shape()[1] && up.shape()[0] == down.shape()[1],
            "feed_forward: the weights do not fit x", x, up, down);
    const Shape inner = x.shape().with(-1, up.shape()[0]);
    auto h = Tensor<T, B>::handed(inner, Hand::rounded);
    Tensor<T, B> z = reads_argument(f) ? Tensor<T, B>(inner) : h;
    if (!up.activated(f, x, up_bias, reads_argument(f) ? z.data() : nullptr, h)) {
      if (!reads_argument(f)) z = Tensor<T, B>(inner);
      up.forward(x, up_bias, z);
      visit(f, [&](auto g) { map(B{}, g, z.size(), h.fill_rounded(Hand::rounded), std::as_const(z).data()); });
    }
    if (need.any()) saved.kept = z;
    z = {};
    Tensor<T, B> y(x.shape().with(-1, down.shape()[0]));
    down.forward(h, down_bias, y);
    return y;
  }

  /// `into`: what dx is added to, in its place; empty: nothing.
  std::array<Tensor<T, B>, 3> backward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy,
                                       const Tensor<T, B>& into = {}) const {
    std::array<Tensor<T, B>, 3> out;
    if (need[2]) out[2] = sum_axis(dy.reshape({-1, dy.dim(-1)}), 0);
    if (!need[0] && !need[1]) return out;
    Tensor<T, B>& kept = saved.kept;
    auto dz = Tensor<T, B>::handed(kept.shape(), need[1] ? Hand::in_full : Hand::rounded);
    const bool alone = !need[1] && reads_argument(f) != kept.narrow();
    if (!alone || !(reads_argument(f) ? down.slope(f, dy, std::as_const(kept).data(), dz)
                                      : down.slope(f, dy, kept.rounded(), dz))) {
      Tensor<T, B> dh(kept.shape());
      down.backward(dy, dh);
      visit(f, [&](auto g) {
        const SlopeAt<decltype(g)> slope{};
        const T *d = std::as_const(dh).data(), *z = std::as_const(kept).data();
        if (need[1]) map(B{}, slope, dh.size(), dz.data(), d, z);
        else map(B{}, slope, dh.size(), dz.fill_rounded(Hand::rounded), d, z);
      });
    }
    kept = {};
    if (need[1]) out[1] = sum_axis(dz.reshape({-1, dz.dim(-1)}), 0);
    if (!need[0]) return out;
    const bool adds = into.defined();
    out[0] = adds ? into : Tensor<T, B>(dy.shape().with(-1, up.shape()[1]));
    up.backward(dz, out[0], adds);
    return out;
  }
};

/// f(x·upᵀ + up_bias)·downᵀ + down_bias. x [.., n], up [m, n], down [k, m], both packed in bf16; biases [m], [k].
template <Operand X, Real T, Backend B, Operand U, Operand V>
requires Tensor<T, B>::rounds VarOf<X> feed_forward(const X& x, const PackedWeight<T, B>& up, const U& up_bias,
                                                    const PackedWeight<T, B>& down, const V& down_bias, Activation f,
                                                    Where where = Where::current()) {
  return apply(where, FeedForward<T, B>{up, down, f}, x, up_bias, down_bias);
}

}  // namespace meft
