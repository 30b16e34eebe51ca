// The tape: accumulation, parameters, nesting, freed nodes, long chains, inference.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <meft/autodiff/gradcheck.hpp>
#include <meft/autodiff/op.hpp>
#include <meft/nn/linear.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>

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

TEST_CASE("a watched variable's gradient is added to where it is asked for, whoever sees that") {
  auto sums = Tensor<float>::from({3}, {100, 200, 300});
  const auto seen = sums.rows(1, 3);
  Tape tape;
  const auto x = tape.watch(Tensor<float>::from({2}, {1, 2}));
  tape.add_into(x, seen);
  tape.backward(sum(x * 3 + x * x));
  CHECK(tape.gradient(x).same(seen));
  CHECK(sums.values() == Floats{100, 200 + 3 + 2, 300 + 3 + 4});
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

TEST_CASE("tapes may go in any order: the innermost that lives records") {
  Parameter<float> p(Tensor<float>::from({1}, {3}));
  const auto gradient = [&] {
    const auto g = p.gradient().defined() ? p.gradient().item() : 0;
    p.gradient() = {};
    return g;
  };
  auto a = std::make_unique<Tape>(), b = std::make_unique<Tape>(), c = std::make_unique<Tape>();
  a.reset();
  CHECK(Tape::current() == c.get());
  c.reset();
  CHECK(Tape::current() == b.get());
  b->backward(p * 5);
  CHECK(gradient() == 5);
  b.reset();
  CHECK(Tape::current() == nullptr);
  CHECK_FALSE((p * 2).recorded());

  // The same beside a NoTape, and with tapes that are paused.
  a = std::make_unique<Tape>();
  auto none = std::make_unique<NoTape>();
  b = std::make_unique<Tape>();
  a.reset();
  CHECK(Tape::current() == b.get());
  b->pause();
  CHECK_FALSE((p * 2).recorded());
  none.reset();
  b.reset();
  CHECK(Tape::current() == nullptr);
  a = std::make_unique<Tape>();
  none = std::make_unique<NoTape>();
  a.reset();
  b = std::make_unique<Tape>();
  none.reset();
  CHECK(Tape::current() == b.get());
  b->backward(p * 7);
  CHECK(gradient() == 7);

  // A tape that goes on another thread leaves nothing behind on its own.
  b.reset();
  a = std::make_unique<Tape>();
  b = std::make_unique<Tape>();
  std::thread([&] { b.reset(); }).join();
  CHECK(Tape::current() == a.get());
  std::thread([&] { a.reset(); }).join();
  CHECK(Tape::current() == nullptr);
  Tape last;
  last.backward(p * 2);
  CHECK(gradient() == 2);
}

TEST_CASE("what a tape does not see on another thread is refused, never dropped") {
  Parameter<float> p(Tensor<float>::from({1}, {3})), frozen(Tensor<float>::from({1}, {3}));
  frozen.set_trainable(false);
  const auto one = Tensor<float>::from({1}, {1});
  const auto elsewhere = [](const auto& f) {
    Var<float> out;
    std::thread([&] { out = f(); }).join();
    return out;
  };
  const std::string refused = ", was computed on another thread, where this tape does not record: a is [1]";
  Tape tape;
  const auto x = tape.watch(Tensor<float>::from({1}, {2}));
  // From a variable, from a parameter, through several ops, through concat and a checkpoint.
  CHECK(message_of([&] { sum(elsewhere([&] { return exp(x); })); }) == "sum: its input, the result of `exp`" + refused);
  CHECK(message_of([&] { p* elsewhere([&] { return p * one; }); }) == "mul: its input, the result of `mul`" + refused);
  CHECK(message_of([&] { exp(elsewhere([&] { return tanh(exp(one) * p) + one; })); }) ==
        "exp: its input, the result of `add`" + refused);
  CHECK(message_of([&] {
          x + elsewhere([&] { return concat({Var<float>(one), exp(x)}); });
        }).starts_with("add: its input, the result of `concat`, was computed on another thread"));
  CHECK(message_of([&] {
          x + elsewhere([&] { return checkpoint([&](const Var<float>& in) { return in * p; }, one); });
        }) == "add: its input, the result of `mul`" + refused);
  CHECK(message_of([&] { tape.backward(elsewhere([&] { return exp(x); })); }) ==
        "backward: its input, the result of `exp`" + refused);
  CHECK(message_of([&] { x + elsewhere([&] { return Var<float>(p.variable()); }); }) ==
        "add: its input, the result of `parameter`" + refused);
  // What needs no gradient, was asked for without one, or is taken as a tensor, is a constant.
  const auto constants = [&] {
    auto y = x + elsewhere([&] { return exp(one) * frozen; });
    y = y + elsewhere([&] {
          const NoTape none;
          return exp(x) * p;
        });
    return y + elsewhere([&] { return exp(x) * p; }).value();
  };
  tape.backward(constants());
  CHECK(tape.gradient(x).item() == 1);
  // Tapes of their own record there, and a loop's body has the thread that runs it.
  CHECK(elsewhere([&] {
          Tape own;
          own.backward(p * p);
          return Var<float>(p.gradient());
        })
            .value()
            .item() == 6);
  // What was made before the tape, on whatever thread, is a constant.
  const auto features = elsewhere([&] { return exp(p); });
  Tape later;
  CHECK_NOTHROW(features * p);
}

namespace {

/// y = 2·x, whose dx is Σ dy in another shape.
struct WrongShape {
  static constexpr const char* name = "wrong_shape";
  template <Scalar T, Backend B>
  struct Saved {};
  template <Real T, Backend B>
  static Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) {
    return map(Add{}, x, x);
  }
  template <Real T, Backend B>
  static std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) {
    return {sum_axis(dy, 0)};
  }
};

}  // namespace

