// Owns: the reversible stack: exact equals stored bit for bit on real transformer layers, for every scheme, depth,
// factor, slice and thread count; read-outs, sides, nesting, accumulation; its errors. The shear passes are in
// shear_test.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <meft/autodiff/gradcheck.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/transformer.hpp>
#include <meft/ops/loss.hpp>

#include "messages.hpp"

namespace {

using namespace meft;
using test::check_error;
using test::message_of;

template <Real T = float>
Tensor<T> random(const Shape& shape, std::uint32_t site, double deviation = 1) {
  Tensor<T> out(shape);
  fill_normal(out, {17, site, 0}, deviation);
  return out;
}

/// Sequences of 1 to 30 tokens, 110 in all.
Offsets ragged() { return Offsets::of_lengths(std::vector<std::int32_t>{7, 1, 30, 2, 11, 1, 19, 3, 26, 10}); }

constexpr Index width = 32;

/// Layers of a small BERT whose tensors are all random.
std::vector<nn::TransformerLayer<float>> transformer(Index depth, double dropout) {
  model::BertConfig config;
  config.vocab_size = 4;
  config.hidden_size = width;
  config.num_hidden_layers = depth;
  config.num_attention_heads = 4;
  config.intermediate_size = 64;
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout;
  model::Transformer<float> bert(config.spec());
  bert.initialise(3);
  std::uint32_t site = 0;
  nn::for_each_parameter(bert, [&](const std::string&, Parameter<float>& p) {
    const auto noise = random(p.shape(), site++, 0.12);
    map(Cpu{}, Add{}, p.size(), p.value().data(), std::as_const(p).value().data(), noise.data());
  });
  return bert.layers;
}

enum class Scheme { meft1, meft2, meft3, revnet, midpoint, leapfrog };
const std::string scheme_names[] = {"meft1", "meft2", "meft3", "revnet", "midpoint", "leapfrog"};

/// A body of `depth` reversible layers. MEFT trains adapters above frozen, packed weights; the others train everything.
struct Model {
  Scheme scheme = Scheme::meft1;
  Index depth = 2;
  double dropout = 0;
  Lambda lambda{1, 10}, beta{1, 10};
  StackOptions options{.slice_tokens = 40};
  Index reversible_layers = -1;
  Coupling coupling = Coupling::paper;

  Chain<float> build() const {
    auto layers = transformer(depth, dropout);
    if (scheme <= Scheme::meft3) {
      freeze(layers);
      nn::pack<float, Cpu>(layers);
      const MeftOptions meft{.stack = options,
                             .reversible_layers = reversible_layers,
                             .dropout = static_cast<float>(dropout),
                             .coupling = coupling,
                             .start = AdapterStart::paper,
                             .deviation = 0.3};
      if (scheme == Scheme::meft1) return couple(layers, Meft1{6, lambda, {}, meft});
      if (scheme == Scheme::meft2) return couple(layers, Meft2{6, {}, lambda, meft});
      return couple(layers, Meft3{6, lambda, beta, meft});
    }
    ReversibleStack<float>::Layers stack;
    for (const auto& layer : layers) {
      const Function<float> whole = [layer](const Var<float>& x, const Context<float>& c) { return layer(x, c); };
      const Function<float> attend = [layer](const Var<float>& x, const Context<float>& c) {
        return layer.attend(x, c);
      };
      const Function<float> feed = [layer](const Var<float>& x, const Context<float>& c) { return layer.feed(x, c); };
      if (scheme == Scheme::revnet) stack.push_back(revnet<float, Cpu>(attend, feed));
      else if (scheme == Scheme::midpoint) stack.push_back(midpoint<float, Cpu>(whole, 0.1));
      else stack.push_back(leapfrog<float, Cpu>(whole, 0.1));
    }
    return {layers, ReversibleStack<float>(std::move(stack), options), 0};
  }
};

/// What a run gave: the loss, the output, the gradients of the input and of every trained parameter.
struct Result {
  std::vector<float> all;
  std::size_t trained = 0;    // elements of parameters
  std::vector<float> lowest;  // gradient of the lowest trained layer

