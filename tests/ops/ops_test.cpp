// Single ops beyond their lines in cases.hpp: what they keep, edge values, and the texts of errors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <meft/ops/arithmetic.hpp>
#include <meft/ops/attention.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/gated.hpp>
#include <meft/ops/language.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/prefix_attention.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/residual.hpp>
#include <meft/ops/rotary.hpp>
#include <meft/ops/scaled_activation.hpp>
#include <meft/ops/shape.hpp>
#include <meft/ops/softmax.hpp>
#include <meft/ops/sparse_linear.hpp>

#include "tools.hpp"

using namespace meft;
using namespace meft::test;

namespace {

const float not_a_number = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();

bool every_nan(const Tensor<float>& x) {
  for (const float v : x.values())
    if (!std::isnan(v)) return false;
  return true;
}
bool every_finite(const Tensor<float>& x) {
  for (const float v : x.values())
    if (!std::isfinite(v)) return false;
  return true;
}
bool every_zero(const Tensor<float>& x) {
  for (const float v : x.values())
    if (v != 0) return false;
  return true;
}

/// Leaves blocks that hold no zeros in the pool.
void dirty() {
  std::vector<Tensor<float>> junk;
  for (Index n = 1; n < 300; n += 7) junk.push_back(Tensor<float>::full({n}, 7));
}

/// Attention and its gradients by their formulas, one score after the other.
struct PlainAttention {
  std::vector<double> out, dq, dk, dv, dbias;

  PlainAttention(const Attention& a, const Tensor<double>& q, const Tensor<double>& k, const Tensor<double>& v,
                 const Tensor<double>& bias, const Tensor<double>& dout)
      : out(static_cast<std::size_t>(q.size())),
        dq(out),
        dk(static_cast<std::size_t>(k.size())),
        dv(dk),
        dbias(static_cast<std::size_t>(bias.size())) {
    const Index reach = bias.dim(1) / 2;
    const Index row = q.dim(1), width = row / a.heads;
    const double scale = a.scale != 0 ? a.scale : 1 / std::sqrt(static_cast<double>(width));
    const auto at = [&](Index r, Index head, Index j) { return static_cast<std::size_t>(r * row + head * width + j); };
    for (Index s = 0; s < a.queries.sequences(); ++s)
      for (Index head = 0; head < a.heads; ++head)
        for (Index i = 0; i < a.queries.length(s); ++i) {
          const Index keys = a.keys.length(s), from = a.keys.begin(s), r = a.queries.begin(s) + i;
          const Index place = i + keys - a.queries.length(s);
          const Index seen = a.causal   ? std::clamp<Index>(place + 1, 0, keys)
                             : a.window ? std::clamp<Index>(place + a.window, 0, keys)
                                        : keys;
          const auto hidden = [&](std::size_t j) { return a.window && static_cast<Index>(j) + a.window <= place; };
          const auto distance = [&](std::size_t j) {
            return static_cast<std::size_t>(head * bias.dim(1) + reach +
                                            std::clamp<Index>(static_cast<Index>(j) - place, -reach, reach));
          };
          std::vector<double> p(static_cast<std::size_t>(seen)), m(p), dp(p);
          double total = 0, mean = 0;
          for (std::size_t j = 0; j < p.size(); ++j) {
            for (Index c = 0; c < width; ++c)
              p[j] += scale * q.data()[at(r, head, c)] * k.data()[at(from + static_cast<Index>(j), head, c)];
            total += p[j] = hidden(j) ? 0 : std::exp(p[j] + bias.data()[distance(j)]);
            const auto element = (static_cast<std::uint64_t>((a.first_row + r) * a.heads + head) << 24) + j;
            const double drop = static_cast<double>(a.dropout);
            m[j] = drop == 0                                       ? 1
                   : dropout_bits(a.key, element) >= drop * 0x1p16 ? 0x1p16 / (0x1p16 - std::ceil(drop * 0x1p16))
                                                                   : 0;
          }
          for (std::size_t j = 0; j < p.size(); ++j) {
            p[j] = total > 0 ? p[j] / total : 0;
            for (Index c = 0; c < width; ++c) {
              const auto to = at(from + static_cast<Index>(j), head, c), here = at(r, head, c);
              out[here] += p[j] * m[j] * v.data()[to];
              dp[j] += m[j] * dout.data()[here] * v.data()[to];
              dv[to] += p[j] * m[j] * dout.data()[here];
            }
            mean += p[j] * dp[j];
          }
          for (std::size_t j = 0; j < p.size(); ++j) {
            const double ds = p[j] * (dp[j] - mean);
            dbias[distance(j)] += ds;
            for (Index c = 0; c < width; ++c) {
              const auto to = at(from + static_cast<Index>(j), head, c), here = at(r, head, c);
              dq[here] += scale * ds * k.data()[to];
              dk[to] += scale * ds * q.data()[here];
            }
          }
        }
  }
};

}  // namespace

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
  CHECK(kept([&](Tape& tape) { rms_norm(h, tape.watch(gamma.clone())); }) == block(8));
  CHECK(kept([&](Tape& tape) { rms_norm(tape.watch(h.clone()), gamma); }) == block(64) + block(8));
  CHECK(kept([&](Tape& tape) { gated(h, tape.watch(h.clone()), Activation::silu); }) == 0);
  CHECK(kept([&](Tape& tape) { gated(tape.watch(h.clone()), h, Activation::silu); }) == block(64));
  Cpu::pool().set_caching(true);
}

