// Ops that depend on shapes, on random shapes, against plain loops over the indices: values and gradients.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include <meft/base/random.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>

using namespace meft;

namespace {

/// Small random numbers for shapes and axes.
struct Draw {
  Index below(Index n) { return meft::below(key, next++, static_cast<std::uint32_t>(n)); }
  bool coin() { return below(2) == 1; }
  Shape shape(int rank, Index most) {
    Shape out;
    for (int i = 0; i < rank; ++i) out.push(below(8) == 0 ? 40 : 1 + below(most));
    return out;
  }
  Tensor<double> tensor(const Shape& shape) {
    Tensor<double> out(shape);
    for (Index i = 0; i < out.size(); ++i) out.data()[i] = static_cast<double>(below(1 << 20)) / (1 << 18) - 2;
    return out;
  }
  Key key;
  std::uint64_t next = 0;
};

using At = std::array<Index, Shape::max_rank>;

/// Calls f(indices, element number) for each element, in order.
template <class F>
void each(const Shape& shape, F f) {
  for (Index e = 0; e < shape.size(); ++e) {
    At at{};
    for (Index i = shape.rank() - 1, left = e; i >= 0; --i) {
      at[static_cast<std::size_t>(i)] = left % shape[static_cast<int>(i)];
      left /= shape[static_cast<int>(i)];
    }
    f(at, e);
  }
}
/// The element number of indices in `shape`, aligned at the back of `rank` of them; extents of 1 repeat.
Index place(const Shape& shape, const At& at, int rank) {
  Index e = 0;
  for (int i = 0; i < shape.rank(); ++i)
    e = e * shape[i] + (shape[i] == 1 ? 0 : at[static_cast<std::size_t>(i + rank - shape.rank())]);
  return e;
}

/// The largest difference of two equally shaped tensors; infinite when shapes differ.
double distance(const Tensor<double>& a, const Tensor<double>& b) {
  if (!(a.shape() == b.shape())) return INFINITY;
  double worst = 0;
  for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
  return worst;
}

}  // namespace

TEST_CASE("broadcasting") {
  for (std::uint64_t round = 0; round < 60; ++round) {
    CAPTURE(round);
    Draw draw{{.seed = 1, .step = static_cast<std::uint32_t>(round)}};
    const int rank = static_cast<int>(draw.below(5));
    const Shape full = draw.shape(rank, 4);
    const auto reduced = [&] {
      Shape out;
      for (int i = static_cast<int>(draw.below(rank + 1)); i < rank; ++i) out.push(draw.coin() ? 1 : full[i]);
      return out;
    };
    Shape sa = reduced(), sb = full;
    if (draw.coin()) std::swap(sa, sb);
    const auto a = draw.tensor(sa), b = draw.tensor(sb), dy = draw.tensor(full);
    auto sum = Tensor<double>::zeros(full), product = Tensor<double>::zeros(full);
    auto da = Tensor<double>::zeros(sa), db = Tensor<double>::zeros(sb);
    each(full, [&](const At& at, Index e) {
      const Index ia = place(sa, at, rank), ib = place(sb, at, rank);
      sum.data()[e] = a.data()[ia] + b.data()[ib];
      product.data()[e] = a.data()[ia] * b.data()[ib];
      da.data()[ia] += dy.data()[e] * b.data()[ib];
      db.data()[ib] += dy.data()[e] * a.data()[ia];
    });
    CHECK(distance(add(a, b).value(), sum) == 0);
    Tape tape;
    const auto x = tape.watch(a), w = tape.watch(b);
    const auto y = mul(x, w);
    CHECK(distance(y.value(), product) == 0);
    tape.backward(y, dy);
    CHECK(distance(tape.gradient(x), da) < 1e-11);
    CHECK(distance(tape.gradient(w), db) < 1e-11);
  }
}

