// Owns: dropout, replayed from its key, alone and after an activation.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/dropout.hpp>
#include <meft/ops/activation.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// y = m ⊙ x,  dx = m ⊙ dy;  m[i] = 1/(1 − p) when dropout_bits(key, first + i) ≥ p·2¹⁶, else 0, p rounded up to a
/// multiple of 2⁻¹⁶. Keeps nothing.
struct Dropout {
  static constexpr const char* name = "dropout";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    Tensor<T, B> y(x.shape());
    map_dropped(B{}, Identity{}, x.size(), y.data(), p, key, first, x.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, Tensor<T, B> dy) const {
    if constexpr (Tensor<T, B>::rounds)
      if (gradient == Hand::rounded) {
        auto dx = Tensor<T, B>::handed(dy.shape(), gradient);
        map_dropped(B{}, Identity{}, dy.size(), dx.fill_rounded(gradient), p, key, first, std::as_const(dy).data());
        return {dx};
      }
    Tensor<T, B> dx = overwrite(dy);
    map_dropped(B{}, Identity{}, dy.size(), dx.data(), p, key, first, std::as_const(dy).data());
    return {dx};
  }
  double p;
  Key key;
  std::uint64_t first;
  Hand gradient = Hand::in_full;  // of x
};

/// y = m ⊙ f(x),  dx = m ⊙ dy ⊙ f'(x), with the mask m of Dropout, in one pass. Keeps x.
template <class F>
struct ActivationDropout {
  static constexpr const char* name = "activate_dropout";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x;
  };
  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<1> need, const Tensor<T, B>& x) const {
    Tensor<T, B> y(x.shape());
    map_dropped(B{}, F{}, x.size(), y.data(), drop.p, drop.key, drop.first, x.data());
    if (need[0]) saved.x = x;
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, Tensor<T, B> dy) const {
    Tensor<T, B> dx = overwrite(dy);
    map_dropped(B{}, SlopeAt<F>{}, dy.size(), dx.data(), drop.p, drop.key, drop.first, std::as_const(dy).data(),
                saved.x.data());
    return {dx};
  }

  Dropout drop;
};

/// Sets elements to 0 with probability p in [0, 1) and scales the others by 1/(1 − p). Element i of x is number
/// first_element + i of the key, so a slice of a tensor drops what the whole drops. p = 0 gives x itself; others
/// are rounded up to a multiple of 2⁻¹⁶.
template <Operand X>
VarOf<X> dropout(const X& x, double p, Key key, std::uint64_t first_element = 0, Where where = Where::current()) {
  require(p >= 0 && p < 1, {"dropout: p is not in [0, 1)", where}, p);
  if (p == 0) return as_var(x);
  return apply(where, Dropout{p, key, first_element}, x);
}

/// dropout(activate(x, activation), p, key, first_element) in one pass.
template <Operand X>
VarOf<X> activate_dropout(const X& x, Activation activation, double p, Key key, std::uint64_t first_element = 0,
                          Where where = Where::current()) {
  require(p >= 0 && p < 1, {"activate_dropout: p is not in [0, 1)", where}, p);
  if (p == 0) return activate(x, activation, where);
  return visit(activation, [&](auto f) {
    return apply(where, ActivationDropout<decltype(f)>{{p, key, first_element}}, x);
  });
}

}  // namespace meft