  bool operator==(const Result& other) const {
    return all.size() == other.all.size() && std::memcmp(all.data(), other.all.data(), all.size() * sizeof(float)) == 0;
  }
};

void append(std::vector<float>& out, const Tensor<float>& x) {
  REQUIRE(x.defined());
  const auto values = x.values();
  out.insert(out.end(), values.begin(), values.end());
}

const Offsets& offsets() {
  static const Offsets shared = ragged();
  return shared;
}

Context<float> training(std::uint32_t step = 0) { return {offsets(), {5, step, true}}; }

Result run(Chain<float> body, Context<float> context = training()) {
  const auto start = random({context.offsets.tokens(), width}, 900);
  Result out;
  Tape tape;
  const auto x = tape.watch(start.clone());
  const auto y = body({x, context}).value;
  const auto loss = mse(y, random(y.shape(), 901));
  append(out.all, loss.value());
  append(out.all, y.value());
  tape.backward(loss);
  append(out.all, tape.gradient(x));
  for (auto& [name, p] : nn::trainable<float, Cpu>(body)) {
    if (!p.gradient().defined()) continue;  // the last reversible adapter of MEFT1 with the carrier read out
    append(out.all, p.gradient());
    out.trained += static_cast<std::size_t>(p.size());
    if (name.starts_with("encoder.layer.0.")) append(out.lowest, p.gradient());
    p.gradient() = {};
  }
  REQUIRE(out.trained > 0);
  REQUIRE(std::all_of(out.all.begin(), out.all.end(), [](float v) { return std::isfinite(v); }));
  return out;
}

double relative(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

/// Runs with `threads`, and leaves one behind.
template <class F>
auto with_threads(int threads, const F& f) {
  set_threads(threads);
  struct Restore {
    ~Restore() { set_threads(1); }
  } restore;
  return f();
}

/// Every combination of policy, stored layers and thread count gives the bits of `stored` on one thread.
Result check_exact(Model m) {
  m.options.streams = Streams::stored;
  const auto oracle = with_threads(1, [&] { return run(m.build()); });
  m.options.streams = Streams::exact;
  const auto body = m.build();
  CHECK(with_threads(1, [&] { return run(body); }) == oracle);
  CHECK(with_threads(2, [&] { return run(body); }) == oracle);
  for (const Index layers : {Index{1}, m.depth - 1, m.depth + 1}) {
    CAPTURE(layers);
    m.options.stored_layers = layers;
    CHECK(with_threads(2, [&] { return run(m.build()); }) == oracle);
  }
  m.options.stored_layers = 0;
  m.options.streams = Streams::stored;
  CHECK(with_threads(2, [&] { return run(m.build()); }) == oracle);
  return oracle;
}

using Layers = ReversibleStack<float>::Layers;

Function<float> linear_function(const Parameter<float>& w) {
  return [w](const Var<float>& x, const Context<float>&) { return tanh(linear(x, w)); };
}

/// Five MEFT1-like layers of tanh(linear); layer `at` has `f` instead.
Layers layers_with(std::size_t at, const Function<float>& f) {
  Layers out;
  for (std::size_t l = 0; l < 5; ++l) {
    const auto one = linear_function(Parameter<float>(random({width, width}, static_cast<std::uint32_t>(50 + l), 0.2)));
    out.push_back(coupling<float, Cpu>(l == at ? f : one, one, {1, 10}, {1, 1}, true));
  }
  return out;
}

}  // namespace

TEST_CASE("reversible: exact gradients equal stored ones bit for bit: schemes, depths, dropout, slices, threads") {
  for (const auto scheme :
       {Scheme::meft1, Scheme::meft2, Scheme::meft3, Scheme::revnet, Scheme::midpoint, Scheme::leapfrog})
    for (const Index depth : {2, 12, 48})
      for (const double dropout : {0.0, 0.1}) {
        std::vector<float> losses;
        for (const Index slice : {8, 40, 10000}) {
          if (depth == 48 && slice != 40) continue;
          CAPTURE(scheme_names[static_cast<int>(scheme)]);
          CAPTURE(depth);
          CAPTURE(dropout);
          CAPTURE(slice);
          const auto result =
              check_exact({.scheme = scheme, .depth = depth, .dropout = dropout, .options = {.slice_tokens = slice}});
          losses.push_back(result.all[0]);
        }
        // A slice drops what the whole batch drops, so slicing moves the loss by rounding only.
        for (const float loss : losses) CHECK(loss == doctest::Approx(losses[0]).epsilon(1e-4));
      }
}

TEST_CASE("reversible: dropout is on in these tests, and a step draws anew") {
  const Model m{.scheme = Scheme::meft1, .dropout = 0.1};
  const auto body = m.build();
  const auto first = run(body), again = run(body), next = run(body, training(1)),
             off = run(body, {offsets(), {5, 0, false}});
  CHECK(first == again);
  CHECK_FALSE(first == next);
  CHECK_FALSE(first == off);
}

TEST_CASE("reversible: every factor, 32- and 64-bit words") {
  for (const int bits : {32, 64})
    for (const Lambda lambda :
         {Lambda{1, 10}, {1, 256}, {7, 8}, {3, 7}, {-1, 1}, {1, 1}, {10, 7}, {-2, 3}, {20, 200}}) {
      CAPTURE(bits);
      CAPTURE(lambda.text());
      for (const auto scheme : {Scheme::meft1, Scheme::meft3}) {
        const StackOptions options{.word_bits = bits, .fraction_bits = bits == 32 ? 20 : 40, .slice_tokens = 40};
        check_exact(
            {.scheme = scheme, .depth = 6, .dropout = 0.1, .lambda = lambda, .beta = {7, 8}, .options = options});
      }
    }
}

TEST_CASE("reversible: the balanced coupling is exact too, and its function is F - lambda * x") {
  for (const auto scheme : {Scheme::meft1, Scheme::meft2, Scheme::meft3})
    for (const Lambda lambda : {Lambda{1, 10}, {-1, 4}, {1, 1}, {-7, 8}}) {
      CAPTURE(scheme_names[static_cast<int>(scheme)]);
      CAPTURE(lambda.text());
      const Model m{.scheme = scheme,
                    .depth = 6,
                    .dropout = 0.1,
                    .lambda = lambda,
                    .beta = {1, 3},
                    .coupling = Coupling::balanced};
      const auto balanced = check_exact(m);
      auto paper = m;
      paper.coupling = Coupling::paper;
      CHECK_FALSE(run(paper.build()) == balanced);
    }
  // Both streams start alike, so that a first layer sees no difference between them.
  const Function<float> f = linear_function(Parameter<float>(random({width, width}, 50, 0.2)));
  const Context<float> context{Offsets({0, 2, 5})};
  const auto x = random({5, width}, 400), z = random({5, width}, 401);
  auto step = shear<float, Cpu>(0, 1, {1, 3}, f);
  step.balanced = true;
  const StackOptions options{.readout = {Readout::Kind::carrier}, .carrier = 0};
  const ReversibleStack<float> stack(Layers{{step}}, options);
  const auto same = stack(x, context).value().values(), other = stack(z, x, context).value().values(),
             plain = f(x, context).value().values();
  for (std::size_t i = 0; i < plain.size(); ++i) {
    CHECK(std::fabs(same[i] - plain[i]) < 3e-6f);
    CHECK(std::fabs(other[i] - (plain[i] + (z.data()[i] - x.data()[i]) / 3)) < 3e-6f);
  }
}

TEST_CASE("reversible: features with a range of their own: found by a pass, exact, and the others keep their bits") {
  constexpr std::size_t large = 7;
  auto start = random({offsets().tokens(), width}, 900);
  const auto layers = [&](float by) {
    const Parameter<float> w(random({width, width}, 50, 0.2));
    const Function<float> f = [=](const Var<float>& x, const Context<float>&) {
      auto factor = Tensor<float>::full({width}, 1);
      factor.data()[large] = by;
      return tanh(linear(x, w)) * factor;
    };
    return Layers(4, coupling<float, Cpu>(f, f, {1, 10}, {1, 1}, true));
  };
  const auto bits_of = [&](const ReversibleStack<float>& stack) {
    std::vector<float> out;
    Tape tape;
    const auto x = tape.watch(start);
    const auto y = stack(x, training());
    append(out, y.value());
    tape.backward(mse(y, random(y.shape(), 901)));
    append(out, tape.gradient(x));
    return out;
  };
  const auto look = [&](const ReversibleStack<float>& stack, bool must = false) {
    return widen<float, Cpu>({stack.range()}, must, [&] { (void)stack(start, training()); });
  };
  for (const bool balanced : {false, true}) {
    auto wide = layers(20000);
    for (auto& layer : wide) layer[0].balanced = balanced;
    const ReversibleStack<float> exact(wide, {.slice_tokens = 40}),
        stored(wide, {.streams = Streams::stored, .slice_tokens = 40});
    CHECK(message_of([&] { (void)exact(start, training()); }).find("left the fixed-point range") != std::string::npos);
    for (const auto* stack : {&exact, &stored}) {
      const auto found = look(*stack);
      CHECK(found.features == 1);
      const auto& bits = stack->range()->bits();
      REQUIRE(bits.size() == width);
      for (std::size_t j = 0; j < width; ++j) CHECK((j == large ? bits[j] == found.least : bits[j] == 20));
      CHECK((found.least >= 13 && found.least <= 16));
    }
    const auto one = with_threads(1, [&] { return bits_of(stored); });
    CHECK(with_threads(1, [&] { return bits_of(exact); }) == one);
    CHECK(with_threads(2, [&] { return bits_of(exact); }) == one);
    CHECK(look(exact).features == 0);  // it is wide enough
    auto far = start.clone();
    far.data()[large] = 1e9f;
    CHECK(message_of([&] {
            (void)exact(far, training());
          }).find("(20 fraction bits, in a unit in which each feature has as many)") != std::string::npos);
  }

  // Values that fit need no units: the same bits as without a look.
  const ReversibleStack<float> narrow(layers(3), {.slice_tokens = 40}), looked(layers(3), {.slice_tokens = 40});
  CHECK(look(looked).features == 0);
  CHECK(looked.range()->bits().empty());
  CHECK(bits_of(looked) == bits_of(narrow));
  // Where a value left its range and none is near it now, the nearest gets one bit less.
  CHECK(look(looked, true).features == 1);
  CHECK(looked.range()->bits()[large] == 19);
  // 20 fraction bits, or units of any powers of two: what is not rounded has the same bits.
  CHECK(in_range<float, Cpu>({looked.range()}, [&] {
          start.data()[large] = 30000;
          return looked(start, training()).value().data()[large];
        }) > 200);
  CHECK(looked.range()->least() == 15);
  start.data()[large + width] = std::nanf("");
  CHECK_THROWS_AS((void)in_range<float>(StreamRanges<float, Cpu>{looked.range()},
                                        [&] { return looked(start, training()).value().size(); }),
                  StreamError);
  CHECK(looked.range()->least() == 15);
  check_error({"fraction bits are not in [1, the stack's]", "21, 20"}, [&] { looked.range()->set({20, 21}); });
  looked.range()->set(std::vector<int>(5, 12));
  check_error({"range is that of another width"}, [&] { (void)looked(start, training()); });
}

TEST_CASE("reversible: the adapters that MEFT trains need no gradient of the input") {
  // Nothing below the stack is recorded, so the lowest layer skips the gradient of its source.
  for (const auto scheme : {Scheme::meft1, Scheme::meft2, Scheme::meft3}) {
    std::vector<std::vector<float>> got;
    for (const auto streams : {Streams::exact, Streams::stored})
      for (const bool watch : {false, true}) {
        auto body =
            Model{.scheme = scheme, .depth = 3, .dropout = 0.1, .options = {.streams = streams, .slice_tokens = 40}}
                .build();
        Tape tape;
        const auto start = random({offsets().tokens(), width}, 900);
        const Var<float> x = watch ? tape.watch(start) : Var<float>(start);
        const auto y = body({x, training()}).value;
        tape.backward(mse(y, random(y.shape(), 901)));
        got.emplace_back();
        for (auto& [name, p] : nn::trainable<float, Cpu>(body)) append(got.back(), p.gradient());
      }
    for (const auto& g : got) CHECK(g == got[0]);
  }
}

TEST_CASE("reversible: rounded reversal gives the lower layers a wrong gradient") {
  double twelve = 0, two = 0;
  for (const auto scheme : {Scheme::meft1, Scheme::meft3})
    for (const Index depth : {2, 12, 24}) {
      Model m{.scheme = scheme, .depth = depth};
      m.options.streams = Streams::stored;
      const auto oracle = run(m.build());
      m.options.streams = Streams::rounded;
      auto body = m.build();
      Tape tape;
      const auto y = body({random({offsets().tokens(), width}, 900), training()}).value;
      tape.backward(mse(y, random(y.shape(), 901)));
      std::vector<float> lowest;
      for (auto& [name, p] : nn::trainable<float, Cpu>(body))
        if (name.starts_with("encoder.layer.0.")) append(lowest, p.gradient());
      const double error = relative(lowest, oracle.lowest);
      MESSAGE(scheme_names[static_cast<int>(scheme)], ", ", static_cast<int>(depth),
              " layers, rounded: relative error of the lowest layer's gradient ", error);
      if (scheme == Scheme::meft3 && depth == 2) two = error;
      if (scheme == Scheme::meft3 && depth == 12) twelve = error;
    }
  CHECK(two < 1e-2);            // two layers can still be undone
  CHECK_FALSE(twelve <= 1e-3);  // twelve cannot: wrong, or not a number
}

TEST_CASE("reversible: only the highest layers reversible, the others frozen and plain") {
  for (const auto scheme : {Scheme::meft1, Scheme::meft3}) {
    const auto exact = check_exact({.scheme = scheme, .depth = 6, .dropout = 0.1, .reversible_layers = 2});
    CHECK(exact.lowest.empty());
    for (const auto streams : {Streams::exact, Streams::stored}) {
      auto body =
          Model{
              .scheme = scheme, .depth = 6, .options = {.streams = streams, .slice_tokens = 40}, .reversible_layers = 2}
              .build();
      CHECK(body.plain == 4);
      CHECK(body.stack.depth() == 2);
      Tape tape;
      const auto y = body({random({offsets().tokens(), width}, 900), training()}).value;
      tape.backward(mse(y, random(y.shape(), 901)));
      int with = 0;
      nn::for_each_parameter(body, [&](const std::string& name, Parameter<float>& p) {
        const bool high = name.starts_with("encoder.layer.4.") || name.starts_with("encoder.layer.5.");
        CHECK_MESSAGE(p.gradient().defined() == p.trainable(), name);
        CHECK_MESSAGE((!p.trainable() || high), name);
        with += p.gradient().defined();
      });
      CHECK(with == 2 * 2 * 4);  // two layers of two adapters of four tensors
    }
  }
  check_error({"reversible_layers", "7, 6"}, [] { (void)Model{.depth = 6, .reversible_layers = 7}.build(); });
  check_error({"reversible_layers", "0, 6"}, [] { (void)Model{.depth = 6, .reversible_layers = 0}.build(); });
}

TEST_CASE("reversible: inference gives the bits of training") {
  const auto start = random({offsets().tokens(), width}, 900);
  std::vector<std::vector<float>> outputs;
  for (const auto streams : {Streams::exact, Streams::stored})
    for (const bool record : {false, true}) {
      const auto body =
          Model{
              .scheme = Scheme::meft1, .depth = 4, .dropout = 0.1, .options = {.streams = streams, .slice_tokens = 40}}
              .build();
      std::unique_ptr<Tape> tape;
      if (record) tape = std::make_unique<Tape>();
      const auto y = body({start, training()}).value;
      CHECK(y.recorded() == record);
      outputs.push_back(y.value().values());
    }
  for (const auto& y : outputs) CHECK(y == outputs[0]);
}

TEST_CASE("reversible: gradients accumulate over backward calls, on one tape and on two") {
  auto body = Model{.scheme = Scheme::meft1, .depth = 3, .dropout = 0.1}.build();
  const auto start = random({offsets().tokens(), width}, 900);
  const auto take = [&] {
    std::vector<float> out;
    for (auto& [name, p] : nn::trainable<float, Cpu>(body)) {
      append(out, p.gradient());
      p.gradient() = {};
    }
    return out;
  };
  const auto loss = [&](std::uint32_t step) {
    const auto y = body({start, training(step)}).value;
    return mse(y, random(y.shape(), 901 + step));
  };
  const auto backward = [&](std::uint32_t step) {
    Tape tape;
    tape.backward(loss(step));
  };
  backward(0);
  auto sum = take();
  backward(1);
  const auto second = take();
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];

