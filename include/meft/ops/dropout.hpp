// Owns: dropout, replayed from its key.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/cpu/dropout.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// y = m ⊙ x,  dx = m ⊙ dy;  m[i] = 1/(1 − p) when random_bits(key, first + i) ≥ p·2³², else 0. Keeps nothing.
struct Dropout {
  static constexpr const char* name = "dropout";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    Tensor<T, B> y(x.shape());
    dropout(B{}, x.size(), x.data(), y.data(), p, key, first);
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, Tensor<T, B> dy) const {
    Tensor<T, B> dx = overwrite(dy);
    dropout(B{}, dy.size(), std::as_const(dy).data(), dx.data(), p, key, first);
    return {dx};
  }
  double p;
  Key key;
  std::uint64_t first;
};

/// Sets elements to 0 with probability p in [0, 1) and scales the others by 1/(1 − p). Element i of x is number
/// first_element + i of the key, so a slice of a tensor drops what the whole drops. p = 0 gives x itself.
template <Operand X>
VarOf<X> dropout(const X& x, double p, Key key, std::uint64_t first_element = 0, Where where = Where::current()) {
  require(p >= 0 && p < 1, {"dropout: p is not in [0, 1)", where}, p);
  if (p == 0) return as_var(x);
  return apply(where, Dropout{p, key, first_element}, x);
}

}  // namespace meft
