// Owns: attention on ragged batches whose weights are the positive products of rows. They never exist whole.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/relu_attention.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft {

/// y = (A + I)·t for each sequence, A = relu(a·tᵀ) with rows divided by their sums z (Diao et al., arXiv 2308.14316,
/// equation 4). A row without a positive product has A = 0, so that y is t there. dt = dy + Aᵀ·dy + dsᵀ·a, da = ds·t,
/// ds[i, j] = (dy_i·t_j − dy_i·(y_i − t_i))/z_i where a_i·t_j > 0, else 0.
struct ReluAttention {
  static constexpr const char* name = "relu_attention";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> a, t, y, sums;
  };

  Offsets offsets;
  bool causal = false;  // a row sees rows up to its own

  template <Real T, Backend B>
  Tensor<T, B> forward(Saved<T, B>& saved, Needs<2> need, const Tensor<T, B>& a, const Tensor<T, B>& t) const {
    require(a.rank() == 2 && a.shape() == t.shape() && a.dim(1) > 0, "relu_attention: a and t are not alike", a, t);
    require(offsets.tokens() == a.dim(0), "relu_attention: the offsets do not cover the rows", a, offsets.tokens());
    Tensor<T, B> y(t.shape()), sums(Shape{t.dim(0)});
    relu_attention(B{}, offsets.sequences(), offsets.values().data(), t.dim(1), causal, a.data(), t.data(), y.data(),
                   sums.data());
    if (need.any()) saved = {a, t, y, sums};
    return y;
  }
  template <Real T, Backend B>
  auto backward(const Saved<T, B>& s, Needs<2> need, const Tensor<T, B>& dy) const {
    Tensor<T, B> da(s.a.shape()), dt(s.t.shape());
    relu_attention_backward(B{}, offsets.sequences(), offsets.values().data(), s.t.dim(1), causal, s.a.data(),
                            s.t.data(), s.y.data(), s.sums.data(), dy.data(), da.data(), dt.data());
    return grads(
        need, [&] { return da; }, [&] { return dt; });
  }
};

/// a and t [tokens, n] → the same.
template <Operand A, Operand X>
VarOf<A> relu_attention(const A& a, const X& t, const Offsets& offsets, bool causal = false,
                        Where where = Where::current()) {
  return apply(where, ReluAttention{offsets, causal}, a, t);
}

}  // namespace meft
