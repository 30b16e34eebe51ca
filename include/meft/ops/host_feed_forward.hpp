// Owns: two affine maps in bf16 with an activation between them, as one op of a host, frozen or trained: the products
// make and read what is between them, rounded.
#pragma once

#include <meft/base/compose.hpp>
#include <meft/ops/linear.hpp>

namespace meft {

namespace detail {

/// What goes from one product to the next, rounded, and is not kept.
template <Backend B>
Tensor<bf16, B> handed_on(const Shape& shape) {
  const UseScope use(Use::workspace);
  return Tensor<bf16, B>(shape);
}

/// z = x·upᵀ + b,  h = f(z),  y = h·downᵀ + c,  dz = (dy·down) ⊙ f'(z),  dx = dz·up, of panels that fuse. h and dz are
/// rounded as they are made. The bits of the maps and the activation one by one.
template <Real T, Backend B>
struct InnerProducts {
  PackedWeight<T, B> up, down;
  Activation f;

  /// y; what is kept of z and h is there already.
  Tensor<T, B> forward(const Tensor<T, B>& x, const Tensor<T, B>& up_bias, const Tensor<T, B>& down_bias,
                       Tensor<T, B>& z, Tensor<bf16, B>& h) const {
    require(up.shape()[0] == up_bias.size() && (!down_bias.defined() || down_bias.size() == down.shape()[0]),
            "feed_forward: the biases do not fit the weights", up, up_bias, down, down_bias);
    const Index rows = x.size() / x.dim(-1);
    visit(f, [&](auto act) {
      if (z.defined())
        up.forward_ended(rows, x.data(), up_bias.data(), ended(Identity{}, z.data(), nullptr),
                         ended(act, no_values, h.data()));
      else up.forward_ended(rows, x.data(), up_bias.data(), ended(act, no_values, h.data()));
    });
    Tensor<T, B> y(x.shape().with(-1, down.shape()[0]));
    down.forward(rows, std::as_const(h).data(), down_bias.data(), y.data());
    return y;
  }
  /// The shape of z.
  Shape inner(const Tensor<T, B>& x) const {
    require(x.rank() >= 1 && x.dim(-1) == up.shape()[1] && up.shape()[0] == down.shape()[1],
            "feed_forward: the weights do not fit x", x, up, down);
    return x.shape().with(-1, up.shape()[0]);
  }
  /// dz rounded, and in z's place in full where `full`; else z goes.
  Tensor<bf16, B> slope(const Tensor<T, B>& dy, Tensor<T, B>& z, bool full) const {
    auto dz = handed_on<B>(z.shape());
    const T* const at = std::as_const(z).data();
    visit(f, [&](auto act) {
      down.backward_ended(dy.size() / dy.dim(-1), dy.data(),
                          ended(SlopeAt<decltype(act)>{}, full ? z.data() : no_values, dz.data(), at));
    });
    if (!full) z = {};
    return dz;
  }
  Tensor<T, B> input_gradient(const Tensor<T, B>& dy, const Tensor<bf16, B>& dz) const {
    Tensor<T, B> dx(dy.shape().with(-1, up.shape()[1]));
    up.backward(dy.size() / dy.dim(-1), dz.data(), dx.data());
    return dx;
  }
  static constexpr T* no_values = nullptr;
  static Tensor<T, B> sum_rows(const Tensor<T, B>& x) { return sum_axis(x.reshape({-1, x.dim(-1)}), 0); }
};

}  // namespace detail

/// Both frozen: db = Σ dz,  dc = Σ dy. Keeps z.
template <Real T, Backend B>
struct HostFeedForward {
  static constexpr const char* name = "feed_forward";
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  struct Saved {
    Tensor<T, B> z;
  };
  detail::InnerProducts<T, B> products;

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& up_bias,
                       const Tensor<T, B>& down_bias) const {
    const Shape inner = products.inner(x);
    if (need[0] || need[1]) saved.z = Tensor<T, B>(inner);
    auto h = detail::handed_on<B>(inner);
    return products.forward(x, up_bias, down_bias, saved.z, h);
  }
  std::array<Tensor<T, B>, 3> backward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy) const {
    std::array<Tensor<T, B>, 3> out;
    if (need[2]) out[2] = products.sum_rows(dy);
    if (!need[0] && !need[1]) return out;
    const auto dz = products.slope(dy, saved.z, need[1]);
    if (need[1]) out[1] = products.sum_rows(std::exchange(saved.z, {}));
    if (need[0]) out[0] = products.input_gradient(dy, dz);
    return out;
  }
};