  backward(0);
  backward(1);
  CHECK(relative(take(), sum) < 1e-6);
  {
    Tape tape;
    const auto a = loss(0), b = loss(1);
    tape.backward(a);
    tape.backward(b);
    CHECK(relative(take(), sum) < 1e-6);
    check_error({"freed by an earlier backward"}, [&] { tape.backward(a); });
  }
  {
    Tape tape;
    tape.backward(loss(0) + loss(1));
    CHECK(relative(take(), sum) < 1e-6);
  }
}

TEST_CASE("reversible: checkpoints and stacks inside f, a stack inside a checkpoint") {
  const auto layers = transformer(4, 0.1);
  const auto start = random({offsets().tokens(), width}, 900);
  enum class Inner { plain, checkpointed, nested };
  const auto gradient = [&](Inner inner, Streams streams, bool around) {
    Layers outer;
    for (const auto& layer : layers) {
      Function<float> f = [layer](const Var<float>& x, const Context<float>& c) { return layer(x, c); };
      if (inner == Inner::checkpointed)
        f = [layer](const Var<float>& x, const Context<float>& c) {
          return checkpoint([layer, c](const Var<float>& in) { return layer(in, c); }, x);
        };
      const Function<float> feed = [layer](const Var<float>& x, const Context<float>& c) { return layer.feed(x, c); };
      if (inner == Inner::nested) {
        const ReversibleStack<float> small({coupling<float, Cpu>(f, feed, {1, 10})}, {.streams = streams});
        f = [small](const Var<float>& x, const Context<float>& c) { return small(x, c); };
      }
      outer.push_back(coupling<float, Cpu>(f, feed, {1, 10}, {}, true));
    }
    const ReversibleStack<float> stack(outer, {.streams = streams, .slice_tokens = 40});
    auto trained = layers;
    std::vector<float> out;
    {
      Tape tape;
      const auto x = tape.watch(start.clone());
      const auto context = training();
      const auto y = around ? checkpoint([stack, context](const Var<float>& in) { return stack(in, context); }, x)
                            : stack(x, context);
      tape.backward(mse(y, random(y.shape(), 901)));
      append(out, tape.gradient(x));
    }
    for (auto& [name, p] : nn::trainable<float, Cpu>(trained)) {
      append(out, p.gradient());
      p.gradient() = {};
    }
    return out;
  };
  const auto oracle = gradient(Inner::plain, Streams::stored, false);
  for (const int threads : {1, 2}) {
    set_threads(threads);
    CHECK(gradient(Inner::checkpointed, Streams::exact, false) == oracle);
    CHECK(gradient(Inner::checkpointed, Streams::stored, false) == oracle);
    CHECK(gradient(Inner::plain, Streams::exact, true) == oracle);
    CHECK(gradient(Inner::nested, Streams::exact, false) == gradient(Inner::nested, Streams::stored, false));
  }
  set_threads(1);
}