TEST_CASE("a gradient has the shape of its value") {
  Parameter<float> p(Tensor<float>::from({2}, {3, 4}));
  {
    Tape tape;
    tape.backward(sum(p * p));
  }
  p.value() = Tensor<float>::full({3, 2}, 1);
  p.zero_gradient();
  CHECK(p.gradient().shape() == Shape{3, 2});
  {
    Tape tape;
    tape.backward(sum(p * p));
  }
  CHECK(p.gradient().values() == Floats(6, 2));
  p.gradient() = Tensor<float>::zeros({2});
  {
    Tape tape;
    const auto y = sum(p * p);
    CHECK(message_of([&] { tape.backward(y); }).find("a gradient has another shape than its parameter") !=
          std::string::npos);
  }
  p.zero_gradient();
  Tape tape;
  const auto y = sum(apply(Where::current(), WrongShape{}, p));
  CHECK(message_of([&] { tape.backward(y); }).find("a gradient has another shape than its value") != std::string::npos);
  Tape other;
  const auto x = other.watch(Tensor<float>::full({3, 2}, 1));
  const auto z = sum(x * 2) + sum(apply(Where::current(), WrongShape{}, x));
  CHECK(message_of([&] { other.backward(z); }).find("a gradient has another shape than its value") !=
        std::string::npos);
  Tape alone;  // where nothing else arrives
  const auto from = alone.watch(Tensor<float>::full({3, 2}, 1));
  CHECK(message_of([&] { alone.backward(sum(apply(Where::current(), WrongShape{}, exp(from)))); }) != "no error");
}

TEST_CASE("tapes of several threads may share parameters") {
  Parameter<float> w(Tensor<float>::zeros({1000}));
  const auto walk = [&] {
    for (int i = 0; i < 100; ++i) {
      Tape tape;
      tape.backward(sum(w * 1.0f));
    }
  };
  std::thread one(walk), two(walk), three(walk);
  one.join(), two.join(), three.join();
  CHECK(w.gradient().values() == Floats(1000, 300));
}

