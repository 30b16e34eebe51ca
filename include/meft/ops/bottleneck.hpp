// Owns: the bottleneck of an adapter as one op, for devices: what is between its products never goes to memory and
// back.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/bottleneck.hpp>

namespace meft {

/// z = x·downᵀ + b,  y = f(z)·upᵀ + c,  dz = (dy·up) ⊙ f'(z),  dx = dz·down,  ddown = dzᵀ·x,  db = Σ dz,
/// dup = dyᵀ·f(z),  dc = Σ dy. Keeps x and z.
struct Bottleneck {
  static constexpr const char* name = "bottleneck";
  static constexpr bool adds_to_own = true;
  /// The most inner features: more are for products of their own.
  static constexpr Index widest = 64;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, z, down, down_bias, up, up_bias;
  };

  template <Real T, Backend B>
  Tensor<T, B> forward(Saved<T, B>& saved, Needs<5> need, const Tensor<T, B>& x, const Tensor<T, B>& down,
                       const Tensor<T, B>& down_bias, const Tensor<T, B>& up, const Tensor<T, B>& up_bias) const {
    const Index width = x.dim(-1);
    require(down.rank() == 2 && down.dim(1) == width && up.shape() == Shape{width, down.dim(0)} &&
                down_bias.size() == down.dim(0) && up_bias.size() == width,
            "bottleneck: the weights do not fit x", x, down, up);
    require(down.dim(0) >= 1 && down.dim(0) <= widest, "bottleneck: inner features are not in [1, 64], found", down);
    const Index rows = x.size() / width;
    Tensor<T, B> y(x.shape()), z({rows, down.dim(0)});
    const Saved<T, B> all{x, z, down, down_bias, up, up_bias};
    bottleneck(B{}, f, rows, weights(all), x.data(), z.data(), y.data());
    if (need.any()) saved = all;
    return y;
  }

  /// `into`: what dx is added to, in its place where that is not dy; empty: nothing.
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 5> backward(const Saved<T, B>& s, Needs<5> need, const Tensor<T, B>& dy,
                                       const Tensor<T, B>& into = {}) const {
    std::array<Tensor<T, B>, 5> out;
    const T* const from = into.defined() ? into.data() : nullptr;
    if (need[0]) out[0] = from && !into.same(dy) ? into : Tensor<T, B>(dy.shape());
    const Tensor<T, B>* const of[] = {&s.down, &s.down_bias, &s.up, &s.up_bias};
    for (std::size_t i = 0; i < 4; ++i)
      if (need[i + 1]) out[i + 1] = Tensor<T, B>(of[i]->shape());
    bottleneck_backward(B{}, f, s.z.dim(0), weights(s), s.x.data(), s.z.data(), dy.data(), from, out[0].data(),
                        {out[1].data(), out[2].data(), out[3].data(), out[4].data()});
    return out;
  }

  Activation f;

 private:
  template <Real T, Backend B>
  static BottleneckWeights<T> weights(const Saved<T, B>& s) {
    return {s.up.dim(0), s.down.dim(0), s.down.data(), s.down_bias.data(), s.up.data(), s.up_bias.data()};
  }
};

/// f(x·downᵀ + down_bias)·upᵀ + up_bias. x [.., n], down [m, n], down_bias [m], up [n, m], up_bias [n] → [.., n].
/// Errors: m is not in [1, 64].
template <Operand X, Operand D, Operand E, Operand U, Operand V>
VarOf<X> bottleneck(const X& x, const D& down, const E& down_bias, const U& up, const V& up_bias, Activation f,
                    Where where = Where::current()) {
  return apply(where, Bottleneck{f}, x, down, down_bias, up, up_bias);
}

}  // namespace meft