TEST_CASE("reversible: the end of a function that sees single rows goes in chunks, with the same bits") {
  const auto layers = transformer(4, 0.1);
  const auto start = random({offsets().tokens(), width}, 910);
  struct Result {
    std::vector<float> y, dx, parameters;
  };
  const auto run = [&](bool split, Streams streams, Index tokens) {
    Layers reversible;
    for (const auto& layer : layers) {
      const Function<float> whole = [layer](const Var<float>& x, const Context<float>& c) { return layer(x, c); };
      const Function<float> attend = [layer](const Var<float>& x, const Context<float>& c) {
        return layer.attend(x, c);
      };
      const Function<float> feed = [layer](const Var<float>& x, const Context<float>& c) { return layer.feed(x, c); };
      if (split)
        reversible.push_back({shear<float, Cpu>(0, 1, {1, 10}, attend, feed), shear<float, Cpu>(1, 0, {}, {}, feed),
                              swap_streams<float, Cpu>()});
      else reversible.push_back(coupling<float, Cpu>(whole, feed, {1, 10}, {}, true));
    }
    const ReversibleStack<float> stack(reversible, {.streams = streams, .slice_tokens = tokens});
    auto trained = layers;
    Result out;
    Tape tape;
    const auto x = tape.watch(start.clone());
    const auto y = stack(x, training());
    append(out.y, y.value());
    tape.backward(mse(y, random(y.shape(), 911)));
    append(out.dx, tape.gradient(x));
    for (auto& [name, p] : nn::trainable<float, Cpu>(trained)) {
      append(out.parameters, p.gradient());
      p.gradient() = {};
    }
    return out;
  };
  REQUIRE(offsets().longest() > 7);
  const auto oracle = run(false, Streams::stored, 1000);
  for (const int threads : {1, 2}) {
    set_threads(threads);
    for (const Index tokens : {Index{7}, Index{1000}}) {
      const auto exact = run(true, Streams::exact, tokens), stored = run(true, Streams::stored, tokens);
      CHECK(exact.y == oracle.y);
      CHECK(exact.dx == oracle.dx);
      CHECK(exact.dx == stored.dx);
      CHECK(exact.parameters == stored.parameters);
      CHECK(relative(exact.parameters, oracle.parameters) < 1e-6);
    }
  }
  set_threads(1);
}

// --- sides and read-outs --------------------------------------------------------------------------------------------

namespace {

/// Layers whose F attends to a side input: linear(attention(x·Wq, s·Wk, s)); G is tanh(linear).
template <Real T>
struct Cross {
  static constexpr Index small = 6;
  std::vector<Parameter<T>> weights;
  typename ReversibleStack<T>::Layers layers;

  explicit Cross(int depth, Lambda lambda = {1, 10}, Lambda beta = {7, 8}) {
    for (int l = 0; l < depth; ++l) {
      std::vector<Parameter<T>> w;
      for (int i = 0; i < 4; ++i)
        w.emplace_back(random<T>({small, small}, static_cast<std::uint32_t>(200 + 4 * l + i), 0.5));
      weights.insert(weights.end(), w.begin(), w.end());
      const Function<T> f = [w](const Var<T>& x, const Context<T>& c) {
        const auto& side = c.sides.at(0);
        const Attention spec{.queries = c.offsets, .keys = side.offsets, .heads = 2};
        return linear(attention(linear(x, w[0]), linear(side.value, w[1]), side.value, spec), w[2]);
      };
      const Function<T> g = [w](const Var<T>& x, const Context<T>&) { return tanh(linear(x, w[3])); };
      layers.push_back(coupling<T, Cpu>(f, g, lambda, beta, l % 2 == 0));
    }
  }

