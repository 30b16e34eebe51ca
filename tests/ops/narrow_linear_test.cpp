// Weights that train and are multiplied in bf16: all three products against sums in double of what was rounded, panels
// that are made once a change, and the module that has them.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include <meft/nn/linear.hpp>
#include <meft/optim/adamw.hpp>

#include "tools.hpp"

using namespace meft;

namespace {

/// A linear layer that trains in bf16.
template <class T>
nn::Linear<T> make(Index in, Index out, std::uint32_t site) {
  auto layer = nn::Linear<T>::normal(in, out, {21, site, 0}, 1.0);
  fill_normal(layer.bias.value(), {21, site + 1, 0}, 1.0);
  layer.precision = Precision::bf16;
  layer.pack();
  return layer;
}

/// y and the gradients of x, weight and bias, for a gradient dy of y.
template <class T>
std::vector<std::vector<T>> results(const nn::Linear<T>& layer, const Tensor<T>& x, const Tensor<T>& dy) {
  auto weight = layer.weight, bias = layer.bias;
  weight.zero_gradient();
  bias.zero_gradient();
  Tape tape;
  const auto in = tape.watch(x);
  const auto y = layer(in);
  std::vector<std::vector<T>> out{y.value().values()};
  tape.backward(y, dy);
  out.push_back(tape.gradient(in).values());
  out.push_back(weight.gradient().values());
  out.push_back(bias.gradient().values());
  return out;
}

/// Sums of products and of their sizes, C[m, n] of A[m, k]·B[k, n] by element functions of what was rounded.
template <class A, class B>
void check_product(const std::vector<float>& found, Index m, Index n, Index k, const A& a, const B& b,
                   const std::vector<float>& start = {}) {
  REQUIRE(static_cast<Index>(found.size()) == m * n);
  double worst = 0;
  for (Index i = 0; i < m; ++i)
    for (Index j = 0; j < n; ++j) {
      const double first = start.empty() ? 0 : static_cast<double>(start[static_cast<std::size_t>(j)]);
      double sum = first, size = std::fabs(first);
      for (Index p = 0; p < k; ++p) {
        const double term = static_cast<double>(bf16(a(i, p))) * static_cast<double>(bf16(b(p, j)));
        sum += term, size += std::fabs(term);
      }
      // Products are exact in float. Higham, Accuracy and Stability of Numerical Algorithms, 4.2: k sums in any order.
      const double bound = static_cast<double>(k + 1) * 0x1p-24 * size;
      worst = std::max(worst, std::fabs(static_cast<double>(found[static_cast<std::size_t>(i * n + j)]) - sum) / bound);
    }
  CHECK(worst <= 1);
}

}  // namespace

TEST_CASE("narrow linear: result and gradients are those of operands rounded to bf16, summed in float") {
  for (const auto& size : {std::array<Index, 3>{3, 5, 7}, {70, 48, 33}, {500, 64, 96}}) {
    const Index rows = size[0], in = size[1], out = size[2];
    CAPTURE(rows);
    const auto layer = make<float>(in, out, 1);
    Tensor<float> x({rows, in}), dy({rows, out});
    fill_normal(x, {21, 3, 0}, 1.0);
    fill_normal(dy, {21, 4, 0}, 1.0);
    const auto all = results(layer, x, dy);
    const auto of = [](const Tensor<float>& t, Index width) {
      return [&t, width](Index i, Index j) { return t.data()[i * width + j]; };
    };
    const auto turned = [](const auto& f) { return [&f](Index i, Index j) { return f(j, i); }; };
    const auto &w = layer.weight.value(), &bias = layer.bias.value();
    const auto ws = of(w, in), xs = of(x, in), dys = of(dy, out);
    check_product(all[0], rows, out, in, xs, turned(ws), bias.values());
    check_product(all[1], rows, in, out, dys, ws);
    check_product(all[2], out, in, rows, turned(dys), xs);
    for (Index j = 0; j < out; ++j) {  // in float
      double sum = 0;
      for (Index i = 0; i < rows; ++i) sum += static_cast<double>(dys(i, j));
      CHECK(static_cast<double>(all[3][static_cast<std::size_t>(j)]) == doctest::Approx(sum).epsilon(1e-4));
    }
    // As one op with an activation: its bits are those of the two.
    CHECK(layer.activated(x, Activation::gelu).value().values() == gelu(layer(x)).value().values());
    set_threads(2);
    CHECK(results(layer, x, dy) == all);
    set_threads(1);
  }
}