/// Both trained in float, as NarrowLinear has it: dup = dzᵀ·x,  ddown = dyᵀ·h besides. Keeps x, z, and h rounded.
template <Real T, Backend B>
struct NarrowFeedForward {
  static constexpr const char* name = "feed_forward";
  static constexpr bool last_may_be_empty = true;
  template <Scalar, Backend>
  struct Saved {
    Tensor<T, B> x, z, up, down;  // the weights: so that a change of them before the backward pass is noticed
    Tensor<bf16, B> h;
  };
  detail::InnerProducts<T, B> products;  // with their panels as they are

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<5> need, const Tensor<T, B>& x, const Tensor<T, B>& up,
                       const Tensor<T, B>& up_bias, const Tensor<T, B>& down, const Tensor<T, B>& down_bias) const {
    const Shape inner = products.inner(x);
    if (need[1]) saved.x = x;
    if (need[0]) saved.up = up;
    if (through(need)) saved.z = Tensor<T, B>(inner), saved.down = down;
    if (need[3]) saved.h = Tensor<bf16, B>(inner);
    auto h = saved.h.defined() ? saved.h : detail::handed_on<B>(inner);
    return products.forward(x, up_bias, down_bias, saved.z, h);
  }
  std::array<Tensor<T, B>, 5> backward(Saved<T, B>& saved, Needs<5> need, const Tensor<T, B>& dy) const {
    std::array<Tensor<T, B>, 5> out;
    const Index rows = dy.size() / dy.dim(-1);
    if (need[4]) out[4] = products.sum_rows(dy);
    if (need[3]) {
      out[3] = Tensor<T, B>(products.down.shape());
      products.down.gradient(rows, dy.data(), std::as_const(saved.h).data(), out[3].data());
      saved.h = {};
    }
    if (!through(need)) return out;
    const auto dz = products.slope(dy, saved.z, need[1] || need[2]);
    const auto full = std::exchange(saved.z, {});
    if (need[2]) out[2] = products.sum_rows(full);
    if (need[1]) {
      out[1] = Tensor<T, B>(products.up.shape());
      products.up.gradient(rows, full.data(), std::as_const(saved.x).data(), out[1].data());
    }
    if (need[0]) out[0] = products.input_gradient(dy, dz);
    return out;
  }

 private:
  static bool through(Needs<5> need) { return need[0] || need[1] || need[2]; }
};

/// f(x·upᵀ + up_bias)·downᵀ + down_bias. x [.., n], up [m, n], down [k, m], both packed in bf16 and frozen; biases [m],
/// [k] or empty.
template <Operand X, Real T, Backend B, Operand U, Operand V>
requires B::on_host VarOf<X> feed_forward(const X& x, const PackedWeight<T, B>& up, const U& up_bias,
                                          const PackedWeight<T, B>& down, const V& down_bias, Activation f,
                                          Where where = Where::current()) {
  return apply(where, HostFeedForward<T, B>{{up, down, f}}, x, up_bias, down_bias);
}
/// The same of weights that train, with their panels.
template <Operand X, Real T, Backend B, Operand U, Operand V>
VarOf<X> narrow_feed_forward(const X& x, const PackedWeight<T, B>& up_panels, const Parameter<T, B>& up,
                             const U& up_bias, const PackedWeight<T, B>& down_panels, const Parameter<T, B>& down,
                             const V& down_bias, Activation f, Where where = Where::current()) {
  return apply(where, NarrowFeedForward<T, B>{{up_panels, down_panels, f}}, x, up, up_bias, down, down_bias);
}

}  // namespace meft