  static Offsets rows() { return Offsets({0, 3, 4, 9}); }
  static Offsets side_rows() { return Offsets({0, 2, 7, 8}); }
};

}  // namespace

TEST_CASE(
    "reversible: a side input that every layer reads: exact equals stored, with and without a gradient of the side") {
  for (const int bits : {32, 64})
    for (const bool side_gradient : {true, false}) {
      std::vector<std::vector<float>> got;
      for (const int threads : {1, 2})
        for (const auto streams : {Streams::stored, Streams::exact}) {
          set_threads(threads);
          Cross<float> cross(5);
          const ReversibleStack<float> stack(cross.layers, {.streams = streams, .word_bits = bits, .slice_tokens = 4});
          Tape tape;
          const auto x = tape.watch(random({9, Cross<float>::small}, 300));
          const auto start = random({8, Cross<float>::small}, 301);
          const Var<float> side = side_gradient ? tape.watch(start) : Var<float>(start);
          const auto y = stack(x, Context<float>{cross.rows(), {}, 0, {{side, cross.side_rows()}}});
          tape.backward(mse(y, random(y.shape(), 302)));
          got.emplace_back();
          append(got.back(), y.value());
          append(got.back(), tape.gradient(x));
          if (side_gradient) append(got.back(), tape.gradient(side));
          for (const auto& w : cross.weights) append(got.back(), w.gradient());
        }
      set_threads(1);
      for (const auto& g : got) CHECK(g == got[0]);
    }
}

// Fixed point of 40 fraction bits makes the loss a staircase with steps near 1e-12, so differences take a step of 1e-3,
// whose own error, third derivatives times 1e-6, bounds the check.
TEST_CASE("reversible: gradients of both streams, the side, the weights and the mix against finite differences") {
  const std::vector<Readout> readouts{readout_from("average"),         readout_from("plm"),
                                      readout_from("learned"),         readout_from("scaled"),
                                      {Readout::Kind::mix, 0.3, -1.2}, readout_from("concat")};
  for (const auto streams : {Streams::exact, Streams::stored})
    for (const auto& readout : readouts)
      for (const int carrier : {0, 1}) {
        CAPTURE(std::string(name_of(streams)));
        CAPTURE(static_cast<int>(readout.kind));
        CAPTURE(carrier);
        Cross<double> cross(3);
        const StackOptions options{.streams = streams,
                                   .word_bits = 64,
                                   .fraction_bits = 40,
                                   .slice_tokens = 4,
                                   .readout = readout,
                                   .carrier = carrier};
        ReversibleStack<double> stack(cross.layers, options);
        const bool learned = readout.kind == Readout::Kind::learned;
        if (learned) {
          CHECK(stack.mix().value().item() == 1.0);
          stack.mix().value().data()[0] = 0.4;
        }
        const std::vector<Tensor<double>> inputs{random<double>({9, 6}, 300), random<double>({9, 6}, 303),
                                                 random<double>({8, 6}, 301)};
        const auto target = random<double>({9, readout.kind == Readout::Kind::concat ? 12 : 6}, 302);
        const auto loss = [&](const std::vector<Var<double>>& v) {
          return mse(stack(v[0], v[1], Context<double>{cross.rows(), {}, 0, {{v[2], cross.side_rows()}}}), target);
        };
        CHECK(gradcheck(loss, inputs, 1e-3) < 1e-5);

        auto trained = cross.weights;
        if (learned) trained.push_back(stack.mix());
        for (auto& p : trained) p.gradient() = {};
        const std::vector<Var<double>> constant(inputs.begin(), inputs.end());
        {
          Tape tape;
          tape.backward(loss(constant));
        }
        for (std::size_t i = 0; i < trained.size(); ++i) {
          auto& p = trained[i];
          const Index e = (7 * static_cast<Index>(i)) % p.size();
          const double before = p.value().data()[e];
          double moved[2];
          for (const int side : {0, 1}) {
            p.value().data()[e] = before + (side ? 1e-3 : -1e-3);
            moved[side] = loss(constant).value().item();
          }
          p.value().data()[e] = before;
          CAPTURE(i);
          const double found = p.gradient().defined() ? p.gradient().data()[e] : 0.0;
          CHECK(found == doctest::Approx((moved[1] - moved[0]) / 2e-3).epsilon(1e-4).scale(0.01));
        }
      }
}

TEST_CASE("reversible: gradients under negative and large factors against finite differences") {
  const std::vector<std::pair<Lambda, Lambda>> factors{
      {{-1, 1}, {1, 1}}, {{1, 1}, {-1, 1}}, {{-1, 10}, {7, 8}}, {{-3, 2}, {-1, 4}}, {{5, 3}, {-2, 3}}};
  const auto target = random<double>({9, 6}, 302);
  const std::vector<Tensor<double>> inputs{random<double>({9, 6}, 300), random<double>({9, 6}, 303),
                                           random<double>({8, 6}, 301)};
  for (const auto& pair : factors)
    for (const auto streams : {Streams::exact, Streams::stored}) {
      const Lambda &lambda = pair.first, &beta = pair.second;
      CAPTURE(lambda.text());
      CAPTURE(beta.text());
      Cross<double> cross(3, lambda, beta);
      const ReversibleStack<double> stack(
          cross.layers, {.streams = streams, .word_bits = 64, .fraction_bits = 40, .slice_tokens = 4});
      const auto loss = [&](const std::vector<Var<double>>& v) {
        return mse(stack(v[0], v[1], Context<double>{cross.rows(), {}, 0, {{v[2], cross.side_rows()}}}), target);
      };
      CHECK(gradcheck(loss, inputs, 1e-3) < 1e-5);
    }
  // The schemes that have such factors of their own.
  const Parameter<double> w(random<double>({6, 6}, 60, 0.5));
  const Function<double> f = [w](const Var<double>& x, const Context<double>&) { return tanh(linear(x, w)); };
  const std::vector<ReversibleLayer<double>> schemes{midpoint<double, Cpu>(f, 0.4), leapfrog<double, Cpu>(f, 0.4)};
  for (const auto& layer : schemes) {
    const ReversibleStack<double> stack({layer, layer, layer},
                                        {.word_bits = 64, .fraction_bits = 40, .slice_tokens = 4});
    const auto loss = [&](const std::vector<Var<double>>& v) {
      return mse(stack(v[0], v[1], Context<double>{Cross<double>::rows()}), target);
    };
    CHECK(gradcheck(loss, {inputs[0], inputs[1]}, 1e-3) < 1e-5);
  }
}