TEST_CASE("a parameter that is frozen before the backward pass gets nothing") {
  Parameter<float> w(Tensor<float>::full({2}, 3)), v(Tensor<float>::full({2}, 2));
  for (const bool again : {false, true}) {
    w.set_trainable(true);
    Tape tape;
    const auto loss = again ? sum(checkpoint([&](const Var<float>& x) { return x * w; }, v)) : sum(w * v);
    w.set_trainable(false);
    tape.backward(loss);
    CHECK_FALSE(w.gradient().defined());
    CHECK(v.gradient().values() == Floats{3, 3});
    v.zero_gradient();
  }
}

TEST_CASE("a parameter that an op keeps must not change before the backward pass") {
  const auto fresh = [] { return random_tensor<float>({3, 3}, 4); };
  const std::string changed =
      ": a parameter was changed between the forward and the backward pass, which needs it as it was: an optimizer "
      "stepped, or data() was taken of its value while that is not const";
  Parameter<float> w(fresh()), v(random_tensor<float>({3, 3}, 5)), bias(random_tensor<float>({3}, 6));
  auto constant = fresh();
  /// The error of a backward pass before which `change` runs.
  const auto error = [&](const auto& f, const auto& change) {
    for (auto* p : {&w, &v, &bias}) p->zero_gradient();
    Tape tape;
    const auto loss = sum(f());
    change();
    return message_of([&] { tape.backward(loss); });
  };
  const auto change_w = [&] { w.value().data()[0] += 1; };
  CHECK(error([&] { return linear(linear(constant, v), w); }, change_w) == "linear" + changed);
  CHECK(error([&] { return matmul(v, w); }, change_w) == "matmul" + changed);
  CHECK(error([&] { return v * w; }, change_w) == "mul" + changed);
  CHECK(error([&] { return exp(v) / w; }, change_w) == "div" + changed);
  CHECK(error([&] { return gelu(w); }, change_w) == "gelu" + changed);
  CHECK(error([&] { return linear_activation(v, w, bias, Activation::gelu); }, change_w) ==
        "linear_activation" + changed);
  CHECK(error([&] { return layer_norm(w, bias, bias); }, change_w) == "layer_norm" + changed);
  CHECK(error([&] { return v * w; }, [&] { w.value().zero(); }) == "mul" + changed);
  CHECK(error([&] { return v * w; }, [&] { w.value().fill([](auto all) { all[0] = 3; }); }) == "mul" + changed);
  CHECK(error(
            [&] {
              return v * reshape(w, {9}).value().reshape({3, 3}) + slice(w, 0, 0, 3) * v;
            },
            [&] { w.value().rows(1, 2).data()[0] = 3; }) == "mul" + changed);
  CHECK(error([&] { return checkpoint([&](const Var<float>& x) { return matmul(x, w); }, v); }, change_w) ==
        "checkpoint" + changed);
  CHECK(error([&] { return checkpoint([&](const Var<float>& x) { return x * x; }, w); }, change_w) ==
        "checkpoint" + changed);
  const auto replace_w = [&] { w.value() = fresh(); };  // what runs again would read the new one
  CHECK(error([&] { return checkpoint([&](const Var<float>& x) { return matmul(x, w); }, v); }, replace_w) ==
        "checkpoint" + changed);
  // What is not kept may change; reading is no change, nor is another value in its place; of what is no parameter
  // nobody keeps the time.
  CHECK(error([&] { return v * exp(constant); }, [&] { (void)constant.data()[0]; }) == "no error");
  CHECK(error([&] { return exp(w) + sum(w) + max(w); }, [] {}) == "no error");
  CHECK(error([&] { return linear(constant, w); }, change_w) == "no error");
  CHECK(error([&] { return v + w; }, change_w) == "no error");
  CHECK(error([&] { return linear(constant, w, bias); }, [&] { bias.value().zero(); }) == "no error");
  CHECK(error([&] { return v * w; },
              [&] {
                (void)w.value().values();
                (void)std::as_const(w).value().data()[0];
                (void)w.value().clone().data();
                w.value() = fresh();
              }) == "no error");
  // The error points at the caller of backward.
  Tape tape;
  const auto loss = sum(v * w);
  change_w();
  try {
    tape.backward(loss);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(std::string(e.what()).ends_with("(tape_test.cpp:" + std::to_string(__LINE__ - 3) + ")"));
  }
}