TEST_CASE("dropout follows its key") {
  const auto x = Var<float>(random_tensor<float>({60, 100}, 1, 1, 2));
  const Key key{.seed = 5, .site = 6, .step = 7};
  for (double p : {0.1, 0.5, 0.9}) {
    CAPTURE(p);
    const auto scale = static_cast<float>(0x1p16 / (0x1p16 - std::ceil(p * 0x1p16)));  // the mean stays
    for (std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}, (std::uint64_t{1} << 34) + 1}) {
      const auto y = dropout(x, p, key, first).value();
      Index wrong = 0, kept = 0;
      for (Index i = 0; i < y.size(); ++i) {
        const bool keep = dropout_bits(key, first + static_cast<std::uint64_t>(i)) >= p * 0x1p16;
        kept += keep;
        wrong += y.data()[i] != (keep ? x.value().data()[i] * scale : 0.0f);
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

TEST_CASE("log softmax and the gradients of cross entropy do not hang on how large logits are") {
  const Index n = 40;
  auto near = random_tensor<float>({3, n}, 31);
  for (Index i = 0; i < near.size(); ++i) near.data()[i] = std::rint(near.data()[i] * 16);
  auto far = near.clone();
  for (Index i = 0; i < near.size(); ++i) far.data()[i] += 1e5f;  // exact
  const auto labels = Tensor<std::int32_t>::from({3}, {0, 39, 7});
  CHECK(log_softmax(near).value().values() == log_softmax(far).value().values());
  Tape tape;
  const auto a = tape.watch(near), b = tape.watch(far);
  tape.backward(cross_entropy(a, labels));
  tape.backward(cross_entropy(b, labels));
  CHECK(tape.gradient(a).values() == tape.gradient(b).values());
  // Through the identity, and a bias.
  auto one = Tensor<float>::zeros({n, n});
  for (Index i = 0; i < n; ++i) one.data()[i * (n + 1)] = 1;
  const auto with = [&](const auto& loss) {
    const auto x = tape.watch(near);
    tape.backward(sum(loss(x, Tensor<float>::zeros({n}))));
    const auto y = tape.watch(near);
    tape.backward(sum(loss(y, Tensor<float>::full({n}, 1e5f))));
    CHECK(tape.gradient(x).values() == tape.gradient(y).values());
  };
  with([&](const auto& x, const auto& bias) { return linear_cross_entropy(x, one, bias, labels); });
  with([&](const auto& x, const auto& bias) { return token_log_likelihood(x, one, bias, labels); });
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

TEST_CASE("cross entropy of words in several chunks of rows is that of their logits, with its gradients") {
  constexpr Index rows = 2500, words = 5, width = 3;
  const auto x = random_tensor<double>({rows, width}, 1), w = random_tensor<double>({words, width}, 2),
             b = random_tensor<double>({words}, 3), dy = random_tensor<double>({rows}, 4);
  std::vector<std::int32_t> list;
  for (Index i = 0; i < rows; ++i) list.push_back(i % 7 == 3 ? -100 : static_cast<std::int32_t>(i * i % words));
  const auto labels = Tensor<std::int32_t>::from({rows}, list);
  Tensor<double> chosen({rows, words});  // dy where the label is, of the rows that count
  chosen.zero();
  for (Index i = 0; i < rows; ++i)
    if (list[static_cast<std::size_t>(i)] >= 0)
      chosen.data()[i * words + list[static_cast<std::size_t>(i)]] = dy.data()[i];
  const auto run = [&](bool biased, const auto& f, const Tensor<double>& gradient) {
    Tape tape;
    const auto vx = tape.watch(x), vw = tape.watch(w), vb = tape.watch(b);
    const auto y = f(vx, vw, biased ? vb : Var<double>());
    tape.backward(y, gradient.clone());
    std::vector<double> out;
    for (const auto& d : {tape.gradient(vx), tape.gradient(vw), biased ? tape.gradient(vb) : Tensor<double>()})
      if (d.defined()) {
        const auto values = d.values();
        out.insert(out.end(), values.begin(), values.end());
      }
    if (y.size() == 1) out.push_back(y.value().item());
    return out;
  };
  const auto same = [](const std::vector<double>& found, const std::vector<double>& expected) {
    REQUIRE(found.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) worst = std::max(worst, std::abs(found[i] - expected[i]));
    CHECK(worst < 1e-9);
  };
  const auto one = Tensor<double>::full(Shape{}, 1);
  for (const bool biased : {false, true}) {
    CAPTURE(biased);
    same(run(
             biased, [&](auto& x, auto& w, const auto& b) { return linear_cross_entropy(x, w, b, labels); }, one),
         run(
             biased, [&](auto& x, auto& w, const auto& b) { return cross_entropy(linear(x, w, b), labels); }, one));
    same(run(
             biased, [&](auto& x, auto& w, const auto& b) { return token_log_likelihood(x, w, b, labels); }, dy),
         run(
             biased, [&](auto& x, auto& w, const auto& b) { return log_softmax(linear(x, w, b)); }, chosen));
    const auto found = label_log_likelihood(x, w, biased ? b : Tensor<double>(), labels).values();
    const auto all = log_softmax(biased ? linear(x, w, b) : linear(x, w)).value().values();
    std::vector<double> expected;
    for (std::size_t i = 0; i < list.size(); ++i)
      expected.push_back(list[i] < 0 ? 0 : all[i * words + static_cast<std::size_t>(list[i])]);
    same(found, expected);
  }
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
  const auto square = Tensor<std::int32_t>::zeros({2, 2});
  CHECK(contains(message_of([&] { embedding(x, square); }), "embedding: expected a table [v, h] and ids [n]"));
  for (const auto precision : {Precision::f32, Precision::nf4})
    CHECK(contains(message_of([&] { embedding(PackedWeight<float>(x.value(), precision), square); }),
                   "expected a table [v, h]"));
  CHECK(contains(message_of([&] { linear(x, PackedWeight<float>()); }), "a packed weight that was default-made"));
  CHECK(contains(message_of([&] { activate(x, static_cast<Activation>(99)); }), "no such value: 99"));
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

TEST_CASE("errors: shapes and options that an op does not take") {
  const Var<float> x(Tensor<float>::zeros({2, 4})), y(Tensor<float>::zeros({2, 6})), v(Tensor<float>::zeros({3})),
      w(Tensor<float>::zeros({3, 4}));
  const auto labels = Tensor<std::int32_t>::from({2}, {0, 1}), one = Tensor<std::int32_t>::from({1}, {0});
  const auto attend = [&](const auto& q, const auto& k, const auto& v, auto change) {
    Attention spec{.queries = Offsets({0, 2}), .keys = Offsets({0, 2}), .heads = 2};
    change(spec);
    return message_of([&] { attention(q, k, v, spec); });
  };
  const auto same = [](Attention&) {};
  CHECK(attend(x, x, x, same) == "no error");
  CHECK(attend(x, x, y, same).starts_with("attention: q, k and v are not alike"));
  CHECK(attend(x, y, y, same).starts_with("attention: q, k and v are not alike"));
  CHECK(attend(v, x, x, same).starts_with("attention: q, k and v are not alike"));
  CHECK(attend(x, x, x, [](Attention& a) { a.dropout = 1; }).starts_with("attention: a dropout outside [0, 1): 1"));
  CHECK(attend(x, x, x, [](Attention& a) { a.dropout = -0.5f; }).starts_with("attention: a dropout outside [0, 1)"));
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)})
    CHECK(attend(x, x, x, [&](Attention& a) { a.scale = bad; }).starts_with("attention: expected a finite scale"));
  CHECK(attend(x, x, x, [](Attention& a) { a.window = -1; }) == "attention: a window less than 0: -1");
  CHECK(message_of([&] { gated(x, y, Activation::silu); }) ==
        "gated: the shapes of gate and gated differ: a is [2, 4], b is [2, 6]");
  CHECK(message_of([&] { linear(x, w, x); }).starts_with("linear: the bias has not one element a row of b"));
  CHECK(message_of([&] {
          linear(x, PackedWeight<float>(w.value()), x);
        }).starts_with("linear: the bias has not one element a row of b"));
  CHECK(message_of([&] { matmul(v, v); }) == "matmul: ranks differ or are below 2: a is [3], b is [3]");
  CHECK(message_of([&] { matmul(x, v); }).starts_with("matmul: ranks differ or are below 2"));
  CHECK(message_of([&] { gram(v); }) == "gram: the rank is below 2: a is [3]");
  CHECK(message_of([&] { first_rows(v, Offsets({0, 3})); }) == "first_rows: expected [tokens, h]: a is [3]");
  CHECK(message_of([&] {
          gather(x, Tensor<std::int32_t>::zeros({1, 2}));
        }).starts_with("gather: rows are not one list of rows of a table"));
  for (const auto& loss : std::vector<
           std::function<void(const Var<float>&, const Var<float>&, const Var<float>&, const Tensor<std::int32_t>&)>>{
           [](auto&x, auto&w, auto&b, auto&labels) { linear_cross_entropy(x, w, b, labels); },
           [](auto&x, auto&w, auto&b, auto&labels) { token_log_likelihood(x, w, b, labels); },
           [](auto&x, auto&w, auto&b, auto&labels) {
             (void)label_log_likelihood(x.value(), w.value(), b.value(), labels);
           }}) {
    CHECK(message_of([&] { loss(x, w, v, labels); }) == "no error");
    CHECK(message_of([&] { loss(y, w, v, labels); }).find(": expected x [n, h] and w [words, h]") != std::string::npos);
    CHECK(message_of([&] { loss(x, w, x, labels); }).find(": the bias has not one element a word") !=
          std::string::npos);
    CHECK(message_of([&] { loss(x, w, v, one); }).find(": not one label a row") != std::string::npos);
  }
  CHECK(message_of([&] {
          sparse_linear(x, PackedWeight<float>(w.value()), labels, v, v);
        }).starts_with("linear: the trained values are not as many as the indices"));
}

TEST_CASE("sparse_linear: chosen values that were changed before the backward pass are told") {
  const auto w = random_tensor<float>({3, 4}, 1);
  PackedWeight<float> packed(w);
  const auto indices = Tensor<std::int32_t>::from({2}, {1, 6});
  Parameter<float> values(Tensor<float>::from({2}, {w.data()[1], w.data()[6]}));
  Tape tape;
  const auto x = tape.watch(random_tensor<float>({5, 4}, 2));
  const auto loss = sum(sparse_linear(x, packed, indices, values, Tensor<float>()));
  values.value().data()[0] = 100;
  packed.write(indices, values.value());
  CHECK(message_of([&] { tape.backward(loss); }).find("a parameter was changed between") != std::string::npos);
}

TEST_CASE("prefix_attention: a part without a key is refused") {
  const auto rows = [](Index n, std::uint32_t seed) { return random_tensor<double>({n, 4}, seed); };
  const auto error = [&](Index prefix, Index keys, Index window) {
    Attention spec;
    spec.heads = spec.key_heads = 1;
    spec.queries = Offsets({0, 5}), spec.keys = Offsets({0, static_cast<std::int32_t>(keys)});
    spec.causal = false, spec.window = window;
    return message_of([&] {
      (void)prefix_attention(rows(5, 1), rows(keys, 2), rows(keys, 3), rows(prefix, 4), rows(prefix, 5), spec);
    });
  };
  CHECK(error(2, 5, 0) == "no error");
  CHECK(error(2, 1, 0) == "no error");
  CHECK(error(2, 3, 3) == "no error");
  CHECK(error(0, 5, 0).starts_with("prefix_attention: the prefix has no rows"));
  CHECK(error(2, 1, 1).starts_with("prefix_attention: a query without a key of its own"));
  CHECK(error(2, 2, 3).starts_with("prefix_attention: a query without a key of its own"));
}

TEST_CASE("pooling and positions: numbers that no sequence has are refused") {
  const auto x = random_tensor<float>({3, 2}, 1);
  CHECK(message_of([&] { (void)mean_rows(x, Offsets({0, 3}), -1); }).starts_with("mean_rows: expected rows to skip"));
  CHECK(message_of([&] {
          (void)positions<Cpu>(Offsets({0, 1, 3}), 0, Offsets({0, 2}));
        }).starts_with("positions: expected as many sequences with earlier tokens"));
}

TEST_CASE(
    "attention is its formula: causal or not, windows, relative position, more or fewer keys than queries, tiles' "
    "ends, dropout") {
  const std::vector<std::int32_t> queries{5, 3, 0, 4, 97, 70, 1, 96, 2}, keys{3, 5, 4, 0, 65, 129, 1, 64, 2};
  const auto of = [](const std::vector<std::int32_t>& lengths) { return Offsets::of_lengths(lengths); };
  const Index tokens = of(queries).tokens(), memory = of(keys).tokens();
  const auto q = random_tensor<double>({tokens, 6}, 1), k = random_tensor<double>({memory, 6}, 2),
             v = random_tensor<double>({memory, 6}, 3), dout = random_tensor<double>({tokens, 6}, 4),
             bias = random_tensor<double>({2, 2 * 40 + 1}, 5), none = Tensor<double>::zeros({2, 1});
  const auto single = [](const Tensor<double>& x) {
    const auto values = x.values();
    return Tensor<float>::from(x.shape(), std::vector<float>(values.begin(), values.end()));
  };
  const auto worst = [](const auto& found, const std::vector<double>& expected) {
    const auto values = found.values();
    REQUIRE(values.size() == expected.size());
    double out = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      out = std::max(out, std::abs(static_cast<double>(values[i]) - expected[i]));
    return out;
  };
  for (const bool causal : {false, true})
    for (const float dropout : {0.0f, 0.3f}) {
      CAPTURE(causal);
      CAPTURE(dropout);
      const bool biased = causal == (dropout > 0);
      const Attention spec{.queries = of(queries),
                           .keys = of(keys),
                           .heads = 2,
                           .causal = causal,
                           .scale = dropout > 0 ? 0.7 : 0.0,
                           .dropout = dropout,
                           .key = {5, 6, 7},
                           .first_row = 11,
                           .window = dropout > 0 ? 20 : 0};
      const PlainAttention plain(spec, q, k, v, biased ? bias : none, dout);
      const auto check = [&](const auto& a, const auto& b, const auto& c, const auto& d, const auto& e, double bound) {
        Tape tape;
        const auto x = tape.watch(a), y = tape.watch(b), z = tape.watch(c), r = tape.watch(e);
        const auto out = biased ? attention(x, y, z, r, spec) : attention(x, y, z, spec);
        tape.backward(out, d);
        if (biased) CHECK(worst(tape.gradient(r), plain.dbias) < 4 * bound);
        CHECK(worst(out.value(), plain.out) < bound);
        CHECK(worst(tape.gradient(x), plain.dq) < bound);
        CHECK(worst(tape.gradient(y), plain.dk) < bound);
        CHECK(worst(tape.gradient(z), plain.dv) < bound);
      };
      check(q, k, v, dout, bias, 1e-6);  // our exp and log
      check(single(q), single(k), single(v), single(dout), single(bias), 2e-5);
    }
}

TEST_CASE("attention is its formula in several blocks of queries, with heads wider than a panel has room for") {
  struct Case {
    std::int32_t queries, keys;
    Index heads, width;
    Index window;
  };
  for (const Case& one : {Case{500, 470, 2, 3, 0}, Case{470, 500, 1, 4, 30}, Case{110, 70, 1, 72, 0},
                          Case{200, 90, 1, 130, 0}, Case{100, 70, 1, 300, 20}})
    for (const bool causal : {false, true}) {
      CAPTURE(one.queries);
      CAPTURE(causal);
      const Index row = one.heads * one.width;
      const auto q = random_tensor<double>({one.queries, row}, 1), k = random_tensor<double>({one.keys, row}, 2),
                 v = random_tensor<double>({one.keys, row}, 3), dout = random_tensor<double>({one.queries, row}, 4),
                 none = Tensor<double>::zeros({one.heads, 1});
      const Attention spec{.queries = Offsets({0, one.queries}),
                           .keys = Offsets({0, one.keys}),
                           .heads = one.heads,
                           .causal = causal,
                           .window = one.window};
      const PlainAttention plain(spec, q, k, v, none, dout);
      const auto single = [](const Tensor<double>& x) {
        const auto values = x.values();
        return Tensor<float>::from(x.shape(), std::vector<float>(values.begin(), values.end()));
      };
      Tape tape;
      const auto x = tape.watch(single(q)), y = tape.watch(single(k)), z = tape.watch(single(v));
      const auto out = attention(x, y, z, spec);
      tape.backward(out, single(dout));
      const auto near = [](const Tensor<float>& found, const std::vector<double>& expected) {
        double worst = 0;
        for (std::size_t i = 0; i < expected.size(); ++i)
          worst = std::max(worst, std::abs(static_cast<double>(found.data()[i]) - expected[i]));
        CHECK(worst < 5e-5);
      };
      near(out.value(), plain.out);
      near(tape.gradient(x), plain.dq);
      near(tape.gradient(y), plain.dk);
      near(tape.gradient(z), plain.dv);
    }
}

TEST_CASE("grouped queries are attention with repeated keys and values, to the bit, whose gradients are added up") {
  constexpr Index heads = 6, key_heads = 2, width = 4, tokens = 150;
  const auto offsets = Offsets({0, 20, 150});
  const auto q = random_tensor<float>({tokens, heads * width}, 1),
             k = random_tensor<float>({tokens, key_heads * width}, 2),
             v = random_tensor<float>({tokens, key_heads * width}, 3), dout = random_tensor<float>(q.shape(), 4);
  const auto repeated = [&](const Tensor<float>& x) {
    Tensor<float> out(q.shape());
    for (Index r = 0; r < tokens * heads; ++r)
      for (Index j = 0; j < width; ++j)
        out.data()[r * width + j] = x.data()[(r / heads * key_heads + r % heads / 3) * width + j];
    return out;
  };
  const auto run = [&](const Tensor<float>& keys, const Tensor<float>& values, Index of_keys) {
    Tape tape;
    const auto x = tape.watch(q), y = tape.watch(keys), z = tape.watch(values);
    const auto out = attention(x, y, z,
                               {.queries = offsets,
                                .keys = offsets,
                                .heads = heads,
                                .key_heads = of_keys,
                                .causal = true,
                                .dropout = 0.2f,
                                .key = {5, 6, 7}});
    tape.backward(out, dout);
    return std::vector{out.value().values(), tape.gradient(x).values(), tape.gradient(y).values(),
                       tape.gradient(z).values()};
  };
  const auto grouped = run(k, v, key_heads), plain = run(repeated(k), repeated(v), 0);
  CHECK(grouped[0] == plain[0]);
  CHECK(grouped[1] == plain[1]);
  for (const std::size_t which : {2, 3})
    for (std::size_t i = 0; i < grouped[which].size(); ++i) {
      const std::size_t row = i / (key_heads * width), head = i / width % key_heads, j = i % width;
      float sum = 0;
      for (std::size_t h = 3 * head; h < 3 * head + 3; ++h) sum += plain[which][(row * heads + h) * width + j];
      CHECK(grouped[which][i] == doctest::Approx(sum).epsilon(1e-5));
    }
}

TEST_CASE("rotary position turns by the place in a sequence, in any slice, and back") {
  constexpr Index tokens = 300, width = 16;
  const auto x = random_tensor<float>({tokens, width}, 1);
  const auto offsets = Offsets({0, 100, 300});
  for (const bool interleaved : {false, true}) {
    const RotarySpec spec{.rotated = 6, .base = 100, .interleaved = interleaved};
    const auto y = rotary(x, offsets, 2, spec).value();
    double worst = 0;
    for (Index r = 0; r < tokens; ++r)
      for (Index h = 0; h < 2; ++h)
        for (Index i = 0; i < 8; ++i) {
          const float* in = x.data() + r * width + h * 8;
          const Index pair = interleaved ? i / 2 : i % 3, other = interleaved ? i ^ 1 : i < 3 ? i + 3 : i - 3;
          const bool first = interleaved ? i % 2 == 0 : i < 3;
          const double angle = static_cast<double>(r < 100 ? r : r - 100) * std::pow(100, -pair / 3.0);
          const double turned = i >= 6 ? static_cast<double>(in[i])
                                       : static_cast<double>(in[i]) * std::cos(angle) +
                                             (first ? -1 : 1) * static_cast<double>(in[other]) * std::sin(angle);
          worst = std::max(worst, std::abs(static_cast<double>(y.data()[r * width + h * 8 + i]) - turned));
        }
    CHECK(worst < 1e-6);
    const auto part = rotary(x.rows(100, 300), Offsets({0, 200}), 2, spec).value();
    CHECK(part.values() == y.rows(100, 300).values());
    Tape tape;
    const auto in = tape.watch(x);
    const auto again = rotary(in, offsets, 2, spec);
    tape.backward(again, y);
    const auto back = tape.gradient(in).values(), was = x.values();
    for (std::size_t i = 0; i < was.size(); ++i) CHECK(back[i] == doctest::Approx(was[i]).epsilon(1e-5));
  }
  CHECK(message_of([&] { rotary(x, offsets, 2, {.rotated = 3}); }).starts_with("rotary: the rotated features"));
  CHECK(message_of([&] { rotary(x, Offsets({0, 4}), 2, {.rotated = 2}); }).starts_with("rotary: the offsets"));
}

TEST_CASE("a NaN is never swallowed: attention of any length, causal too") {
  for (const std::int32_t n : {1, 2, 7, 8, 15, 16, 17, 40, 64, 65, 97})
    for (const bool causal : {false, true})
      for (const std::int32_t bad : {0, n / 2, n - 1})
        for (const float value : {not_a_number, infinity, -infinity}) {
          CAPTURE(n);
          CAPTURE(causal);
          CAPTURE(bad);
          CAPTURE(value);
          auto q = random_tensor<float>({n, 4}, 1), k = random_tensor<float>({n, 4}, 2, 0.5, 1);
          const auto v = random_tensor<float>({n, 4}, 3);
          q.data()[bad * 4] = value;  // every score of the row is NaN, or so infinite
          Tape tape;
          const auto x = tape.watch(q);
          const auto y = attention(x, k, v, {.queries = Offsets({0, n}), .keys = Offsets({0, n}), .causal = causal});
          tape.backward(y, Tensor<float>::full({n, 4}, 1));
          for (std::int32_t i = 0; i < n; ++i) {
            CHECK((i == bad ? every_nan(y.value().rows(i, i + 1)) : every_finite(y.value().rows(i, i + 1))));
            CHECK(every_finite(tape.gradient(x).rows(i, i + 1)) == (i != bad));
          }
          // A key: those that see it.
          q = random_tensor<float>({n, 4}, 1);
          k.data()[bad * 4] = not_a_number;
          const auto z =
              attention(q, k, v, {.queries = Offsets({0, n}), .keys = Offsets({0, n}), .causal = causal}).value();
          for (std::int32_t i = 0; i < n; ++i)
            CHECK((causal && i < bad ? every_finite(z.rows(i, i + 1)) : every_nan(z.rows(i, i + 1))));
        }
}

TEST_CASE("exponentials of rows have the bits of Exp, and their sums the order of sum_of, in rows of any length") {
  const float shift = 0.7f;
  for (const Index n : {1, 15, 16, 17, 63, 64, 65, 200, 1100}) {
    CAPTURE(n);
    std::vector<float> x(static_cast<std::size_t>(n)), moved(x), expected(x), found(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(i * i % 131) * -0.83f;
      moved[i] = x[i] - shift;
    }
    x.back() = -infinity, moved.back() = -infinity;
    float sum = 0, alone = 0, expected_sum = 0;
    cpu::map_here(Exp{}, n, expected.data(), moved.data());
    vectorised([&]() MEFT_INLINE {
      sum = cpu::exp_row(n, x.data(), shift, found.data());
      alone = cpu::exp_row(n, x.data(), shift, static_cast<float*>(nullptr));
      expected_sum = cpu::sum_of<float>(n, [&](Index i) MEFT_INLINE { return expected[static_cast<std::size_t>(i)]; });
    });
    CHECK(found == expected);
    CHECK(found.back() == 0);
    CHECK(sum == expected_sum);
    CHECK(alone == expected_sum);
    vectorised([&]() MEFT_INLINE { cpu::exp_row(n, x.data(), shift, found.data(), 0.5f); });
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(found[i] == expected[i] * 0.5f);
    CHECK(cpu::largest(n, x.data()) == (n == 1 ? -infinity : *std::max_element(x.begin(), x.end())));
    x.front() = not_a_number;
    CHECK(std::isnan(cpu::largest(n, x.data())));
    vectorised([&]() MEFT_INLINE { sum = cpu::exp_row(n, x.data(), not_a_number, found.data()); });
    CHECK(std::isnan(sum));
    CHECK(std::isnan(found.back()));
  }
  // Rows of 64, of which the third has no number as its shift.
  std::vector<float> x(11 * 64), expected(x), shifts(11), sums(11);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 1031) * -0.21f;
  for (std::size_t i = 0; i < 11; ++i) shifts[i] = i == 2 ? not_a_number : 0.01f * static_cast<float>(i);
  for (std::size_t i = 0; i < x.size(); ++i) expected[i] = product(x[i], 0.6f) - shifts[i / 64];
  cpu::map_here(Exp{}, 11 * 64, expected.data(), expected.data());
  vectorised([&]() MEFT_INLINE { cpu::exp_rows<float>(11, x.data(), 0.6f, shifts.data(), sums.data()); });
  for (std::size_t i = 0; i < x.size(); ++i) CHECK((i / 64 == 2 ? std::isnan(x[i]) : x[i] == expected[i]));
  for (std::size_t r = 0; r < 11; ++r) {
    const float* const row = expected.data() + 64 * r;
    float sum = 0;
    vectorised([&]() MEFT_INLINE { sum = cpu::sum_of<float>(64, [row](Index j) MEFT_INLINE { return row[j]; }); });
    CHECK((r == 2 ? std::isnan(sums[r]) : sums[r] == sum));
  }
}