TEST_CASE("reductions") {
  for (std::uint64_t round = 0; round < 80; ++round) {
    CAPTURE(round);
    Draw draw{{.seed = 2, .step = static_cast<std::uint32_t>(round)}};
    const int rank = static_cast<int>(draw.below(6));
    const auto x = draw.tensor(draw.shape(rank, 4));
    Over over{.keep = draw.coin()};
    Shape kept, out;
    bool none = true;
    for (int i = 0; i < rank; ++i) {
      const bool gone = draw.coin();
      none = none && !gone;
      if (gone) over.axes.push_back(draw.coin() ? i : i - rank);
      kept.push(gone ? 1 : x.dim(i));
      if (!gone || over.keep) out.push(kept[i]);
    }
    if (none) {  // no axis named means all
      kept = out = {};
      for (int i = 0; i < rank; ++i) kept.push(1);
      if (over.keep) out = kept;
    }
    std::reverse(over.axes.begin(), over.axes.end());  // in any order

    auto total = Tensor<double>::zeros(out), top = Tensor<double>::full(out, -INFINITY);
    std::vector<Index> winner(static_cast<std::size_t>(out.size()));
    each(x.shape(), [&](const At& at, Index e) {
      const Index to = place(kept, at, rank);
      total.data()[to] += x.data()[e];
      if (x.data()[e] > top.data()[to]) {
        top.data()[to] = x.data()[e];
        winner[static_cast<std::size_t>(to)] = e;
      }
    });
    const auto dy = draw.tensor(out);
    const double count = static_cast<double>(x.size() / out.size());
    auto dsum = Tensor<double>::zeros(x.shape()), dmean = dsum.clone(), dmax = dsum.clone();
    each(x.shape(), [&](const At& at, Index e) {
      dsum.data()[e] = dy.data()[place(kept, at, rank)];
      dmean.data()[e] = dsum.data()[e] / count;
    });
    for (Index i = 0; i < out.size(); ++i) dmax.data()[winner[static_cast<std::size_t>(i)]] = dy.data()[i];

    Tape tape;
    const auto a = tape.watch(x), b = tape.watch(x), c = tape.watch(x);
    const auto ys = sum(a, over), ym = mean(b, over), yx = max(c, over);
    for (Index i = 0; i < out.size(); ++i) REQUIRE(std::abs(total.data()[i] / count - ym.value().data()[i]) < 1e-12);
    CHECK(ym.shape() == out);
    CHECK(distance(ys.value(), total) < 1e-10);
    CHECK(distance(yx.value(), top) == 0);
    tape.backward(ys, dy.clone());
    tape.backward(ym, dy.clone());
    tape.backward(yx, dy.clone());
    CHECK(distance(tape.gradient(a), dsum) == 0);
    CHECK(distance(tape.gradient(b), dmean) < 1e-15);
    CHECK(distance(tape.gradient(c), dmax) == 0);
  }
}

TEST_CASE("long sums: blocks and lanes add up every element once") {
  for (Index n : {1, 15, 16, 17, 4095, 4096, 4097, 10000}) {
    Tensor<double> x(Shape{2, n});
    for (Index i = 0; i < 2 * n; ++i) x.data()[i] = static_cast<double>(i);
    const auto y = sum(x, {.axes = {1}}).value().values();
    const double m = static_cast<double>(n);
    CHECK(y == std::vector<double>{m * (m - 1) / 2, m * (3 * m - 1) / 2});
  }
}

