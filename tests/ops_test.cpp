// Single ops beyond their lines in cases.hpp: what they keep, edge values, and the texts of errors.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>
#include <meft/ops/softmax.hpp>

#include "tools.hpp"

using namespace meft;
using namespace meft::test;

TEST_CASE("an op keeps only what the inputs that need a gradient ask for") {
  Cpu::pool().set_caching(false);
  const auto x = random_tensor<float>({64}, 1), w = random_tensor<float>({64}, 2);
  const auto kept = [&](auto f) {
    Tape tape;
    const std::size_t before = Cpu::pool().read().total;
    f(tape);
    return Cpu::pool().read().total - before;
  };
  // A constant operand is alive anyway: only the other one would be extra.
  CHECK(kept([&](Tape& tape) { mul(tape.watch(x.clone()), w); }) == 0);
  CHECK(kept([&](Tape& tape) { div(tape.watch(x.clone()), w); }) == 0);
  CHECK(kept([&](Tape& tape) { div(x, tape.watch(w.clone())); }) == 2 * block(64));
  const auto gamma = random_tensor<float>({8}, 3), beta = random_tensor<float>({8}, 4);
  const auto h = random_tensor<float>({8, 8}, 5);
  CHECK(kept([&](Tape& tape) { layer_norm(h, gamma, tape.watch(beta.clone())); }) == 0);
  CHECK(kept([&](Tape& tape) { layer_norm(h, tape.watch(gamma.clone()), beta); }) == 2 * block(8));
  CHECK(kept([&](Tape& tape) { layer_norm(tape.watch(h.clone()), gamma, beta); }) == block(64) + 2 * block(8));
  CHECK(kept([&](Tape&) { layer_norm(h, gamma, beta); }) == 0);
  Cpu::pool().set_caching(true);
}

TEST_CASE("dropout follows its key") {
  const auto x = Var<float>(random_tensor<float>({60, 100}, 1, 1, 2));
  const Key key{.seed = 5, .site = 6, .step = 7};
  for (double p : {0.1, 0.5, 0.9}) {
    CAPTURE(p);
    for (std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}, (std::uint64_t{1} << 34) + 1}) {
      const auto y = dropout(x, p, key, first).value();
      Index wrong = 0, kept = 0;
      for (Index i = 0; i < y.size(); ++i) {
        const bool keep = random_bits(key, first + static_cast<std::uint64_t>(i)) >= p * 0x1p32;
        kept += keep;
        wrong += y.data()[i] != (keep ? x.value().data()[i] * static_cast<float>(1 / (1 - p)) : 0.0f);
      }
      CHECK(wrong == 0);
      CHECK(std::abs(static_cast<double>(kept) / 6000 - (1 - p)) < 0.03);
    }
  }
  // A slice of rows drops what the whole drops.
  const auto whole = dropout(x, 0.3, key).value();
  const auto part = dropout(Var<float>(x.value().rows(17, 42)), 0.3, key, 1700).value();
  CHECK(part.values() == whole.rows(17, 42).values());

  CHECK(dropout(x, 0, key).value().same(x.value()));
  const float infinity = std::numeric_limits<float>::infinity();
  for (float v : dropout(Tensor<float>::full({100}, infinity), 0.5, key).value().values())
    CHECK((v == 0 || v == infinity));
  CHECK(message_of([&] { dropout(x, 1, key); }).starts_with("dropout: p is not in [0, 1): 1.0"));
  CHECK(message_of([&] { dropout(x, std::nan(""), key); }).starts_with("dropout: p is not in [0, 1)"));
}

TEST_CASE("an activation with dropout is both, one after the other") {
  const auto x = random_tensor<float>({60, 101}, 1, 1, 2);
  const Key key{.seed = 5, .site = 6, .step = 7};
  for (const auto activation :
       {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::tanh}) {
    CAPTURE(static_cast<int>(activation));
    for (const double p : {0.0, 0.3}) {
      const auto both = [&](const auto& op) {
        Tape tape;
        const auto in = tape.watch(x.clone()), out = op(in);
        tape.backward(out, x);
        return std::pair(out.value().values(), tape.gradient(in).values());
      };
      const auto fused = both([&](const Var<float>& in) { return activate_dropout(in, activation, p, key, 3); });
      const auto apart = both([&](const Var<float>& in) { return dropout(activate(in, activation), p, key, 3); });
      CHECK(fused.first == apart.first);
      for (std::size_t i = 0; i < apart.second.size(); ++i)
        REQUIRE(std::abs(fused.second[i] - apart.second[i]) < 1e-6f);
    }
  }
  CHECK(message_of([&] {
          activate_dropout(Var<float>(x), Activation::relu, -0.1, key);
        }).starts_with("activate_dropout: p is not in [0, 1)"));
}