TEST_CASE("a NaN is never swallowed: softmax, losses, reductions, norms, activations, pooling") {
  for (const Index n : {1, 2, 8, 15, 16, 17, 33})
    for (Index bad = 0; bad < n; ++bad) {
      CAPTURE(n);
      CAPTURE(bad);
      auto x = random_tensor<float>({3, n}, 1);
      x.data()[n + bad] = not_a_number;  // of the second row
      const auto row = [](const Var<float>& y, Index r) { return y.value().reshape({3, -1}).rows(r, r + 1); };
      const auto check = [&](const Var<float>& y) {
        CHECK(every_nan(row(y, 1)));
        CHECK(every_finite(row(y, 0)));
        CHECK(every_finite(row(y, 2)));
      };
      check(softmax(x));
      check(log_softmax(x));
      check(sum(x, {.axes = {1}}));
      check(mean(x, {.axes = {1}}));
      check(max(x, {.axes = {1}}));
      const auto ones = Tensor<float>::full({n}, 1);
      check(layer_norm(x, ones, ones));
      check(rms_norm(x, ones));
      check(residual_norm(x, x, ones, ones));
      check(linear(x, random_tensor<float>({5, n}, 2)));
      check(matmul(x, random_tensor<float>({n, 5}, 2)));
      CHECK(every_nan(max(x).value()));
      CHECK(std::isnan(max(x, {.axes = {0}}).value().data()[bad]));
      CHECK(every_nan(mean(x).value()));
      CHECK(every_nan(mse(x, random_tensor<float>({3, n}, 2)).value()));
      const auto labels = Tensor<std::int32_t>::from({3}, {0, 0, 0});
      CHECK(every_nan(cross_entropy(x, labels).value()));
      CHECK(every_nan(linear_cross_entropy(x, random_tensor<float>({5, n}, 2), Tensor<float>(), labels).value()));
      CHECK(std::isnan(label_log_likelihood(x, random_tensor<float>({5, n}, 2), Tensor<float>(), labels).data()[1]));
      CHECK(std::isnan(mean_rows(x, Offsets({0, 3})).value().data()[bad]));
      auto all = Tensor<float>::full({3, n}, not_a_number);
      CHECK(every_nan(softmax(all).value()));
      CHECK(every_nan(log_softmax(all).value()));
      CHECK(every_nan(cross_entropy(all, labels).value()));
      // Where every element is minus infinity there is no distribution.
      CHECK(every_nan(softmax(Tensor<float>::full({3, n}, -infinity)).value()));
    }
  for (const auto f : {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::tanh}) {
    CAPTURE(static_cast<int>(f));
    Tape tape;
    const auto x = tape.watch(Tensor<float>::full({20}, not_a_number));
    CHECK(every_nan(activate(x, f).value()));
    tape.backward(activate(x, f), Tensor<float>::full({20}, 1));
    CHECK_FALSE(every_zero(tape.gradient(x)));
    CHECK(every_nan(linear_activation(Tensor<float>::full({2, 3}, not_a_number), random_tensor<float>({4, 3}, 1),
                                      random_tensor<float>({4}, 2), f)
                        .value()));
  }
}