TEST_CASE("permutations of the axes") {
  for (std::uint64_t round = 0; round < 80; ++round) {
    CAPTURE(round);
    Draw draw{{.seed = 3, .step = static_cast<std::uint32_t>(round)}};
    const int rank = 3 + static_cast<int>(draw.below(3));
    const auto x = draw.tensor(draw.shape(rank, 4));
    std::vector<int> order;
    for (int i = 0; i < rank; ++i) order.insert(order.begin() + draw.below(i + 1), i);
    const auto y = [&](const Var<double>& v) {
      if (rank == 3) return permute(v, {order[0], order[1], order[2]});
      if (rank == 4) return permute(v, {order[0], order[1], order[2], order[3] - rank});
      return permute(v, {order[0], order[1], order[2], order[3], order[4]});
    };
    Shape shape;
    for (int axis : order) shape.push(x.dim(axis));
    Tape tape;
    const auto in = tape.watch(x);
    const auto out = y(in);
    REQUIRE(out.shape() == shape);
    Index wrong = 0;
    const auto dy = draw.tensor(shape);
    tape.backward(out, dy.clone());
    const auto dx = tape.gradient(in);
    each(shape, [&](const At& at, Index e) {
      At from{};
      for (std::size_t i = 0; i < order.size(); ++i) from[static_cast<std::size_t>(order[i])] = at[i];
      Index source = 0;
      for (int i = 0; i < rank; ++i) source = source * x.dim(i) + from[static_cast<std::size_t>(i)];
      wrong += out.value().data()[e] != x.data()[source];
      wrong += dx.data()[source] != dy.data()[e];
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("concat and slice undo each other") {
  for (std::uint64_t round = 0; round < 60; ++round) {
    CAPTURE(round);
    Draw draw{{.seed = 4, .step = static_cast<std::uint32_t>(round)}};
    const int rank = 1 + static_cast<int>(draw.below(4)), axis = static_cast<int>(draw.below(rank));
    const Shape base = draw.shape(rank, 4);
    Tape tape;
    std::vector<Var<double>> parts;
    Index total = 0;
    for (Index i = 0, n = 1 + draw.below(4); i < n; ++i) {
      const Index extent = draw.below(4);  // may be 0
      total += extent;
      const auto part = draw.tensor(base.with(axis, extent));
      parts.push_back(draw.coin() ? tape.watch(part) : Var<double>(part));
    }
    const auto whole = concat(parts, draw.coin() ? axis : axis - rank);
    REQUIRE(whole.shape() == base.with(axis, total));
    const auto dy = draw.tensor(whole.shape());
    if (whole.recorded()) tape.backward(whole, dy.clone());
    Index wrong = 0, begin = 0;
    for (const auto& part : parts) {
      const Index end = begin + part.dim(axis);
      CHECK(distance(slice(whole.value(), axis, begin, end).value(), part.value()) == 0);
      const auto dx = part.recorded() ? tape.gradient(part) : Tensor<double>();
      each(part.shape(), [&](At at, Index e) {
        at[static_cast<std::size_t>(axis)] += begin;
        Index to = 0;
        for (int i = 0; i < rank; ++i) to = to * whole.dim(i) + at[static_cast<std::size_t>(i)];
        wrong += whole.value().data()[to] != part.value().data()[e];
        if (dx.defined()) wrong += dx.data()[e] != dy.data()[to];
      });
      begin = end;
    }
    CHECK(wrong == 0);

    // The gradient of a slice: dy in place, 0 elsewhere.
    Tape second;
    const auto x = second.watch(whole.value());
    const Index from = draw.below(total + 1), to = from + draw.below(total - from + 1);
    const auto y = slice(x, axis, from, to);
    const auto g = draw.tensor(y.shape());
    second.backward(y, g.clone());
    const auto dx = second.gradient(x);
    Index at_g = 0;
    each(x.shape(), [&](const At& at, Index e) {
      const bool in = from <= at[static_cast<std::size_t>(axis)] && at[static_cast<std::size_t>(axis)] < to;
      wrong += dx.data()[e] != (in ? g.data()[at_g++] : 0.0);
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("pooling of random ragged batches") {
  for (std::uint64_t round = 0; round < 30; ++round) {
    CAPTURE(round);
    Draw draw{{.seed = 5, .step = static_cast<std::uint32_t>(round)}};
    std::vector<std::int32_t> lengths;
    for (Index i = 0, n = draw.below(6); i < n; ++i) lengths.push_back(static_cast<std::int32_t>(1 + draw.below(9)));
    const auto offsets = Offsets::of_lengths(lengths);
    const Index width = 1 + draw.below(40);
    const auto x = draw.tensor({offsets.tokens(), width});
    const auto first = first_rows(x, offsets).value(), average = mean_rows(x, offsets).value();
    REQUIRE(first.shape() == Shape{offsets.sequences(), width});
    for (Index s = 0; s < offsets.sequences(); ++s)
      for (Index j = 0; j < width; ++j) {
        double total = 0;
        for (Index r = offsets.begin(s); r < offsets.end(s); ++r) total += x.data()[r * width + j];
        CHECK(first.data()[s * width + j] == x.data()[offsets.begin(s) * width + j]);
        CHECK(average.data()[s * width + j] == doctest::Approx(total / static_cast<double>(offsets.length(s))));
      }
  }
}