TEST_CASE("reversible: the midpoint and leapfrog schemes are their equations") {
  const Function<double> f = [](const Var<double>& x, const Context<double>&) { return tanh(x); };
  const std::pair<ReversibleLayer<double>, std::array<double, 3>> schemes[] = {
      {midpoint<double, Cpu>(f, 0.25), {1, 0, 0.5}}, {leapfrog<double, Cpu>(f, 0.25), {-1, 2, 0.0625}}};
  for (const auto& one : schemes) {
    const auto& [before, now, slope] = one.second;
    const ReversibleStack<double> stack({one.first, one.first},
                                        {.word_bits = 64, .fraction_bits = 40, .readout = {Readout::Kind::concat}});
    double x0 = 0.75, x1 = -0.5;  // x[k−1], x[k]
    const auto y =
        stack(Tensor<double>::full({1, 1}, x0), Tensor<double>::full({1, 1}, x1), Context<double>{Offsets({0, 1})});
    for (int k = 0; k < 2; ++k) x0 = std::exchange(x1, before * x0 + now * x1 + slope * std::tanh(x1));
    CHECK(y.value().data()[0] == doctest::Approx(x0).epsilon(1e-6));
    CHECK(y.value().data()[1] == doctest::Approx(x1).epsilon(1e-6));
  }
}

TEST_CASE("reversible: the read-outs are what they say") {
  const auto stack = [](Readout readout, int carrier) {
    return ReversibleStack<float>(Cross<float>(2).layers, {.readout = readout, .carrier = carrier});
  };
  const Context<float> context{Cross<float>::rows(), {}, 0, {{random({8, 6}, 301), Cross<float>::side_rows()}}};
  const auto x = random({9, 6}, 300);
  const auto both = stack(readout_from("concat"), 1)(x, context).value();
  for (const int carrier : {0, 1}) {
    const auto plm = stack(readout_from("plm"), carrier)(x, context).value(),
               learned = stack(readout_from("learned"), carrier)(x, context).value();
    const auto average = stack(readout_from("average"), carrier)(x, context).value();
    const auto mixed = stack({Readout::Kind::mix, 2, -1}, carrier)(x, context).value(),
               tenth = stack(readout_from("scaled"), carrier)(x, context).value(),
               half = stack({Readout::Kind::scaled, -0.5, 3}, carrier)(x, context).value();
    for (Index i = 0; i < 9; ++i)
      for (Index j = 0; j < 6; ++j) {
        const float a = both.data()[i * 12 + j], b = both.data()[i * 12 + 6 + j];
        const Index at = i * 6 + j;
        CHECK(plm.data()[at] == (carrier ? b : a));
        CHECK(learned.data()[at] == (carrier ? b : a));  // starts at the carrier
        CHECK(average.data()[at] == doctest::Approx((a + b) / 2));
        CHECK(mixed.data()[at] == doctest::Approx(2 * a - b));
        CHECK(tenth.data()[at] == doctest::Approx(carrier ? b + a / 10 : a + b / 10));
        CHECK(half.data()[at] == doctest::Approx(carrier ? -b / 2 + 3 * a : -a / 2 + 3 * b));
      }
  }
  // In numbers, with the gradients of both streams.
  const std::vector<std::pair<const char*, std::array<std::array<float, 3>, 2>>> expected{
      {"average", {{{1.625f, 0.5f, 0.5f}, {1.625f, 0.5f, 0.5f}}}},
      {"plm", {{{1.75f, 1, 0}, {1.5f, 0, 1}}}},
      {"learned", {{{1.75f, 1, 0}, {1.5f, 0, 1}}}},
      {"scaled", {{{1.9f, 1, 0.1f}, {1.675f, 0.1f, 1}}}}};
  for (const auto& one : expected)
    for (const int carrier : {0, 1}) {
      const char* const name = one.first;
      const auto& values = one.second;
      CAPTURE(name);
      CAPTURE(carrier);
      const ReversibleStack<float> empty(Layers{}, {.readout = readout_from(name), .carrier = carrier});
      Tape tape;
      const auto a = tape.watch(Tensor<float>::full({1, 1}, 1.75f)), b = tape.watch(Tensor<float>::full({1, 1}, 1.5f));
      const auto y = empty(a, b, Context<float>{Offsets({0, 1})});
      tape.backward(y);
      const auto& [value, first, second] = values[static_cast<std::size_t>(carrier)];
      CHECK(y.value().item() == doctest::Approx(value).epsilon(1e-6));
      CHECK(tape.gradient(a).item() == first);
      CHECK(tape.gradient(b).item() == second);
    }
}

TEST_CASE("reversible: empty sequences, alone, at either end and in between, change nothing of the others") {
  using Slices = std::vector<std::pair<Index, Index>>;
  CHECK(meft::detail::cut(Offsets({0, 0, 300}), 256) == Slices{{0, 2}});
  CHECK(meft::detail::cut(Offsets({0, 300, 300}), 256) == Slices{{0, 2}});
  CHECK(meft::detail::cut(Offsets({0, 300, 300, 600, 600}), 256) == Slices{{0, 2}, {2, 4}});
  CHECK(meft::detail::cut(Offsets({0, 0, 0, 300, 310, 310, 700}), 256) == Slices{{0, 3}, {3, 5}, {5, 6}});
  CHECK(meft::detail::cut(Offsets({0, 100, 200, 300}), 256) == Slices{{0, 2}, {2, 3}});
  CHECK(meft::detail::cut(Offsets({0, 0, 0}), 256) == Slices{{0, 2}});
  CHECK(meft::detail::cut(Offsets(), 256).empty());
  const auto with = [](const Offsets& o, Streams streams, Index slice) {
    auto body = Model{.depth = 3, .dropout = 0.1, .options = {.streams = streams, .slice_tokens = slice}}.build();
    Tape tape;
    const auto x = tape.watch(random({o.tokens(), width}, 900));
    const auto y = body({x, Context<float>{o, {5, 0, true}}}).value;
    tape.backward(y, random(y.shape(), 901));
    std::vector<float> out = y.value().values();
    append(out, tape.gradient(x));
    for (auto& [name, p] : nn::trainable<float, Cpu>(body))
      if (p.gradient().defined()) append(out, p.gradient());
    return out;
  };
  for (const auto streams : {Streams::exact, Streams::stored, Streams::rounded}) {
    const auto plain = with(Offsets({0, 10, 35, 40}), streams, 20);
    for (const Offsets& o : {Offsets({0, 0, 10, 35, 40}), Offsets({0, 10, 35, 40, 40}),
                             Offsets({0, 0, 0, 10, 10, 35, 35, 35, 40, 40, 40})})
      CHECK(with(o, streams, 20) == plain);
    for (const Offsets& o : {Offsets({0, 0}), Offsets({0, 0, 0}), Offsets()})
      for (const float v : with(o, streams, 20)) CHECK(v == 0);
  }
}

