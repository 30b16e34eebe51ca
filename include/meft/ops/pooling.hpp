// Owns: one row for each sequence of a ragged batch: its first or last token, or the mean of its tokens.
#pragma once

#include <algorithm>
#include <string>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft {

namespace detail {

/// x [tokens, h] and its offsets agree, and every sequence has a row.
template <Real T, Backend B>
void check_pooling(const char* op, const Tensor<T, B>& x, const Offsets& offsets) {
  if (x.rank() != 2) fail(std::string(op) + ": expected [tokens, h]", x);
  if (x.dim(0) != offsets.tokens())
    fail(std::string(op) + ": rows and offsets differ", x, "offsets end at " + std::to_string(offsets.tokens()));
  const Index empty = settled<B>([offsets] {
    for (Index i = 0; i < offsets.sequences(); ++i)
      if (offsets.length(i) == 0) return i;
    return Index{-1};
  });
  if (empty >= 0) fail(std::string(op) + ": an empty sequence", "sequence " + std::to_string(empty));
}

/// The offsets on the device.
template <Backend B>
Tensor<std::int32_t, B> starts_of(const Offsets& offsets) {
  const UseScope use(Use::workspace);
  return Tensor<std::int32_t, B>::following(Shape{offsets.sequences() + 1}, reading_again([offsets](std::int32_t* to) {
                                              std::ranges::copy(offsets.values(), to);
                                            }));
}

/// The first or last row of each sequence.
template <Backend B>
Tensor<std::int32_t, B> ends_of(const Offsets& offsets, bool last) {
  const UseScope use(Use::workspace);
  return Tensor<std::int32_t, B>::following(
      Shape{offsets.sequences()}, reading_again([offsets, last](std::int32_t* rows) {
        for (Index i = 0; i < offsets.sequences(); ++i)
          *rows++ = static_cast<std::int32_t>(last ? offsets.end(i) - 1 : offsets.begin(i));
      }));
}

}  // namespace detail

/// y[s] = x[r(s)],  dx[r(s)] = dy[s], 0 elsewhere, with r(s) the first or last row of sequence s.
struct EndRows {
  static constexpr const char* name = "end_rows";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    detail::check_pooling(last ? "last_rows" : "first_rows", x, offsets);
    const auto rows = detail::ends_of<B>(offsets, last);
    Tensor<T, B> y(x.shape().with(0, offsets.sequences()));
    gather_rows(B{}, offsets.sequences(), x.dim(1), x.data(), rows.data(), y.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    const auto rows = detail::ends_of<B>(offsets, last);
    auto dx = Tensor<T, B>::zeros(Shape{offsets.tokens(), dy.dim(1)});
    scatter_rows(B{}, offsets.sequences(), dy.dim(1), dy.data(), rows.data(), dx.data());
    return {dx};
  }
  Offsets offsets;
  bool last = false;
};

/// y[s] = mean of x[begin(s) + skip … end(s)],  dx[r] = dy[s] / (length(s) − skip), 0 for the skipped rows; the last
/// row where a sequence has no more than these.
struct MeanRows {
  static constexpr const char* name = "mean_rows";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    detail::check_pooling(name, x, offsets);
    const auto starts = detail::starts_of<B>(offsets);
    Tensor<T, B> y(x.shape().with(0, offsets.sequences()));
    mean_rows(B{}, offsets.sequences(), x.dim(1), skip, x.data(), starts.data(), y.data());
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    const auto starts = detail::starts_of<B>(offsets);
    Tensor<T, B> dx(Shape{offsets.tokens(), dy.dim(1)});
    mean_rows_backward(B{}, offsets.sequences(), dy.dim(1), skip, dy.data(), starts.data(), dx.data());
    return {dx};
  }
  Offsets offsets;
  Index skip = 0;
};

/// The first token of each sequence: x [tokens, h] → [sequences, h]. An empty sequence is an error.
template <Operand X>
VarOf<X> first_rows(const X& x, const Offsets& offsets, Where where = Where::current()) {
  return apply(where, EndRows{offsets, false}, x);
}
/// The last token of each sequence: x [tokens, h] → [sequences, h]. An empty sequence is an error.
template <Operand X>
VarOf<X> last_rows(const X& x, const Offsets& offsets, Where where = Where::current()) {
  return apply(where, EndRows{offsets, true}, x);
}
/// The mean token of each sequence but for its first `skip`, its last token where it has no others: x [tokens, h] →
/// [sequences, h]. An empty sequence is an error.
template <Operand X>
VarOf<X> mean_rows(const X& x, const Offsets& offsets, Index skip = 0, Where where = Where::current()) {
  require(skip >= 0, {"mean_rows: expected rows to skip from 0, found", where}, skip);
  return apply(where, MeanRows{offsets, skip}, x);
}

}  // namespace meft
