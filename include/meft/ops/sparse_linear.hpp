// Owns: the affine map with a packed weight of which chosen elements train.
#pragma once

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/backend/kernels/sampled.hpp>
#include <meft/ops/linear_activation.hpp>

namespace meft {

/// Orthonormal vectors in columns, V_o [out, r] and V_i [in, c]; empty: the identities.
template <Real T, Backend B = Cpu>
struct Basis {
  Tensor<T, B> out, in;

  bool defined() const { return out.defined(); }
  Index elements() const { return out.dim(1) * in.dim(1); }
  /// Whether V_oᵀ·dw·V_i takes fewer products than both sides of dw, of so many rows, in the basis.
  bool by_matrix(Index rows) const {
    return defined() && by_matrix(rows, out.dim(0), in.dim(0), out.dim(1), in.dim(1));
  }
  static bool by_matrix(Index rows, Index out, Index in, Index r, Index c) {
    return out * in * (rows + r) + r * in * c < rows * (out * r + in * c);
  }
};

namespace detail {
/// Whether such a share of a matrix' elements is cheaper one by one than as part of the whole product.
constexpr bool few_chosen(double share) { return share <= 0.01; }
}  // namespace detail

/// y = x·wᵀ + b,  dx = dy·w,  dv[m] = Σ dy[.., i]·x[.., j] with indices[m] = i·in + j,  db = Σ dy. The values v [k] are
/// in w already (PackedWeight::write), so that no second product is needed. Without indices all of w trains, in order:
/// dv is then, bit for bit, the dw of Linear. With a basis the values are elements of V_oᵀ·w·V_i [r, c], indices[m] =
/// i·c + j: dv[m] = Σ (dy·V_o)[.., i]·(x·V_i)[.., j], or (V_oᵀ·dw·V_i)[i, j] where that is less work.
template <Real T, Backend B>
struct SparseLinear {
  static constexpr const char* name = "linear";
  static constexpr bool last_may_be_empty = true;
  template <Scalar T2, Backend B2>
  struct Saved {
    Tensor<T2, B2> x, values;  // values: w has them, as they were
  };
  PackedWeight<T, B> w;
  Tensor<std::int32_t, B> indices;
  Basis<T, B> basis{};

  Tensor<T, B> forward(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& values,
                       const Tensor<T, B>& bias) const {
    Tensor<T, B> y = start(saved, need, x, values, bias);
    multiply(y, x, values, bias);
    return y;
  }
  Tensor<T, B> start(Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& x, const Tensor<T, B>& values,
                     const Tensor<T, B>& bias) const {
    require(values.size() == (indices.defined() ? indices.size() : w.shape().size()),
            "linear: the trained values are not as many as the indices", values, indices);
    if (need[1]) saved.x = x;
    if (need[0]) saved.values = values;
    return whole().start(saved, {}, x, bias);
  }
  void multiply(Tensor<T, B>& y, const Tensor<T, B>& x, const Tensor<T, B>& /*values*/,
                const Tensor<T, B>& bias) const {
    whole().multiply(y, x, bias);
  }
  /// As gemm_activated.
  bool multiply(Activation f, Tensor<T, B>& before, Tensor<T, B>& y, const Tensor<T, B>& x,
                const Tensor<T, B>& /*values*/, const Tensor<T, B>& bias) const {
    return whole().multiply(f, before, y, x, bias);
  }

  /// `into`: what dx is added to, in its place; empty: nothing.
  auto backward(const Saved<T, B>& saved, Needs<3> need, const Tensor<T, B>& dy, const Tensor<T, B>& into = {}) const {
    const Needs<2> rest{{need[0], need[2]}};
    auto of_rest = whole().backward(saved, rest, dy, into);
    return std::array<Tensor<T, B>, 3>{std::move(of_rest[0]), need[1] ? chosen_products(dy, saved.x) : Tensor<T, B>(),
                                       std::move(of_rest[1])};
  }

 private:
  PackedLinear<T, B> whole() const { return {w}; }

  Tensor<T, B> chosen_products(const Tensor<T, B>& dy, const Tensor<T, B>& x) const {
    const Index out = w.shape()[0], in = w.shape()[1], rows = dy.size() / out;
    if (basis.by_matrix(rows)) {
      auto turned = gemm(t(dy.reshape({rows, out})), x.reshape({rows, in}));
      turned = gemm(t(basis.out), turned);
      turned = gemm(turned, basis.in);
      return indices.defined() ? elements(turned) : turned.reshape({turned.size()});
    }
    const auto in_basis = [](const Tensor<T, B>& of, const Tensor<T, B>& v) { return v.defined() ? gemm(of, v) : of; };
    const auto left = in_basis(dy.reshape({rows, out}), basis.out), right = in_basis(x.reshape({rows, in}), basis.in);
    const Index r = left.dim(1), c = right.dim(1);
    if (!indices.defined()) return gemm(t(left), right).reshape({r * c});
    if (!detail::few_chosen(static_cast<double>(indices.size()) / static_cast<double>(r * c)))
      return elements(gemm(t(left), right));
    Tensor<T, B> dv(indices.shape());
    sampled_product(B{}, rows, r, c, left.data(), right.data(), indices.size(), indices.data(), dv.data());
    return dv;
  }
  /// The chosen elements of dw.
  Tensor<T, B> elements(const Tensor<T, B>& dw) const {
    Tensor<T, B> dv(indices.shape());
    gather_rows(B{}, indices.size(), 1, dw.data(), indices.data(), dv.data());
    return dv;
  }
};

/// x [.., in], w packed [out, in], values [k] of w at ascending `indices` [k] of its elements in row-major order (none:
/// all of them), or of it in a basis, bias [out] → [.., out].
template <Operand X, Real T, Backend B, Operand Values, Operand Bias>
VarOf<X> sparse_linear(const X& x, const PackedWeight<T, B>& w, const Tensor<std::int32_t, B>& indices,
                       const Values& values, const Bias& bias, const Basis<T, B>& basis = {},
                       Where where = Where::current()) {
  return apply(where, SparseLinear<T, B>{w, indices, basis}, x, values, bias);
}
/// f of that, as linear_activation.
template <Operand X, Real T, Backend B, Operand Values, Operand Bias>
VarOf<X> sparse_linear_activation(const X& x, const PackedWeight<T, B>& w, const Tensor<std::int32_t, B>& indices,
                                  const Values& values, const Bias& bias, Activation f, const Basis<T, B>& basis = {},
                                  Where where = Where::current()) {
  return apply(where, ActivatedLinear<SparseLinear<T, B>>{{w, indices, basis}, f}, x, values, bias);
}

}  // namespace meft