TEST_CASE("products of nothing are zero, whatever lay in memory") {
  const auto zeros = [](const Shape& a, const Shape& b, const Shape& shape) {
    dirty();
    const auto y = matmul(Tensor<float>::zeros(a), Tensor<float>::zeros(b)).value();
    CHECK(y.shape() == shape);
    CHECK(every_zero(y));
    dirty();
    const auto wide = matmul(Tensor<double>::zeros(a), Tensor<double>::zeros(b)).value();
    for (const double v : wide.values()) CHECK(v == 0);
    dirty();
    Tape tape;
    const auto x = tape.watch(Tensor<float>::full(a, 1)), w = tape.watch(Tensor<float>::full(b, 1));
    tape.backward(sum(matmul(x, w)));
    CHECK(every_zero(tape.gradient(x)));
    CHECK(every_zero(tape.gradient(w)));
  };
  zeros({2, 0}, {0, 3}, {2, 3});
  zeros({20, 0}, {0, 70}, {20, 70});
  zeros({4, 2, 0}, {4, 0, 3}, {4, 2, 3});
  zeros({0, 3}, {3, 4}, {0, 4});
  zeros({3, 4}, {4, 0}, {3, 0});
  zeros({2, 0, 3}, {2, 3, 4}, {2, 0, 4});
  zeros({0, 2, 3}, {0, 3, 4}, {0, 2, 4});
  zeros({0, 2, 0}, {0, 0, 4}, {0, 2, 4});
}

