// Owns: the batched matrix product, of two operands and of one with itself.
#pragma once

#include <utility>

#include <meft/autodiff/op.hpp>
#include <meft/ops/shape.hpp>

namespace meft {

/// y = x·w,  dx = dy·wᵀ,  dw = xᵀ·dy, over the last two axes; the leading axes are equal.
struct MatMul {
  static constexpr const char* name = "matmul";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x, w;
  };

  static auto forward(auto& saved, Needs<2> need, const auto& x, const auto& w) {
    require(x.rank() >= 2 && x.rank() == w.rank(), "matmul: ranks differ or are below 2", x, w);
    require(x.dim(-1) == w.dim(-2), "matmul: inner dimensions differ", x, w);
    for (int i = 0; i < x.rank() - 2; ++i) require(x.dim(i) == w.dim(i), "matmul: leading dimensions differ", x, w);
    if (need[0]) saved.w = w;
    if (need[1]) saved.x = x;  // a frozen w: x is not kept
    return gemm(x, w);
  }
  static auto backward(const auto& saved, Needs<2> need, const auto& dy) {
    return grads(
        need, [&] { return gemm(dy, t(saved.w)); }, [&] { return gemm(t(saved.x), dy); });
  }
};

/// [.., m, k] · [.., k, n] → [.., m, n].
template <Operand X, Operand W>
VarOf<X> matmul(const X& x, const W& w, Where where = Where::current()) {
  return apply(where, MatMul{}, x, w);
}

/// y = x·xᵀ,  dx = (dy + dyᵀ)·x, over the last two axes.
struct Gram {
  static constexpr const char* name = "gram";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x;
  };

  static auto forward(auto& saved, Needs<1> need, const auto& x) {
    require(x.rank() >= 2, "gram: the rank is below 2", x);
    if (need[0]) saved.x = x;
    return gemm(x, t(x));
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) {
    AxisOrder order{};
    const auto rank = static_cast<std::size_t>(dy.rank());
    for (std::size_t i = 0; i < rank; ++i) order[i] = static_cast<int>(i);
    std::swap(order[rank - 1], order[rank - 2]);
    return {gemm(map(Add{}, dy, detail::permuted(dy, order)), saved.x)};
  }
};

/// [.., m, k] → [.., m, m], the products of its rows.
template <Operand X>
VarOf<X> gram(const X& x, Where where = Where::current()) {
  return apply(where, Gram{}, x);
}

}  // namespace meft
