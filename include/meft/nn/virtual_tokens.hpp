// Owns: rows in front of every sequence's, which train.
#pragma once

#include <cstdint>
#include <vector>

#include <meft/autodiff/parameter.hpp>
#include <meft/ops/shape.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft::nn {

/// head [m, width] in front of each sequence of x [tokens, width] → [tokens + sequences · m, width].
template <Operand Head, Operand X>
VarOf<X> in_front(const Head& head, const X& x, const Offsets& offsets) {
  const Index m = head.shape()[0];
  std::vector<std::int32_t> order;
  for (Index s = 0; s < offsets.sequences(); ++s) {
    for (Index j = 0; j < m; ++j) order.push_back(static_cast<std::int32_t>(j));
    for (Index j = offsets.begin(s); j < offsets.end(s); ++j) order.push_back(static_cast<std::int32_t>(m + j));
  }
  using B = typename VarOf<X>::backend;
  return gather(concat({as_var(head), as_var(x)}, 0),
                Tensor<std::int32_t, B>::from({static_cast<Index>(order.size())}, order));
}

/// Rows [m, width], the same in front of each sequence. They are tokens to the layers, and have no output.
template <Real T, Backend B = Cpu>
struct VirtualTokens {
  Parameter<T, B> rows;

  Index count() const { return rows.shape()[0]; }
  /// Of sequences with the rows.
  Offsets with(const Offsets& offsets) const {
    std::vector<std::int32_t> lengths;
    for (Index s = 0; s < offsets.sequences(); ++s)
      lengths.push_back(static_cast<std::int32_t>(offsets.length(s) + count()));
    return Offsets::of_lengths(lengths);
  }
  /// The rows of y that belong to others, of sequences with `offsets` as `with` gives them.
  Var<T, B> without(const Var<T, B>& y, const Offsets& offsets) const {
    std::vector<std::int32_t> others;
    for (Index s = 0; s < offsets.sequences(); ++s)
      for (Index j = offsets.begin(s) + count(); j < offsets.end(s); ++j)
        others.push_back(static_cast<std::int32_t>(j));
    return gather(y, Tensor<std::int32_t, B>::from({static_cast<Index>(others.size())}, others));
  }

  static void parts(auto& self, auto&& visit) { visit("", self.rows); }
};

}  // namespace meft::nn