TEST_CASE("every op takes no rows: nothing comes out, and nothing reaches the weights") {
  const auto w = random_tensor<float>({5, 4}, 1), b = random_tensor<float>({5}, 2), g = random_tensor<float>({4}, 3);
  const PackedWeight<float> packed(w);
  const auto none = Tensor<float>(Shape{0, 4});
  const Offsets empty({0, 0, 0});
  const auto ids = Tensor<std::int32_t>(Shape{0});
  /// f(x, weights) with x [0, 4]: the shape of its result, gradients zero.
  const auto check = [&](const char* what, const Shape& shape, const auto& f) {
    CAPTURE(what);
    for (const bool watched : {true, false}) {
      dirty();
      Tape tape;
      const Var<float> x = watched ? tape.watch(none) : Var<float>(none);
      const auto vw = tape.watch(w), vb = tape.watch(b), vg = tape.watch(g);
      const Var<float> y = f(x, vw, vb, vg);
      CHECK(y.shape() == shape);
      if (!y.recorded()) continue;
      tape.backward(y, Tensor<float>(y.shape()));
      if (watched && tape.gradient(x).defined()) CHECK(tape.gradient(x).shape() == none.shape());
      for (const auto& v : {vw, vb, vg})
        if (const auto d = tape.gradient(v); d.defined()) {
          CHECK(d.shape() == v.shape());
          CHECK(every_zero(d));
        }
    }
  };
  check("linear", {0, 5}, [](auto& x, auto& w, auto& b, auto&) { return linear(x, w, b); });
  check("linear without bias", {0, 5}, [](auto& x, auto& w, auto&, auto&) { return linear(x, w); });
  check("packed", {0, 5}, [&](auto& x, auto&, auto& b, auto&) { return linear(x, packed, b); });
  check("linear activation", {0, 5},
        [](auto& x, auto& w, auto& b, auto&) { return linear_activation(x, w, b, Activation::gelu); });
  check("packed activation", {0, 5},
        [&](auto& x, auto&, auto& b, auto&) { return linear_activation(x, packed, b, Activation::relu); });
  check("deep linear", {2, 0, 5}, [](auto& x, auto& w, auto& b, auto&) { return linear(reshape(x, {2, 0, 4}), w, b); });
  check("rms norm", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return rms_norm(x, g); });
  check("gated", {0, 4}, [](auto& x, auto&, auto&, auto&) { return gated(x, x, Activation::silu); });
  check("scaled activation", {0, 4},
        [](auto& x, auto&, auto&, auto& g) { return scaled_activation(x, g, Activation::gelu); });
  check("rotary", {0, 4}, [&](auto& x, auto&, auto&, auto&) { return rotary(x, empty, 2, {.rotated = 2}); });
  check("layer norm", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return layer_norm(x, g, g); });
  check("residual", {0, 4}, [](auto& x, auto&, auto&, auto&) { return residual(x, x, 0.5, {1, 2, 3}); });
  check("residual norm", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return residual_norm(x, x, g, g); });
  check("attention", {0, 4}, [&](auto& x, auto&, auto&, auto&) {
    return attention(x, x, x, {.queries = empty, .keys = empty, .heads = 2});
  });
  check("cross attention", {0, 4}, [&](auto& x, auto& w, auto&, auto&) {
    return attention(x, w, w, {.queries = empty, .keys = Offsets({0, 2, 5}), .heads = 2});
  });
  check("softmax", {0, 4}, [](auto& x, auto&, auto&, auto&) { return softmax(x); });
  check("softmax over no rows", {0, 4}, [](auto& x, auto&, auto&, auto&) { return softmax(x, 0); });
  check("log softmax", {0, 4}, [](auto& x, auto&, auto&, auto&) { return log_softmax(x); });
  check("dropout", {0, 4}, [](auto& x, auto&, auto&, auto&) { return dropout(x, 0.5, {1, 2, 3}); });
  check("activation", {0, 4}, [](auto& x, auto&, auto&, auto&) { return gelu(x); });
  check("activation with dropout", {0, 4}, [](auto& x, auto&, auto&, auto&) {
    return activate_dropout(x, Activation::relu, 0.5, {1, 2, 3});
  });
  check("embedding", {0, 4}, [&](auto&, auto& w, auto&, auto&) { return embedding(w, ids); });
  check("gather", {0, 4}, [&](auto&, auto& w, auto&, auto&) { return gather(w, ids); });
  check("concat", {0, 8}, [](auto& x, auto&, auto&, auto&) { return concat({x, x}, 1); });
  check("slice", {0, 2}, [](auto& x, auto&, auto&, auto&) { return slice(x, 1, 1, 3); });
  check("slice of none", {0, 4}, [](auto&, auto& w, auto&, auto&) { return slice(w, 0, 2, 2); });
  check("transpose", {4, 0}, [](auto& x, auto&, auto&, auto&) { return transpose(x); });
  check("row added", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return x + g; });
  check("row multiplied", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return x * g; });
  check("row divided", {0, 4}, [](auto& x, auto&, auto&, auto& g) { return x / g; });
  check("sum over no rows", {4}, [](auto& x, auto&, auto&, auto&) { return sum(x, {.axes = {0}}); });
  check("sum", {}, [](auto& x, auto&, auto&, auto&) { return sum(x); });
  check("mean of each", {0}, [](auto& x, auto&, auto&, auto&) { return mean(x, {.axes = {1}}); });
  check("max of each", {0}, [](auto& x, auto&, auto&, auto&) { return max(x, {.axes = {1}}); });
  check("mean rows", {0, 4}, [](auto& x, auto&, auto&, auto&) { return mean_rows(x, Offsets()); });
  check("last rows", {0, 4}, [](auto& x, auto&, auto&, auto&) { return last_rows(x, Offsets()); });
  check("checkpoint", {0, 5}, [](auto& x, auto& w, auto&, auto&) {
    return checkpoint([](const Var<float>& a, const Var<float>& c) { return linear(a, c); }, x, w);
  });
  CHECK(every_zero(sum(none, {.axes = {0}}).value()));
  CHECK(label_log_likelihood(none, w, Tensor<float>(), ids).shape() == Shape{0});
  for (const auto& message : {message_of([&] { mean(none); }), message_of([&] { max(none); }),
                              message_of([&] { mse(none, none); }), message_of([&] { cross_entropy(none, ids); }),
                              message_of([&] { linear_cross_entropy(none, w, Tensor<float>(), ids); })})
    CHECK((message.find("of no elements") != message.npos || message.find("no row counts") != message.npos));
  // Empty sequences among others change nothing of the others.
  const auto x = random_tensor<float>({5, 4}, 8);
  const auto attended = [&](const Offsets& o) {
    Tape tape;
    const auto in = tape.watch(x.clone());
    const auto y = attention(in, in, in, {.queries = o, .keys = o, .heads = 2, .causal = true});
    tape.backward(y, x);
    return std::pair(y.value().values(), tape.gradient(in).values());
  };
  CHECK(attended(Offsets({0, 0, 2, 2, 2, 5, 5})) == attended(Offsets({0, 2, 5})));
}