TEST_CASE("narrow linear: in double both sides are rounded too") {
  const auto layer = make<double>(6, 4, 5);
  Tensor<double> x({3, 6}), dy({3, 4});
  fill_normal(x, {21, 6, 0}, 1.0);
  fill_normal(dy, {21, 7, 0}, 1.0);
  const auto round = [](const Tensor<double>& t) {
    auto out = t.clone();
    for (Index i = 0; i < t.size(); ++i) out.data()[i] = static_cast<double>(bf16(static_cast<float>(t.data()[i])));
    return out;
  };
  auto plain = layer;
  plain.weight = Parameter<double>(round(layer.weight.value()));
  plain.narrowed = {};
  const auto found = results(layer, x, dy), of_x = results(plain, round(x), dy), of_dy = results(plain, x, round(dy)),
             of_both = results(plain, round(x), round(dy));
  CHECK(found[0] == of_x[0]);
  CHECK(found[1] == of_dy[1]);
  CHECK(found[2] == of_both[2]);
  CHECK(found[3] == of_x[3]);
}

TEST_CASE("narrow linear: panels are made once a change of the weight, and follow each") {
  Tensor<float> w({20, 9});
  fill_normal(w, {21, 8, 0}, 1.0);
  Narrowed<float> narrowed(w);
  const auto first = narrowed.of(w);
  const auto fresh = [&] { return PackedWeight<float>(w, Precision::bf16).unpack().values(); };
  CHECK(first.unpack().values() == fresh());
  first.write({}, Tensor<float>::zeros({20, 9}));
  CHECK(narrowed.of(w).unpack().values() == std::vector<float>(180));  // nothing was packed
  for (int i = 0; i < 2; ++i) {
    w.data()[3] = static_cast<float>(5 + i);
    CHECK(narrowed.of(w).unpack().values() == fresh());
  }
  w = Tensor<float>::full({20, 9}, 2);
  CHECK(narrowed.of(w).unpack().values() == fresh());
  for (int i = 3; i < 6; ++i) {  // new weights, where old ones may have been
    w = {};
    w = Tensor<float>::full({20, 9}, static_cast<float>(i));
    w.keep_time();
    CHECK(narrowed.of(w).unpack().values() == fresh());
  }
  w = Tensor<float>::full({33, 9}, 2);
  CHECK(narrowed.of(w).unpack().values() == fresh());
}

TEST_CASE("narrow linear: steps change what is multiplied; a step between the passes is an Error") {
  auto layer = make<float>(8, 5, 9);
  Tensor<float> x({4, 8}), dy({4, 5});
  fill_normal(x, {21, 10, 0}, 1.0);
  fill_normal(dy, {21, 11, 0}, 1.0);
  auto optimizer = optim::AdamW{.rate = 0.1}.over<float>(layer);
  for (int i = 0; i < 3; ++i) {
    (void)results(layer, x, dy);
    optimizer.step();
    auto fresh = layer;
    fresh.narrowed = std::make_shared<Narrowed<float>>(std::as_const(layer.weight).value());
    CHECK(layer(x).value().values() == fresh(x).value().values());
  }
  {
    Tape tape;
    const auto y = layer(tape.watch(x));
    optimizer.step();
    CHECK(test::message_of([&] { tape.backward(y, dy); }).find("was changed between") != std::string::npos);
  }
  // What is frozen later, or is read with noise on it, is multiplied in float.
  const auto rounded = layer(x).value().values();
  layer.weight.set_trainable(false);
  CHECK(layer(x).value().values() == linear(x, layer.weight.value(), layer.bias.value()).value().values());
  CHECK(layer(x).value().values() != rounded);
}