TEST_CASE("a backward pass that failed leaves a part of the gradients, and the next one is as right as ever") {
  Parameter<float> low(random_tensor<float>({3}, 4)), high(random_tensor<float>({3}, 5));
  const auto x = random_tensor<float>({3}, 6);
  int left = 0;
  const auto gradients = [&] {
    low.zero_gradient();
    high.zero_gradient();
    Tape tape;
    const auto f = [&](const Var<float>& in) {
      if (left-- == 0) throw Error("the user's");
      return in * low;
    };
    tape.backward(sum(checkpoint(f, tape.watch(x)) * high));
  };
  left = -1;
  gradients();
  const auto right_low = low.gradient().values(), right_high = high.gradient().values();
  left = 1;  // when it runs again
  CHECK(message_of(gradients) == "the user's");
  left = -1;
  gradients();
  CHECK(low.gradient().values() == right_low);
  CHECK(high.gradient().values() == right_high);
}

TEST_CASE("a tape whose backward pass failed takes no other, whatever it threw") {
  for (const bool own : {false, true}) {
    Parameter<float> a(Tensor<float>::full({1}, 1)), w(Tensor<float>::full({1}, 1));
    Tape tape;
    const auto h = a * 1.f;
    bool first = true;
    const auto f = [&](const Var<float>& x) {
      if (own && !std::exchange(first, false)) throw std::runtime_error("no Error");
      return x * w;
    };
    const auto failing = sum(checkpoint(f, h)) + sum(h * 5.f), other = sum(h * 7.f);
    if (!own) w.value().data()[0] = 2;
    CHECK_THROWS(tape.backward(failing));
    for (auto* p : {&a, &w}) p->zero_gradient();
    CHECK(message_of([&] { tape.backward(other); }).find("an earlier one of this tape threw midway") !=
          std::string::npos);
    CHECK(a.gradient().item() == 0);
  }
  // What is refused before anything is walked leaves the tape as it is.
  Parameter<float> a(Tensor<float>::full({2}, 1));
  Tape tape;
  const auto y = a * 7.f;
  CHECK_THROWS_AS(tape.backward(y), Error);
  CHECK_THROWS_AS(tape.backward(y, Tensor<float>::zeros({3})), Error);
  tape.backward(sum(y));
  CHECK(a.gradient().values() == Floats(2, 7));
}

namespace {

template <class X>
using Listed = std::vector<X>;
template <class X>
using Several = std::array<X, 1>;
template <class X>
using Perhaps = std::optional<X>;
template <class X>
using Either = std::variant<int, X>;
template <class X>
using Owned = std::shared_ptr<X>;
template <class X>
struct Inner {
  X x;
  int n = 0;
};
template <class X>
using Paired = std::pair<std::string, Inner<X>>;
template <class X>
using Operands = Listed<Var<typename X::value_type, typename X::backend>>;

/// y = 2·x, which keeps x in some way; dx is dy, or none.
template <template <class> class Kept>
struct Keeps {
  static constexpr const char* name = "keeps";
  bool gives = true;
  template <Scalar T, Backend B>
  struct Saved {
    int before = 0;
    Kept<Tensor<T, B>> kept;
  };
  template <Real T, Backend B>
  static Tensor<T, B> forward(auto& saved, Needs<1>, const Tensor<T, B>& x) {
    using K = Kept<Tensor<T, B>>;
    if constexpr (std::is_same_v<K, Paired<Tensor<T, B>>>) saved.kept = {"x", {x, 0}};
    else if constexpr (std::is_same_v<K, Owned<Tensor<T, B>>>) saved.kept = std::make_shared<Tensor<T, B>>(x);
    else saved.kept = K{x};
    return map(Add{}, x, x);
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, const Tensor<T, B>& dy) const {
    return {gives ? dy : Tensor<T, B>()};
  }
};

template <template <class> class Kept>
void check_noticed() {
  for (const bool change : {false, true}) {
    Parameter<float> w(Tensor<float>::full({2}, 1));
    Tape tape;
    const auto loss = sum(apply(Where::current(), Keeps<Kept>{}, w));
    if (change) w.value().data()[0] = 3;
    const auto found = message_of([&] { tape.backward(loss); });
    CHECK((found.find("keeps: a parameter was changed") == 0) == change);
  }
}

}  // namespace

