// Owns: the rows of a table by token id.
#pragma once

#include <string>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/tensor/packed.hpp>

namespace meft {

/// y[i] = table[ids[i]],  dtable[ids[i]] += dy[i], ascending in i.
template <Backend B>
struct Embedding {
  static constexpr const char* name = "embedding";
  template <Scalar T, Backend>
  struct Saved {
    Shape shape;
  };
  template <Real T>
  Tensor<T, B> forward(auto& saved, Needs<1>, const Tensor<T, B>& table) const {
    check(ids, table);
    saved.shape = table.shape();
    Tensor<T, B> y(Shape{ids.size(), table.dim(1)});
    gather_rows(B{}, ids.size(), table.dim(1), table.data(), ids.data(), y.data());
    return y;
  }
  template <Real T>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, const Tensor<T, B>& dy) const {
    auto dtable = Tensor<T, B>::zeros(saved.shape);
    scatter_rows(B{}, ids.size(), dy.dim(1), dy.data(), ids.data(), dtable.data());
    return {dtable};
  }
  /// Throws unless every id is a row of the table.
  static void check(const Tensor<std::int32_t, B>& ids, const auto& table) {
    require(table.shape().rank() == 2 && ids.rank() == 1, "embedding: expected a table [v, h] and ids [n]", table, ids);
    const Index bad = first_outside(B{}, ids.size(), ids.data(), table.shape()[0]);
    if (bad < 0) return;
    const std::string id = std::to_string(ids.rows(bad, bad + 1).item());
    fail("embedding: an id outside the table", table, "position " + std::to_string(bad), "id " + id);
  }
  Tensor<std::int32_t, B> ids;
};

/// table [v, h], ids [n] → [n, h]. An id outside [0, v) is an error that names its position.
template <Operand X, Backend B>
VarOf<X> embedding(const X& table, const Tensor<std::int32_t, B>& ids, Where where = Where::current()) {
  return apply(where, Embedding<B>{ids}, table);
}
/// Of a frozen table, whose rows are decoded as they are gathered.
template <Real T, Backend B>
Var<T, B> embedding(const PackedWeight<T, B>& table, const Tensor<std::int32_t, B>& ids) {
  Embedding<B>::check(ids, table);
  return table.rows(ids);
}

/// Of a table that may be perturbed; `places` are the rows of the ids where it has but some of a larger one's.
template <Real T, Backend B>
Var<T, B> embedding(const Parameter<T, B>& table, const Tensor<std::int32_t, B>& places,
                    const Tensor<std::int32_t, B>& ids, Where where = Where::current()) {
  if (!table.perturbed()) return apply(where, Embedding<B>{places}, table);
  auto y = apply(where, Embedding<B>{places}, table.value()).value();
  table.perturb_rows(ids, y);
  return y;
}
template <Real T, Backend B>
Var<T, B> embedding(const Parameter<T, B>& table, const Tensor<std::int32_t, B>& ids, Where where = Where::current()) {
  return embedding(table, ids, ids, where);
}

}  // namespace meft