TEST_CASE("reversible: a weight that changes before the backward pass is an error") {
  const auto message = [](Streams streams, bool trained) {
    Parameter<float> w(random({width, width}, 60, 0.2));
    w.set_trainable(trained);
    const ReversibleStack<float> stack(layers_with(2, linear_function(w)), {.streams = streams, .slice_tokens = 40});
    Tape tape;
    const auto y = stack(random({offsets().tokens(), width}, 400), training());
    const auto loss = mse(y, random(y.shape(), 901));
    w.value().data()[3] += 0.5f;
    return message_of([&] { tape.backward(loss); });
  };
  for (const auto streams : {Streams::exact, Streams::rounded})
    CHECK(message(streams, true).starts_with("reversible stack: a parameter was changed between the forward"));
  CHECK(message(Streams::stored, true).starts_with("linear: a parameter was changed"));
  CHECK(message(Streams::exact, false).find("f is not deterministic") != std::string::npos);
}

TEST_CASE("reversible: what enters a stack was not written to") {
  Parameter<float> p(random({offsets().tokens(), width}, 400));
  const ReversibleStack<float> stack(layers_with(9, {}), {.slice_tokens = 40});
  Tape tape;
  const auto square = p * p, y = stack(p, training());
  CHECK_NOTHROW(tape.backward(sum(square) + sum(y)));
}

TEST_CASE("reversible: a stack that ran on another thread is refused, not dropped") {
  Parameter<float> w(random({width, width}, 60, 0.2));
  const auto x = random({offsets().tokens(), width}, 400);
  const auto elsewhere = [](const auto& f) {
    Var<float> out;
    std::thread([&] { out = f(); }).join();
    return out;
  };
  const ReversibleStack<float> stack(layers_with(2, linear_function(w)), {.slice_tokens = 40});
  Tape tape;
  CHECK(message_of([&] {
          sum(elsewhere([&] { return stack(x, training()); }));
        }).starts_with("sum: its input, the result of `reversible stack`, was computed on another thread"));
  CHECK_NOTHROW(sum(elsewhere([&] {
    const NoTape none;
    return stack(x, training());
  })));
  w.set_trainable(false);
  const ReversibleStack<float> frozen(Layers{{shear<float, Cpu>(0, 1, {}, linear_function(w))}});
  CHECK_NOTHROW(sum(elsewhere([&] { return frozen(x, training()); })));
  const auto side = tape.watch(random({offsets().sequences(), width}, 2));
  auto context = training();
  context.sides = {
      {side, Offsets::of_lengths(std::vector<std::int32_t>(static_cast<std::size_t>(offsets().sequences()), 1))}};
  CHECK(message_of([&] {
          sum(elsewhere([&] { return frozen(x, context); }));
        }).starts_with("sum: its input, the result of `reversible stack`"));
}

TEST_CASE("reversible: of the values out of range the farthest is told") {
  const auto error = [](std::vector<float> values, int word_bits) {
    const Function<float> f = [values](const Var<float>& in, const Context<float>&) {
      auto out = Tensor<float>::zeros(in.shape());
      for (std::size_t i = 0; i < values.size(); ++i) out.data()[16 * (i % 2) + i] = values[i];
      return Var<float>(out);
    };
    const ReversibleStack<float> stack(layers_with(1, f), {.word_bits = word_bits});
    return message_of([&] { (void)stack(random({5, width}, 400), Context<float>{Offsets({0, 2, 5})}); });
  };
  for (const int bits : {32, 64}) {
    CHECK(test::contains(error({3e30f, 5, 9e33f, -1e34f, 2e31f}, bits), "value -9999999"));
    INFO(error({3e30f, std::nanf(""), 9e33f}, bits));
    CHECK(test::contains(error({3e30f, std::nanf(""), 9e33f}, bits), "nan, "));
  }
}

TEST_CASE("reversible: a value out of range is told with its place") {
  const auto error_of = [](float value, StackOptions options, std::size_t layer) {
    auto x = random({5, width}, 400);
    const Function<float> f = [value](const Var<float>& in, const Context<float>&) {
      auto out = Tensor<float>::zeros(in.shape());
      out.data()[width + 3] = value;
      return Var<float>(out);
    };
    if (layer == 99) x.data()[7] = value;
    const ReversibleStack<float> stack(layers_with(layer, f), options);
    try {
      (void)stack(x, Context<float>{Offsets({0, 2, 5})});
    } catch (const StreamError& error) {
      return error;
    }
    FAIL("no error");
    return StreamError({}, 0, 32, 20);
  };
  const auto input = error_of(-2729.8f, {}, 99);
  CHECK(input.place.input);
  CHECK(input.value == doctest::Approx(-2729.8));
  CHECK(input.fraction_bits == 20);
  CHECK(input.word_bits == 32);
  const auto layer = error_of(9000, {}, 3);
  CHECK_FALSE(layer.place.input);
  CHECK(layer.place.layer == 3);
}

// --- errors ---------------------------------------------------------------------------------------------------------

TEST_CASE("reversible: a stream that leaves its range is an error with layer and value") {
  const Context<float> context{Offsets({0, 2, 5})};
  auto x = random({5, width}, 400);
  for (const auto streams : {Streams::exact, Streams::stored}) {
    const Function<float> large = [](const Var<float>& in, const Context<float>&) {
      auto out = Tensor<float>::zeros(in.shape());
      out.data()[width + 3] = 5000.0f;
      return Var<float>(out);
    };
    const ReversibleStack<float> stack(layers_with(2, large), {.streams = streams});
    check_error({"left the fixed-point range", "reversible layer 2, step 0", "value 4999.", "+-2048"},
                [&] { (void)stack(x, context); });
    const ReversibleStack<float> wide(layers_with(2, large), {.streams = streams, .word_bits = 64});
    CHECK_NOTHROW((void)wide(x, context));
    const ReversibleStack<float> narrow(layers_with(2, large),
                                        {.streams = streams, .word_bits = 64, .fraction_bits = 52});
    check_error({"left the fixed-point range", "reversible layer 2, step 0", "value 4999."},
                [&] { (void)narrow(x, context); });
  }
  const Function<float> nothing = [](const Var<float>& in, const Context<float>&) {
    return Var<float>(Tensor<float>::full(in.shape(), std::nanf("")));
  };
  for (const int bits : {32, 64}) {
    const ReversibleStack<float> stack(layers_with(4, nothing), {.word_bits = bits});
    check_error({"left the fixed-point range", "reversible layer 4, step 0", "value nan"},
                [&] { (void)stack(x, context); });
  }
  for (const float bad : {2048.0f, -3000.0f, INFINITY}) {
    auto y = x.clone();
    y.data()[7] = bad;
    const ReversibleStack<float> stack(layers_with(9, {}), {});
    check_error({"left the fixed-point range", "the input of the stack", "value " + std::to_string(bad)},
                [&] { (void)stack(y, context); });
  }
  // Two slices on two threads: the failing one does not leave the other waiting.
  set_threads(2);
  const Function<float> late = [](const Var<float>& in, const Context<float>& c) {
    return Var<float>(Tensor<float>::full(in.shape(), c.first_row ? 1e9f : 0.0f));
  };
  const ReversibleStack<float> stack(layers_with(1, late), {.slice_tokens = 1});
  check_error({"reversible layer 1, step 0"}, [&] { (void)stack(x, context); });
  set_threads(1);
}