TEST_CASE("weights without elements are refused") {
  const auto x0 = Tensor<float>(Shape{2, 0}), x = random_tensor<float>({2, 4}, 1);
  const auto labels = Tensor<std::int32_t>::full({2}, -100);
  for (const Shape& shape : {Shape{3, 0}, Shape{0, 0}, Shape{0, 4}}) {
    const auto w = Tensor<float>(shape);
    const auto& in = shape[1] ? x : x0;
    CHECK(message_of([&] { linear(in, w); }) == "linear: a weight without elements: a is " + shape.text());
    CHECK(message_of([&] { linear(in, Parameter<float>(w)); }).starts_with("linear: a weight without elements"));
    CHECK(message_of([&] {
            linear_activation(in, w, Tensor<float>(), Activation::relu);
          }).starts_with("linear: a weight without elements"));
    CHECK(message_of([&] { PackedWeight<float> p(w); }) == "pack: a weight without elements: a is " + shape.text());
    CHECK(message_of([&] {
            label_log_likelihood(in, w, Tensor<float>(), labels);
          }).starts_with("label_log_likelihood: w has no elements"));
    CHECK(message_of([&] {
            linear_cross_entropy(in, w, Tensor<float>(), labels);
          }).starts_with("linear_cross_entropy: w has no elements"));
  }
  const auto none = Tensor<float>(Shape{0});
  CHECK(message_of([&] { layer_norm(x0, none, none); }).starts_with("layer_norm: nothing to normalise"));
  CHECK(message_of([&] {
          attention(x0, x0, x0, {.queries = Offsets({0, 2}), .keys = Offsets({0, 2})});
        }).starts_with("attention: the width is not a multiple"));
}

