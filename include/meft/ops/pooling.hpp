// Owns: one row for each sequence of a ragged batch: its first token, or the mean of its tokens.
#pragma once

#include <string>

#include <meft/autodiff/op.hpp>
#include <meft/backend/cpu/rows.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft {

namespace detail {

/// x [tokens, h] and its offsets agree, and no sequence is empty.
template <Real T, Backend B>
void check_pooling(const char* op, const Tensor<T, B>& x, const Offsets& offsets) {
  if (x.rank() != 2) fail(std::string(op) + ": expected [tokens, h]", x);
  if (x.dim(0) != offsets.tokens())
    fail(std::string(op) + ": rows and offsets differ", x, "offsets end at " + std::to_string(offsets.tokens()));
  for (Index i = 0; i < offsets.sequences(); ++i)
    if (offsets.length(i) == 0) fail(std::string(op) + ": an empty sequence", "sequence " + std::to_string(i));
}

/// The first `count` offsets on the device of x.
template <Backend B>
Tensor<std::int32_t, B> starts_of(const Offsets& offsets, Index count) {
  const UseScope use(Use::workspace);
  return Tensor<std::int32_t, B>::from(Shape{count}, offsets.values().first(static_cast<std::size_t>(count)));
}

}  // namespace detail

/// y[s] = x[begin(s)],  dx[begin(s)] = dy[s], 0 elsewhere.
struct FirstRows {
  static constexpr const char* name = "first_rows";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    detail::check_pooling(name, x, offsets);
    const auto starts = detail::starts_of<B>(offsets, offsets.sequences());
    Tensor<T, B> y(x.shape().with(0, offsets.sequences()));
    gather_rows(B{}, offsets.sequences(), x.dim(1), x.data(), starts.data(), y.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    const auto starts = detail::starts_of<B>(offsets, offsets.sequences());
    auto dx = Tensor<T, B>::zeros(Shape{offsets.tokens(), dy.dim(1)});
    scatter_rows(B{}, offsets.sequences(), dy.dim(1), dy.data(), starts.data(), dx.data());
    return {dx};
  }
  Offsets offsets;
};

/// y[s] = mean of x[begin(s) … end(s)],  dx[r] = dy[s] / length(s).
struct MeanRows {
  static constexpr const char* name = "mean_rows";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    detail::check_pooling(name, x, offsets);
    const auto starts = detail::starts_of<B>(offsets, offsets.sequences() + 1);
    Tensor<T, B> y(x.shape().with(0, offsets.sequences()));
    mean_rows(B{}, offsets.sequences(), x.dim(1), x.data(), starts.data(), y.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    const auto starts = detail::starts_of<B>(offsets, offsets.sequences() + 1);
    Tensor<T, B> dx(Shape{offsets.tokens(), dy.dim(1)});
    mean_rows_backward(B{}, offsets.sequences(), dy.dim(1), dy.data(), starts.data(), dx.data());
    return {dx};
  }
  Offsets offsets;
};

/// The first token of each sequence: x [tokens, h] → [sequences, h]. An empty sequence is an error.
template <Operand X>
VarOf<X> first_rows(const X& x, const Offsets& offsets, Where where = Where::current()) {
  return apply(where, FirstRows{offsets}, x);
}
/// The mean token of each sequence: x [tokens, h] → [sequences, h]. An empty sequence is an error.
template <Operand X>
VarOf<X> mean_rows(const X& x, const Offsets& offsets, Where where = Where::current()) {
  return apply(where, MeanRows{offsets}, x);
}

}  // namespace meft