TEST_CASE("cross entropy: ignored rows, large logits") {
  const auto logits = Tensor<double>::from({3, 3}, {1, 2, 3, 1e4, -1e4, 0, 5, 5, 5});
  const auto labels = Tensor<std::int32_t>::from({3}, {2, 1, -100});
  const double first = std::log(1 + std::exp(-1.0) + std::exp(-2.0));
  Tape tape;
  const auto x = tape.watch(logits);
  const auto y = cross_entropy(x, labels);
  CHECK(y.value().item() == doctest::Approx((first + 2e4) / 2).epsilon(1e-14));
  tape.backward(y);
  const auto g = tape.gradient(x).values();
  CHECK(g[3] == doctest::Approx(0.5));
  CHECK(g[4] == doctest::Approx(-0.5));
  CHECK((g[6] == 0 && g[7] == 0 && g[8] == 0));
  CHECK(cross_entropy(logits, Tensor<std::int32_t>::from({3}, {0, 7, 0}), 7).value().shape() == Shape{});
  CHECK(message_of([&] {
          cross_entropy(logits, Tensor<std::int32_t>::from({3}, {0, 3, 0}));
        }) == "cross_entropy: a label outside the classes: a is [3, 3], position 1, label 3");
  CHECK(message_of([&] {
          cross_entropy(logits, Tensor<std::int32_t>::from({3}, {0, 2, -1}));
        }) == "cross_entropy: a label outside the classes: a is [3, 3], position 2, label -1");
  CHECK(message_of([&] { cross_entropy(logits, Tensor<std::int32_t>::full({3}, -100)); }) ==
        "cross_entropy: no row counts: a is [3, 3], ignored label -100");
}

TEST_CASE("max: the first of equal elements gets the gradient, a NaN wins") {
  Tape tape;
  const auto x = tape.watch(Tensor<float>::from({2, 3}, {4, 7, 7, 2, std::nanf(""), 3}));
  const auto y = max(x, {.axes = {1}});
  CHECK(y.value().data()[0] == 7);
  CHECK(std::isnan(y.value().data()[1]));
  tape.backward(y, Tensor<float>::from({2}, {10, 20}));
  CHECK(tape.gradient(x).values() == std::vector<float>{0, 10, 0, 0, 20, 0});
}

TEST_CASE("operands: parameters, tensors and numbers mix") {
  const Parameter<float> p(Tensor<float>::from({2}, {3, 4}));
  const auto t = Tensor<float>::from({2}, {1, 2});
  CHECK((p * t + 1).value().values() == std::vector<float>{4, 9});
  CHECK((1.0 - t / 2).value().values() == std::vector<float>{0.5, 0});
  Tape tape;
  tape.backward(sum(-(p * p) * t));
  CHECK(p.gradient().values() == std::vector<float>{-6, -16});
}

TEST_CASE("errors name the op, what differs, and the caller's line") {
  const Var<float> x(Tensor<float>::zeros({2, 3})), y(Tensor<float>::zeros({4, 5})), v(Tensor<float>::zeros({3}));
  const auto ids = Tensor<std::int32_t>::from({3}, {0, 1, 2});
  const auto empty = Offsets(std::vector<std::int32_t>{0, 2, 2});
  CHECK(message_of([&] { add(x, y); }) == "add: broadcast: extents differ and neither is 1: a is [2, 3], b is [4, 5]");
  CHECK(message_of([&] { matmul(x, y); }) == "matmul: inner dimensions differ: a is [2, 3], b is [4, 5]");
  CHECK(message_of([&] { softmax(x, 2); }) == "softmax: no such axis: a is [2, 3], 2");
  CHECK(message_of([&] { layer_norm(y, v, v); }) ==
        "layer_norm: gamma differs from the last axis: a is [4, 5], b is [3]");
  CHECK(message_of([&] { sum(x, {.axes = {2}}); }) == "sum: no such axis: a is [2, 3], 2");
  CHECK(message_of([&] { mean(x, {.axes = {1, -1}}); }) == "mean: an axis is named twice: a is [2, 3], -1");
  CHECK(message_of([&] { max(Tensor<float>::zeros({0, 2})); }) == "max: of no elements: a is [0, 2]");
  CHECK(message_of([&] { mean(Tensor<float>::zeros({0, 2}), {.axes = {0}}); }) == "mean: of no elements: a is [0, 2]");
  CHECK(message_of([&] { reshape(x, {4, 2}); }) == "reshape: sizes differ: a is [2, 3], b is [4, 2]");
  CHECK(message_of([&] { reshape(x, {4, -1}); }) == "reshape: sizes differ: a is [2, 3], b is [4, 1]");
  CHECK(message_of([&] { transpose(x, 0, 2); }) == "transpose: no such axis: a is [2, 3], 2");
  CHECK(message_of([&] { permute(x, {0, 0}); }) == "transpose: an axis is named twice: a is [2, 3], 0");
  CHECK(message_of([&] { permute(x, {0}); }) == "transpose: the order does not name every axis: a is [2, 3], 1");
  CHECK(message_of([&] { slice(x, 1, 2, 4); }) == "slice: outside the axis: a is [2, 3], 1, 2, 4");
  CHECK(message_of([&] { concat({x, y}, 0); }) == "concat: shapes differ besides the axis: a is [2, 3], b is [4, 5]");
  CHECK(message_of([&] { concat(std::vector<Var<float>>{}); }) == "concat: an empty list");
  CHECK(message_of([&] { gather(x, ids); }) == "gather: no such row: a is [2, 3], position 2, row 2");
  CHECK(message_of([&] { embedding(x, ids); }) == "embedding: an id outside the table: a is [2, 3], position 2, id 2");
  CHECK(message_of([&] { first_rows(x, empty); }) == "first_rows: an empty sequence: sequence 1");
  CHECK(message_of([&] { mean_rows(y, empty); }) ==
        "mean_rows: rows and offsets differ: a is [4, 5], offsets end at 2");
  CHECK(message_of([&] { mse(x, y); }) == "mse: shapes differ: a is [2, 3], b is [4, 5]");
  CHECK(message_of([&] { cross_entropy(x, ids); }) == "cross_entropy: numbers of rows differ: a is [2, 3], b is [3]");
  try {
    mul(x, y);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).ends_with("(ops_test.cpp:" + std::to_string(__LINE__ - 3) + ")"));
  }
}