TEST_CASE("every op refuses an empty tensor, and says which") {
  const std::string empty = ": the tensor is empty: it was default-made and never given a value";
  const Tensor<float> none;
  const Parameter<float> no_parameter;
  const Var<float> no_variable;
  const auto x = random_tensor<float>({2, 4}, 1), g = random_tensor<float>({4}, 1), w = random_tensor<float>({3, 4}, 1);
  const auto ids = Tensor<std::int32_t>::from({2}, {0, 1});
  const PackedWeight<float> packed(w);
  const auto refuses = [&](const char* what, const auto& f) {
    CAPTURE(what);
    CHECK(message_of([&] { f(); }) == what + empty);
    Tape tape;
    CHECK(message_of([&] { f(); }) == what + empty);
  };
  refuses("mul: input 1 of 2", [&] { no_variable* none; });
  refuses("mul: input 2 of 2", [&] { x* no_parameter; });
  refuses("mul: input 1 of 1", [&] { none * 2; });
  refuses("add: input 2 of 2", [&] { x + none; });
  refuses("sub: input 1 of 2", [&] { none - x; });
  refuses("div: input 2 of 2", [&] { x / no_parameter; });
  refuses("neg: input 1 of 1", [&] { -none; });
  refuses("gelu: input 1 of 1", [&] { gelu(no_parameter); });
  refuses("relu: input 1 of 1", [&] { activate(none, Activation::relu); });
  refuses("mean: input 1 of 1", [&] { mean(none); });
  refuses("sum: input 1 of 1", [&] { sum(none); });
  refuses("max: input 1 of 1", [&] { max(none); });
  refuses("matmul: input 2 of 2", [&] { matmul(x, none); });
  refuses("linear: input 1 of 3", [&] { linear(none, w); });
  refuses("linear: input 2 of 3", [&] { linear(x, no_parameter, g); });
  refuses("linear: input 1 of 2", [&] { linear(none, packed); });
  refuses("linear_activation: input 2 of 3", [&] { linear_activation(x, none, none, Activation::relu); });
  refuses("linear_cross_entropy: input 2 of 3", [&] { linear_cross_entropy(x, none, none, ids); });
  refuses("layer_norm: input 2 of 3", [&] { layer_norm(x, none, g); });
  refuses("rms_norm: input 2 of 2", [&] { rms_norm(x, no_parameter); });
  refuses("gated: input 1 of 2", [&] { gated(none, x, Activation::silu); });
  refuses("scaled_activation: input 2 of 3", [&] { scaled_activation(x, none, Activation::gelu); });
  refuses("rotary: input 1 of 1", [&] { rotary(none, Offsets({0, 2}), 1, {.rotated = 2}); });
  refuses("residual: input 2 of 3", [&] { residual(x, none); });
  refuses("residual_norm: input 4 of 5", [&] { residual_norm(x, x, g, none); });
  refuses("attention: input 3 of 4", [&] {
    attention(x, x, none, {.queries = Offsets({0, 2}), .keys = Offsets({0, 2})});
  });
  refuses("dropout: input 1 of 1", [&] { dropout(none, 0.5, {}); });
  refuses("activate_dropout: input 1 of 1", [&] { activate_dropout(none, Activation::relu, 0.5, {}); });
  refuses("embedding: input 1 of 1", [&] { embedding(none, ids); });
  refuses("gather: input 1 of 1", [&] { gather(none, ids); });
  refuses("cross_entropy: input 1 of 1", [&] { cross_entropy(none, ids); });
  refuses("mse: input 2 of 2", [&] { mse(x, none); });
  refuses("end_rows: input 1 of 1", [&] { first_rows(none, Offsets({0, 1})); });
  refuses("mean_rows: input 1 of 1", [&] { mean_rows(none, Offsets({0, 1})); });
  refuses("reshape: input 1 of 1", [&] { reshape(none, Shape{1}); });
  refuses("concat", [&] { concat({Var<float>(x), no_variable}); });
  for (const auto& f : std::vector<std::function<void()>>{
           [&] { softmax(none); }, [&] { transpose(none); }, [&] { slice(none, 0, 0, 1); },
           [&] { reshape(none, {-1}); }, [&] { embedding(w, Tensor<std::int32_t>()); },
           [&] { gather(w, Tensor<std::int32_t>()); }, [&] { cross_entropy(x, Tensor<std::int32_t>()); },
           [&] { label_log_likelihood(none, w, none, ids); }, [&] { label_log_likelihood(x, none, none, ids); },
           [&] { PackedWeight<float> p(none); }, [&] { linear(x, PackedWeight<float>()); },
           [&] { Parameter<float>().zero_gradient(); }})
    CHECK(message_of(f) != "no error");
  // A bias may be none.
  CHECK(linear(x, w, no_parameter).value().values() == linear(x, w).value().values());
}

