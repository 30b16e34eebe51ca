// Owns: the runtime shape of a tensor (row-major, at most six dimensions, no heap) and broadcasting.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include <meft/base/error.hpp>

namespace meft {

using Index = std::int64_t;

// Members that are not worth a copy at each call are kept out of line: it saves a program half its compile time.

/// The extents of a row-major tensor. A scalar has rank 0 and size 1. Negative axes count from the back.
class Shape {
 public:
  static constexpr int max_rank = 6;

  Shape() = default;
  [[gnu::cold, gnu::noinline]] Shape(std::initializer_list<Index> dims) {
    for (Index d : dims) push(d);
  }

  int rank() const { return rank_; }
  /// Extent of `axis`; throws when the axis does not exist.
  Index operator[](int axis) const { return dims_[static_cast<std::size_t>(index(axis))]; }
  Index& operator[](int axis) { return dims_[static_cast<std::size_t>(index(axis))]; }
  const Index* begin() const { return dims_.data(); }
  const Index* end() const { return dims_.data() + rank_; }

  [[gnu::cold, gnu::noinline]] Index size() const {
    Index n = 1;
    for (Index d : *this) n *= d;
    return n;
  }

  [[gnu::cold, gnu::noinline]] void push(Index d) {
    require(rank_ < max_rank, "shape: more than six dimensions");
    require(d >= 0, "shape: a negative extent", d);
    dims_[static_cast<std::size_t>(rank_++)] = d;
    bytes(1);
  }

  /// Bytes of `size()` elements of `each` bytes. Throws when the extents, those of 0 aside, have no product in 64 bits.
  [[gnu::cold, gnu::noinline]] std::size_t bytes(std::size_t each, Where where = Where::current()) const {
    Index n = static_cast<Index>(each);
    bool none = false;
    for (Index d : *this) {
      require(d >= 0, {"shape: a negative extent", where}, *this);
      none = none || d == 0;
      if (d && __builtin_mul_overflow(n, d, &n))
        fail({"shape: the size overflows 64 bits", where}, *this,
             detail::joined({detail::decimal(static_cast<long long>(each), false), " bytes an element"}));
    }
    return none ? 0 : static_cast<std::size_t>(n);
  }

  /// Turns a negative axis into its place from the front; throws when out of range.
  [[gnu::cold, gnu::noinline]] int index(int axis) const {
    const int i = axis < 0 ? axis + rank_ : axis;
    require(i >= 0 && i < rank_, "shape: no such axis", *this, axis);
    return i;
  }

  /// Product of the extents before, and after, `axis`.
  [[gnu::cold, gnu::noinline]] Index outer(int axis) const {
    Index n = 1;
    for (int i = 0, e = index(axis); i < e; ++i) n *= dims_[static_cast<std::size_t>(i)];
    return n;
  }
  [[gnu::cold, gnu::noinline]] Index inner(int axis) const {
    Index n = 1;
    for (int i = index(axis) + 1; i < rank_; ++i) n *= dims_[static_cast<std::size_t>(i)];
    return n;
  }

  [[gnu::cold, gnu::noinline]] Shape without(int axis) const {
    Shape out;
    for (int i = 0, skip = index(axis); i < rank_; ++i)
      if (i != skip) out.push(dims_[static_cast<std::size_t>(i)]);
    return out;
  }
  Shape with(int axis, Index extent) const {
    Shape out = *this;
    out[axis] = extent;
    return out;
  }

  [[gnu::cold, gnu::noinline]] friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

  /// `[32, 768]`
  [[gnu::cold, gnu::noinline]] std::string text() const {
    std::string out = "[";
    for (int i = 0; i < rank_; ++i)
      out = detail::joined({out, i ? ", " : "", detail::decimal(dims_[static_cast<std::size_t>(i)], true)});
    return detail::joined({out, "]"});
  }
  const Shape& shape() const { return *this; }

 private:
  std::array<Index, max_rank> dims_{};
  int rank_ = 0;
};

/// The shape of `size` elements with these extents, of which one may be -1 and is then found from the others.
[[gnu::cold, gnu::noinline]] inline Shape fitting(std::initializer_list<Index> dims, Index size,
                                                  Where where = Where::current()) {
  Index known = 1;
  bool open = false;
  for (Index d : dims) {
    if (d == -1) open = true;
    else require(!__builtin_mul_overflow(known, d, &known), {"reshape: the size overflows 64 bits", where}, d);
  }
  require(!open || known != 0, {"reshape: an extent of -1 beside one of 0 may be anything", where}, size);
  Shape shape;
  for (Index d : dims) shape.push(d == -1 ? size / known : d);
  return shape;
}

/// The shape two operands broadcast to: aligned at the back, extents equal or one of them 1 (NumPy's rule).
inline Shape broadcast(const Shape& a, const Shape& b, Where where = Where::current()) {
  Shape out;
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Index da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    require(da == db || da == 1 || db == 1, {"broadcast: extents differ and neither is 1", where}, a, b);
    out.push(da == 1 ? db : da);
  }
  return out;
}

/// Where each axis of a permuted tensor comes from: axis i of y is axis order[i] of x.
using AxisOrder = std::array<int, Shape::max_rank>;

}  // namespace meft