TEST_CASE("reversible: a function that is not deterministic is found by the hash, with its layer") {
  for (const int threads : {1, 2})
    for (const int bits : {32, 64}) {
      set_threads(threads);
      const auto calls = std::make_shared<std::atomic<std::uint32_t>>(0);
      const Parameter<float> w(random({width, width}, 60, 0.2));
      const Function<float> noisy = [calls, w](const Var<float>& x, const Context<float>&) {
        auto noise = Tensor<float>::zeros(x.shape());
        noise.data()[noise.size() - 1] = 1e-4f * static_cast<float>(calls->fetch_add(1));
        return tanh(linear(x, w)) + Var<float>(noise);
      };
      const auto gradient = [&](Streams streams, Function<float> f, Index stored_layers = 0) {
        const StackOptions options{
            .streams = streams, .word_bits = bits, .stored_layers = stored_layers, .slice_tokens = 40};
        const ReversibleStack<float> stack(layers_with(3, f), options);
        Tape tape;
        const auto y = stack(random({offsets().tokens(), width}, 400), training());
        tape.backward(mse(y, random(y.shape(), 901)));
      };
      check_error({"f is not deterministic", "reversible layer 3, step 0"}, [&] { gradient(Streams::exact, noisy); });
      check_error({"f is not deterministic", "reversible layer 3, step 0"},
                  [&] { gradient(Streams::exact, noisy, 1); });
      CHECK_NOTHROW(gradient(Streams::exact, noisy, 2));  // stored itself, it runs once
      CHECK_NOTHROW(gradient(Streams::stored, noisy));
      CHECK_NOTHROW(gradient(Streams::exact, linear_function(w)));
    }
  set_threads(1);
}

TEST_CASE("reversible: a variable of the outer tape inside f is an error that names the op") {
  const auto x = random({offsets().tokens(), width}, 400);
  for (const auto streams : {Streams::stored, Streams::exact}) {
    Tape tape;
    const auto outside = tape.watch(random({width, width}, 60, 0.2));
    const Function<float> f = [outside](const Var<float>& in, const Context<float>&) { return linear(in, outside); };
    const ReversibleStack<float> stack(layers_with(1, f), {.streams = streams});
    check_error({"linear", "recorded on another tape"}, [&] {
      const auto y = stack(x, training());
      tape.backward(mse(y, random(y.shape(), 901)));
    });
  }
}

TEST_CASE("reversible: wrong layers, options and inputs are errors") {
  const Function<float> f = [](const Var<float>& x, const Context<float>&) { return x; };
  const auto make = [](ReversibleLayer<float> layer, StackOptions options = {}) {
    return ReversibleStack<float>(Layers{std::move(layer)}, options);
  };
  check_error({"a swap is the last step"}, [&] { make({swap_streams<float, Cpu>(), shear<float, Cpu>(0, 1, {}, f)}); });
  check_error({"from one stream to the other", "0, 0"}, [&] { make({shear<float, Cpu>(0, 0, {}, f)}); });
  check_error({"from one stream to the other", "2, -1"}, [&] { make({shear<float, Cpu>(2, -1, {}, f)}); });
  check_error({"lambda", "0/1"}, [&] { make({shear<float, Cpu>(0, 1, {0, 1}, f)}); });
  check_error({"lambda", "1/40000"}, [&] { make({shear<float, Cpu>(0, 1, {1, 40000}, f)}); });
  check_error({"word_bits", "16"}, [&] { make({}, {.word_bits = 16}); });
  check_error({"fraction_bits", "31"}, [&] { make({}, {.fraction_bits = 31}); });
  check_error({"fraction_bits", "0"}, [&] { make({}, {.fraction_bits = 0}); });
  check_error({"slice_tokens", "0"}, [&] { make({}, {.slice_tokens = 0}); });
  check_error({"carrier", "2"}, [&] { make({}, {.carrier = 2}); });
  check_error({"expected exact, rounded or stored", "sored"}, [] { (void)streams_from("sored"); });
  check_error({"expected average, plm, learned, scaled or concat", "mean"}, [] { (void)readout_from("mean"); });

  const Context<float> context{Offsets({0, 2, 5})};
  const auto stack = make({shear<float, Cpu>(0, 1, {}, f)});
  check_error({"reversible stack: the tensor is empty"}, [&] {
    auto x = random({5, 3}, 1);
    const auto taken = std::move(x);
    (void)stack(x, context);
  });
  check_error({"a side input: the tensor is empty"}, [&] {
    (void)stack(random({5, 3}, 1), Context<float>{Offsets({0, 2, 5}), {}, 0, {{Var<float>(), Offsets({0, 2, 4})}}});
  });
  check_error({"no layers"}, [&] { (void)ReversibleStack<float>()(random({5, 3}, 1), context); });
  check_error({"not two equal matrices", "[5, 3]", "[5, 4]"}, [&] {
    (void)stack(random({5, 3}, 1), random({5, 4}, 1), context);
  });
  check_error({"offsets do not cover the rows", "[6, 3]"}, [&] { (void)stack(random({6, 3}, 1), context); });
  check_error({"another number of sequences", "1, 2"}, [&] {
    (void)stack(random({5, 3}, 1), Context<float>{Offsets({0, 2, 5}), {}, 0, {{random({4, 3}, 2), Offsets({0, 4})}}});
  });
  check_error({"a side input's offsets do not cover its rows", "[4, 3]", "3"}, [&] {
    (void)stack(random({5, 3}, 1),
                Context<float>{Offsets({0, 2, 5}), {}, 0, {{random({4, 3}, 2), Offsets({0, 1, 3})}}});
  });
  const Function<float> wider = [](const Var<float>&, const Context<float>&) {
    return Var<float>(Tensor<float>::zeros({5, 4}));
  };
  check_error({"f changed the shape", "reversible layer 0, step 0", "[5, 4]"}, [&] {
    (void)make({shear<float, Cpu>(0, 1, {}, wider)})(random({5, 3}, 1), context);
  });
}