TEST_CASE("concat: of tensors, parameters and variables, whatever stands beside what") {
  const auto check = [](const auto& x) {
    using X = std::remove_cvref_t<decltype(x)>;
    using T = typename X::value_type;
    Parameter<T> p(x.clone());
    Tape tape;
    const auto v = tape.watch(x);
    const auto whole = concat({p, v, x}, 1);
    CHECK(whole.shape() == Shape{1, 6});
    CHECK(whole.value().values() == std::vector<T>{1, 2, 1, 2, 1, 2});
    tape.backward(sum(whole * 3));
    CHECK(p.gradient().values() == std::vector<T>{3, 3});
    CHECK(tape.gradient(v).values() == std::vector<T>{3, 3});
    CHECK(concat({x, v}).shape() == Shape{2, 2});
    CHECK(concat({x, x}).shape() == Shape{2, 2});
    CHECK(concat({p, p}, -1).shape() == Shape{1, 4});
    CHECK(concat<T, Cpu>({p, x}).shape() == Shape{2, 2});
  };
  check(Tensor<float>::from({1, 2}, {1, 2}));
  check(Tensor<double>::from({1, 2}, {1, 2}));
  const auto x = Tensor<float>::zeros({2}), y = Tensor<float>::zeros({2, 1});
  CHECK(message_of([&] { concat({x, y}); }) == "concat: shapes differ besides the axis: a is [2], b is [2, 1]");
}

TEST_CASE("sums over many rows keep their accuracy, and up to 4096 their order") {
  const Index n = 1000000;
  for (const Index width : {Index{2}, Index{300}}) {
    const Index rows = width == 2 ? n : 20000;
    const auto means = mean(Tensor<float>::full({rows, width}, 0.1f), {.axes = {0}}).value().values();
    for (const float m : means) CHECK(std::fabs(m - 0.1f) < 1e-5f);
  }
  auto x = random_tensor<float>({4096, 3}, 1);
  std::vector<float> in_order(3);
  for (Index i = 0; i < 4096; ++i)
    for (Index j = 0; j < 3; ++j) in_order[static_cast<std::size_t>(j)] += std::as_const(x).data()[i * 3 + j];
  CHECK(sum(x, {.axes = {0}}).value().values() == in_order);

  Parameter<float> gamma = Parameter<float>::ones({2}), beta = Parameter<float>::zeros({2});
  Tape tape;
  Tensor<float> x01({n, 2});
  x01.fill([](auto to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(i % 2);
  });
  tape.backward(sum(layer_norm(x01, gamma, beta) * 0.1f));
  const float whole = 0.1f * static_cast<float>(n);
  for (const float g : beta.gradient().values()) CHECK(g == doctest::Approx(whole).epsilon(1e-4));
  CHECK(gamma.gradient().values()[0] == doctest::Approx(-whole).epsilon(1e-4));  // rows become −1, 1
  CHECK(gamma.gradient().values()[1] == doctest::Approx(whole).epsilon(1e-4));
}
