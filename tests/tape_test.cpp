// The tape: accumulation, parameters, nesting, freed nodes, long chains, inference.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <meft/autodiff/op.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/ops/reduce.hpp>

#include "tools.hpp"

using namespace meft;
using namespace meft::test;

using Floats = std::vector<float>;

TEST_CASE("gradients of several backward calls add up in a parameter and in a watched variable") {
  Parameter<float> p(Tensor<float>::from({2}, {3, 4}));
  {
    Tape tape;
    const auto x = tape.watch(Tensor<float>::from({2}, {1, 2}));
    tape.backward(sum(p * x));
    tape.backward(sum(p * x * x));
    CHECK(tape.gradient(x).values() == Floats{3 + 6, 4 + 16});
  }
  CHECK(p.gradient().values() == Floats{1 + 1, 2 + 4});
  {
    Tape tape;
    tape.backward(sum(p * 10));
  }
  CHECK(p.gradient().values() == Floats{12, 16});
  p.zero_gradient();
  CHECK(p.gradient().values() == Floats{0, 0});
}

TEST_CASE("a parameter used twice, and a variable that fans out") {
  Parameter<double> p(Tensor<double>::from({}, {3}));
  Tape tape;
  const auto y = p * p;      // 9
  const auto z = y * p + y;  // 36; dz/dp = 3p² + 2p
  tape.backward(z);
  CHECK(p.gradient().item() == 33);
}

TEST_CASE("the caller's gradient is left alone") {
  const auto dy = Tensor<float>::from({2}, {1, 2});
  Tape tape;
  const auto x = tape.watch(Tensor<float>::from({2}, {5, 6}));
  tape.backward(-(x * 3), dy);
  CHECK(dy.values() == Floats{1, 2});
  CHECK(tape.gradient(x).values() == Floats{-3, -6});

  // Neither do branches that share a gradient see each other's.
  Tape second;
  const auto a = second.watch(Tensor<float>::from({1}, {2})), b = second.watch(Tensor<float>::from({1}, {3}));
  second.backward(-a + -b);
  CHECK(second.gradient(a).values() == Floats{-1});
  CHECK(second.gradient(b).values() == Floats{-1});
}

TEST_CASE("a frozen parameter is a constant") {
  Parameter<float> p(Tensor<float>::from({1}, {3}));
  p.set_trainable(false);
  Tape tape;
  CHECK_FALSE((p * p).recorded());
  const auto x = tape.watch(Tensor<float>::from({1}, {2}));
  tape.backward(p * x);
  CHECK_FALSE(p.gradient().defined());
  CHECK(tape.gradient(x).values() == Floats{3});
}

TEST_CASE("tapes nest: the innermost records") {
  Parameter<float> p(Tensor<float>::from({1}, {3}));
  Tape outer;
  const auto a = p * 2;
  {
    Tape inner;
    const auto b = p * 5;
    CHECK(Tape::current() == &inner);
    inner.backward(b);
    CHECK(p.gradient().values() == Floats{5});
    CHECK(message_of([&] { exp(a); }) == "exp: its input, the result of `mul`, was recorded on another tape: a is [1]");
    const NoTape none;
    CHECK_FALSE((p * 2).recorded());
  }
  CHECK(Tape::current() == &outer);
  outer.backward(a);
  CHECK(p.gradient().values() == Floats{7});
}

TEST_CASE("collected gradients stay on the tape") {
  Parameter<float> p(Tensor<float>::from({1}, {3})), q(Tensor<float>::from({1}, {4}));
  Tape tape;
  tape.collect();
  tape.backward(p * q * p);
  CHECK_FALSE(p.gradient().defined());
  const auto collected = tape.collected<float, Cpu>();
  REQUIRE(collected.size() == 2);
  for (const auto& c : collected)
    CHECK(c.gradient.values() == (c.parameter->value.same(p.value()) ? Floats{24} : Floats{9}));
  CHECK(tape.collected<float, Cpu>().empty());
}