TEST_CASE("that a parameter was changed is noticed in whatever an op keeps it") {
  check_noticed<Listed>();
  check_noticed<Several>();
  check_noticed<Perhaps>();
  check_noticed<Either>();
  check_noticed<Owned>();
  check_noticed<Inner>();
  check_noticed<Paired>();
  check_noticed<Operands>();
}

TEST_CASE("a parameter that is changed behind the last op, which keeps it, is noticed") {
  Parameter<float> v(Tensor<float>::full({}, 2)), w(Tensor<float>::full({}, 3));
  Tape tape;
  const auto loss = mul(w, v);
  w.value().data()[0] = 5;
  CHECK(message_of([&] { tape.backward(loss); }).starts_with("mul: a parameter was changed"));
}

TEST_CASE("an op that gives an empty gradient where one is needed is named") {
  Parameter<float> w(Tensor<float>::full({2}, 1));
  Tape tape;
  const auto loss = sum(apply(Where::current(), Keeps<Listed>{.gives = false}, w));
  CHECK(message_of([&] { tape.backward(loss); }) ==
        "keeps: its backward gave an empty gradient to an input that needs one");
}

namespace {

/// y = x, whose dx is infinite.
struct Infinite {
  static constexpr const char* name = "infinite";
  template <Scalar T, Backend B>
  struct Saved {};
  static auto forward(auto&, Needs<1>, const auto& x) { return x.clone(); }
  static auto backward(const auto&, Needs<1> need, const auto& dy) {
    return grads(need, [&] { return map(Div{}, dy, map(Sub{}, dy, dy)); });
  }
};

}  // namespace

TEST_CASE("gradcheck: a gradient or a difference that is not finite is as wrong as can be") {
  const auto x = Tensor<double>::from({3}, {1, 2, 3});
  const auto infinite = [](const auto& in) { return sum(apply(Where::current(), Infinite{}, in[0])); };
  CHECK(std::isinf(gradcheck(infinite, {x})));
  CHECK(std::isinf(gradcheck([](const auto& in) { return sum(in[0] * 1e308); }, {x})));
  CHECK(gradcheck([](const auto& in) { return sum(in[0] * in[0]); }, {x}) < 1e-6);
  const Parameter<double> w(x.clone());  // which it leaves alone
  CHECK(gradcheck([&](const auto& in) { return sum(in[0] * w); }, {x}) < 1e-6);
  CHECK_FALSE(w.gradient().defined());
}

TEST_CASE("a parameter that was moved from is a copy, in a list of layers too") {
  Parameter<float> p(Tensor<float>::full({2}, 1));
  const Parameter<float> q = std::move(p);
  CHECK(p.defined());
  CHECK(&std::as_const(p).value() == &q.value());
  std::vector<nn::Linear<float>> layers{nn::Linear<float>::normal(2, 2, {1, 0, 0})};
  const auto mine = std::move(layers[0]);
  Index size = 0;
  nn::for_each_parameter(layers, [&](const std::string&, auto& each) { size += each.size(); });
  CHECK(size == 6);
}