TEST_CASE("a misused variable is named with its op") {
  Tape tape;
  const auto x = tape.watch(Tensor<float>::from({3}, {1, 2, 3}));
  const auto h = exp(x);
  const auto y = sum(h);
  tape.backward(y);
  CHECK(message_of([&] { log(h); }) ==
        "log: its input, the result of `exp`, was freed by an earlier backward: a is [3]");
  CHECK(message_of([&] { tape.backward(y); }) ==
        "backward: its input, the result of `sum`, was freed by an earlier backward: a is []");
  CHECK(message_of([&] { tape.backward(exp(x)); }) == "backward: a loss is a single element: a is [3]");
  CHECK(message_of([&] { tape.backward(exp(x), Tensor<float>::zeros({2})); }) ==
        "backward: the gradient's shape differs: a is [3], b is [2]");
  CHECK(message_of([&] { tape.backward(Var<float>(Tensor<float>::zeros({1}))); }) ==
        "backward: nothing that needs a gradient was recorded: a is [1]");
  CHECK(message_of([&] { tape.gradient(h); }) == "gradient: the variable was not watched by this tape: a is [3]");
  try {
    log(h);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).ends_with("(tape_test.cpp:" + std::to_string(__LINE__ - 3) + ")"));
  }
}

TEST_CASE("a chain of 100000 nodes needs no recursion and frees as it goes") {
  constexpr int links = 100000;
  const std::size_t before = Cpu::pool().read().total;
  Tape tape;
  const auto x = tape.watch(Tensor<double>::from({}, {1.5}));
  auto y = x * 1.0;
  for (int i = 1; i < links; ++i) y = square(y) * 0 + y;  // three nodes a link
  tape.backward(y);
  CHECK(tape.gradient(x).item() == 1);
  y = {};
  CHECK(Cpu::pool().read().total - before <= 3 * 64);
}

TEST_CASE("a recorded chain that is dropped unused needs no recursion either") {
  const std::size_t before = Cpu::pool().read().total;
  {
    Tape tape;
    auto y = tape.watch(Tensor<float>::from({}, {0.5}));
    for (int i = 0; i < 100000; ++i) y = tanh(y);
  }
  CHECK(Cpu::pool().read().total == before);
}

TEST_CASE("without a tape nothing is recorded or kept") {
  Parameter<float> p(Tensor<float>::from({64}, std::vector<float>(64, 1)));
  const std::size_t before = Cpu::pool().read().total;
  const auto y = gelu(exp(p * p));
  CHECK_FALSE(y.recorded());
  CHECK(Cpu::pool().read().total - before == 256);
  CHECK(Tape::current() == nullptr);

  // Nor on a tape, when no input needs a gradient.
  Tape tape;
  const auto z = gelu(exp(y));
  CHECK_FALSE(z.recorded());
  CHECK(Cpu::pool().read().total - before == 512);
}

TEST_CASE("a paused tape keeps what it has and records no more") {
  Parameter<float> p(Tensor<float>::from({1}, {3}));
  Tape tape;
  const auto y = p * p;
  tape.pause();
  CHECK_FALSE((p * p).recorded());
  tape.backward(y);
  CHECK(p.gradient().values() == Floats{6});
}

TEST_CASE("checkpoint: the gradients of the plain function, parameters included") {
  Parameter<float> p(Tensor<float>::from({2}, {0.3f, -0.7f}));
  const auto f = [&](const Var<float>& x) { return gelu(exp(x * p) + p); };
  const auto run = [&](bool recompute) {
    p.zero_gradient();
    Tape tape;
    const auto x = tape.watch(Tensor<float>::from({2}, {1, 2}));
    const auto y = sum(recompute ? checkpoint(f, x) : f(x));
    tape.backward(y);
    Floats out{y.value().item()};
    for (const auto& g : {tape.gradient(x), p.gradient()})
      for (float v : g.values()) out.push_back(v);
    return out;
  };
  CHECK(run(true) == run(false));
}
