// Every line of cases.hpp on the Cuda backend against the CPU: results and gradients, in float and in double; the bytes
// that the tape holds; and, under emulation, the same bits whatever the order of threads and blocks.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <meft/autodiff/tape.hpp>
#include <meft/cuda.hpp>
#include <meft/ops/bottleneck.hpp>
#include <meft/ops/feed_forward.hpp>

#include "cases.hpp"
#include "cuda_schedules.hpp"

using namespace meft;
using namespace meft::test;

namespace {

template <Backend B, class T>
std::vector<Tensor<T, B>> inputs_of(const CaseOn<B>& c, const Shapes& shapes) {
  std::vector<Tensor<T, B>> out;
  for (std::size_t i = 0; i < shapes.size(); ++i) out.push_back(random_tensor<T, B>(shapes[i], 11 + i, c.low, c.high));
  return out;
}

/// The result, and the gradients of its weighted sum.
template <class T, Backend B>
std::vector<std::vector<T>> results(const CaseOn<B>& c, const Shapes& shapes) {
  Tape tape;
  std::vector<Var<T, B>> x;
  for (const auto& value : inputs_of<B, T>(c, shapes)) x.push_back(tape.watch(value));
  const auto y = c.run(x);
  std::vector<std::vector<T>> out{y.value().values()};
  tape.backward(y, random_tensor<T, B>(y.shape(), 99));
  for (const auto& v : x) out.push_back(tape.gradient(v).values());
  return out;
}

/// The largest difference, relative to the largest element or 1.
template <class T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  REQUIRE(a.size() == b.size());
  double scale = 1, worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(std::isfinite(a[i]));
    scale = std::max(scale, std::abs(static_cast<double>(b[i])));
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return worst / scale;
}

/// What a float result may be off by: GELU by tanh is an epilogue of the product, where its tanh has 11 bits.
double allowed(const Case& c, double most) { return c.name == "linear_activation gelu_tanh" ? 1e-3 : most; }

template <class T>
void check_against_cpu(const std::vector<CaseOn<Cuda>>& device, const std::vector<Case>& host, bool big, double most) {
  REQUIRE(device.size() == host.size());
  for (std::size_t i = 0; i < host.size(); ++i) {
    CAPTURE(host[i].name);
    const auto got = results<T>(device[i], big ? device[i].big : device[i].shapes);
    const auto expected = results<T>(host[i], big ? host[i].big : host[i].shapes);
    REQUIRE(got.size() == expected.size());
    for (std::size_t k = 0; k < got.size(); ++k) {
      CAPTURE(k);
      CHECK(distance(got[k], expected[k]) < (sizeof(T) == 4 ? allowed(host[i], most) : most));
    }
  }
}

/// Prints how far the device in float is from the CPU in double, a line a case: results and gradients together.
void show_errors(const std::vector<CaseOn<Cuda>>& device, const std::vector<Case>& host) {
  for (std::size_t i = 0; i < host.size(); ++i) {
    const auto got = results<float>(device[i], device[i].big);
    const auto expected = results<double>(host[i], host[i].big);
    double worst = 0;
    for (std::size_t k = 0; k < got.size(); ++k)
      worst = std::max(worst, distance(std::vector<double>(got[k].begin(), got[k].end()), expected[k]));
    CHECK(worst < allowed(host[i], 1e-4));
    MESSAGE("error against double: ", host[i].name, ' ', worst);
  }
}

/// The tape holds exactly the bytes that the line states.
void check_saved(const std::vector<CaseOn<Cuda>>& list) {
  Cuda::pool().set_caching(false);
  for (const auto& c : list) {
    CAPTURE(c.name);
    const auto in = inputs_of<Cuda, float>(c, c.shapes);
    c.run(std::vector<Var<float, Cuda>>(in.begin(), in.end()));  // what a case makes once and keeps
    Tape tape;
    const std::size_t before = Cuda::pool().read().total;
    {
      std::vector<Var<float, Cuda>> x;
      for (const auto& value : in) x.push_back(tape.watch(value.clone()));
      CHECK(c.run(x).recorded());
    }
    std::size_t expected = 0;
    for (Index elements : c.saved) expected += block(elements);
    CHECK(Cuda::pool().read().total - before == expected);
  }
  Cuda::pool().set_caching(true);
}

void check_bits(const std::vector<CaseOn<Cuda>>& list) {
  for (const auto& c : list) {
    CAPTURE(c.name);
    for_each_schedule([&] { return results<float>(c, c.big); },
                      [&](const auto& first, const auto& again) {
                        REQUIRE(first.size() == again.size());
                        for (std::size_t k = 0; k < first.size(); ++k)
                          CHECK(std::memcmp(first[k].data(), again[k].data(), first[k].size() * sizeof(float)) == 0);
                      });
  }
}

template <class Lists>
void check_all(const Lists& device, const std::vector<Case>& host) {
  check_against_cpu<double>(device, host, false, 1e-12);
  check_against_cpu<float>(device, host, false, 2e-6);
  check_against_cpu<float>(device, host, true, 1e-5);
  show_errors(device, host);
  check_saved(device);
  check_bits(device);
}

}  // namespace

namespace {

/// While it lives, products of multiples of so few rows go through cuDNN, of a version that has kernels for sm_90.
class Fusing {
 public:
  explicit Fusing(Index rows) : before_(std::exchange(cuda::rows_together, rows)) { version(92600); }
  ~Fusing() {
    cuda::rows_together = before_;
    version(91900);
  }
  Fusing(const Fusing&) = delete;
  Fusing& operator=(const Fusing&) = delete;
  static void version([[maybe_unused]] std::size_t number) {
#ifdef MEFT_EMULATED
    emulate::set_dnn_version(number);
#endif
  }

 private:
  Index before_;
};

}  // namespace

TEST_CASE("elementwise ops on the device agree with the CPU") {
  check_all(elementwise_cases<Cuda>(), elementwise_cases());
}
TEST_CASE("products, softmax, norms and attention on the device agree with the CPU") {
  check_all(matrix_cases<Cuda>(), matrix_cases());
}
TEST_CASE("reductions, rows, dropout and losses on the device agree with the CPU") {
  check_all(row_cases<Cuda>(), row_cases());
}

TEST_CASE("on the device a NaN is never swallowed, and products of nothing are zero") {
  const float bad = std::numeric_limits<float>::quiet_NaN();
  const auto with = [&](const Shape& shape, Index at, float value) {
    auto values = random_tensor<float>(shape, 1).values();
    values[static_cast<std::size_t>(at)] = value;
    return Tensor<float, Cuda>::from(shape, values);
  };
  const auto nans = [](const Var<float, Cuda>& y) {
    Index count = 0;
    for (const float v : y.value().values()) count += std::isnan(v);
    return count;
  };
  {
    const PackedWeight<float, Cuda> up(random_tensor<float, Cuda>({40, 24}, 4), Precision::bf16),
        down(random_tensor<float, Cuda>({16, 40}, 5), Precision::bf16);
    const auto b = random_tensor<float, Cuda>({40}, 6), c = random_tensor<float, Cuda>({16}, 7);
    std::vector<std::vector<float>> gradients;
    for (const Index together : {512, 4}) {
      CAPTURE(together);
      const Fusing fusing(together);
      Tape tape;
      const auto x = tape.watch(with({8, 24}, 5, bad));
      const auto y = feed_forward(x, up, b, down, c, Activation::relu);
      CHECK(nans(y) == 16);
      tape.backward(y, random_tensor<float, Cuda>({8, 16}, 8));
      gradients.push_back(tape.gradient(x).values());
      CHECK(nans(linear_activation(x, up, b, Activation::relu)) == 40);
    }
    CHECK(distance(gradients[1], gradients[0]) < 0x1p-6);  // the slope at a NaN is 1
  }
  const auto labels = Tensor<std::int32_t, Cuda>::from({2}, {0, 0});
  for (const Index n : {1, 2, 15, 33, 70, 300})
    for (const Index at : {Index{0}, n / 2, n - 1}) {
      CAPTURE(n);
      CAPTURE(at);
      const auto x = with({2, n}, n + at, bad);
      CHECK(nans(softmax(x)) == n);
      CHECK(nans(log_softmax(x)) == n);
      CHECK(nans(max(x, {.axes = {1}})) == 1);
      CHECK(nans(cross_entropy(x, labels)) == 1);
    }
  for (const std::int32_t n : {1, 3, 16, 40, 70})
    for (const bool causal : {false, true})
      for (const float value : {bad, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
        CAPTURE(n);
        CAPTURE(causal);
        const auto q = with({n, 4}, (n / 2) * 4, value);
        const auto k = random_tensor<float, Cuda>({n, 4}, 2, 0.5, 1), v = random_tensor<float, Cuda>({n, 4}, 3);
        CHECK(nans(attention(q, k, v, {.queries = Offsets({0, n}), .keys = Offsets({0, n}), .causal = causal})) == 4);
      }
  for (const auto& [a, b] : std::vector<std::pair<Shape, Shape>>{{{2, 0}, {0, 3}}, {{4, 2, 0}, {4, 0, 3}}})
    for (const float v : matmul(Tensor<float, Cuda>(a), Tensor<float, Cuda>(b)).value().values()) CHECK(v == 0);
  Tape tape;
  const auto w = tape.watch(random_tensor<float, Cuda>({5, 4}, 1));
  const auto y = linear(Tensor<float, Cuda>(Shape{0, 4}), w);
  tape.backward(y, Tensor<float, Cuda>(y.shape()));
  for (const float v : tape.gradient(w).values()) CHECK(v == 0);
}

namespace {

using OnCuda = Tensor<float, Cuda>;
using VarOnCuda = Var<float, Cuda>;

OnCuda drawn(const Shape& shape, std::uint32_t site) {
  OnCuda out(shape);
  fill_normal(out, {9, site, 0}, 1);
  return out;
}
std::vector<float> rounded(std::vector<float> values) {
  for (float& v : values) v = static_cast<float>(bf16(v));
  return values;
}

/// What results of a product to bf16 may be off by from those to float: on a device libraries may sum in another order.
#ifdef MEFT_EMULATED
constexpr double of_product = 0;
#else
constexpr double of_product = 0x1p-6;
#endif

/// f of three variables of a shape, and their gradients: handed on rounded they are what rounding makes of those in
/// full, and `alone` of them are there so alone; the others have the same bits. Off by `most` where a product differs.
template <class F>
void check_handed(const char* name, int alone, const Shape& shape, const F& f, double most = 0) {
  CAPTURE(name);
  CAPTURE(shape.text());
  const auto run = [&](Hand hand) {
    Tape tape;
    std::vector<VarOnCuda> x;
    for (const std::uint32_t site : {1u, 2u, 3u}) x.push_back(tape.watch(drawn(shape, site)));
    const VarOnCuda y = f(x, hand);
    std::vector<OnCuda> out{y.value()};
    tape.backward(y, drawn(y.shape(), 4));
    for (const auto& v : x) out.push_back(tape.gradient(v));
    return out;
  };
  const auto full = run(Hand::in_full), handed = run(Hand::rounded);
  int found = 0;
  for (std::size_t i = 0; i < full.size(); ++i) {
    CAPTURE(i);
    if (!full[i].defined()) continue;
    const auto expected = full[i].values();
    const bool narrow = handed[i].narrow();
    found += narrow;
    const std::vector<float> beside = handed[i].clone().values();
    const auto right = narrow ? rounded(expected) : expected;
    if (most == 0) CHECK(beside == right);
    else CHECK(distance(beside, right) < most);
  }
  CHECK(found == alone);
}

}  // namespace

TEST_CASE("what products alone read is handed on rounded to bf16: the bits that rounding gives, however rows lie") {
  const Key key{1, 2, 3};
  for (const Index width : {16, 20, 7}) {
    const Shape shape{6, width};
    const auto gamma = drawn({width}, 5), beta = drawn({width}, 6);
    const PackedWeight<float, Cuda> w(drawn({24, width}, 7), Precision::bf16),
        square(drawn({width, width}, 8), Precision::bf16);
    check_handed("layer norm", 1, shape,
                 [&](const auto& x, Hand hand) { return layer_norm(x[0], gamma, beta, 1e-5, hand); });
    check_handed("rms norm", 1, shape, [&](const auto& x, Hand hand) { return rms_norm(x[0], gamma, 1e-6, hand); });
    check_handed("residual", 1, shape,
                 [&](const auto& x, Hand hand) { return residual(x[0], x[1], 0.3, key, 8, hand, x[2]); });
    check_handed("residual norm", 1, shape, [&](const auto& x, Hand hand) {
      return residual_norm(x[0], x[1], gamma, beta, 1e-5, 0.3, key, 5, hand, x[2],
                           hand == Hand::rounded ? Hand::both : hand);
    });
    check_handed(
        "linear", 1, shape, [&](const auto& x, Hand hand) { return linear(x[0], w, OnCuda(), hand); }, of_product);
    check_handed(
        "linear's result", 1, shape,
        [&](const auto& x, Hand hand) { return linear(x[0], w, OnCuda(), Hand::in_full, hand); }, of_product);
    check_handed(
        "attention of projections", 0, shape,
        [&](const auto& x, Hand hand) {
          const Offsets offsets({0, 2, 6});
          const auto to = [&](int i) { return linear(x[i], square, OnCuda(), Hand::in_full, hand); };
          return attention(to(0), to(1), to(2),
                           {.queries = offsets, .keys = offsets, .dropout = 0.1f, .precision = Precision::bf16});
        },
        of_product);
    check_handed("gated", 3, shape,
                 [&](const auto& x, Hand hand) { return gated(x[0], x[1], Activation::silu, hand, hand); });
    for (const float dropout : {0.0f, 0.1f})
      check_handed(
          "attention", 3, shape,
          [&](const auto& x, Hand hand) {
            const Offsets offsets({0, 2, 6});
            // Its own gradient comes rounded too.
            return linear(attention(x[0], x[1], x[2],
                                    {.queries = offsets,
                                     .keys = offsets,
                                     .dropout = dropout,
                                     .key = key,
                                     .precision = Precision::bf16,
                                     .hand = hand,
                                     .gradients = hand}),
                          square, OnCuda(), hand);
          },
          of_product);
    // Where an input has several readers, gradients are added to in the product that makes them.
    const auto gradient = [&](const auto& f, OnCuda into = {}) {
      Tape tape;
      const auto x = tape.watch(drawn(shape, 1));
      if (into.defined()) tape.add_into(x, into);
      const auto y = f(x);
      tape.backward(y, drawn(y.shape(), 4));
      return tape.gradient(x);
    };
    const auto once = [&](const auto& x) { return linear(x, w); };
    const auto twice = [&](const auto& x) { return linear(x, w) * 2.0f; };
    CHECK(gradient([&](const auto& x) { return once(x) + twice(x); }).values() ==
          map(Add{}, gradient(twice), gradient(once)).values());
    // Rows of 7 lie where a product may have another algorithm, and sum in another order.
    const double of_rows = width % 4 ? 1e-5 : 0;
    const auto into_stream = [&](const auto& f, double most = 0) {
      const auto stream = drawn({8, width}, 12);
      const auto expected = map(Add{}, stream.rows(1, 7).clone(), gradient(f));
      const auto found = gradient(f, stream.rows(1, 7));
      CHECK(found.same(stream.rows(1, 7)));
      if (most == 0) CHECK(found.values() == expected.values());
      else CHECK(distance(found.values(), expected.values()) < most);
    };
    into_stream(once, of_rows);
    into_stream([&](const auto& x) { return layer_norm(x, gamma, beta); });
    into_stream([&](const auto& x) { return rms_norm(x, gamma); });
    const Parameter<float, Cuda> other(drawn(shape, 2));
    for (const double p : {0.0, 0.3})
      into_stream([&](const auto& x) { return residual_norm(x, other, gamma, beta, 1e-5, p, key, 5, Hand::rounded); });
  }
}

TEST_CASE("a product's bias, activation and slope: by cuDNN where it has a plan, else of the same bits as ops apart") {
  const Shape shape{8, 24};
  const PackedWeight<float, Cuda> up(drawn({40, 24}, 7), Precision::bf16), down(drawn({16, 40}, 8), Precision::bf16);
  const auto b = drawn({40}, 9), c = drawn({16}, 10);
  const auto run = [&](bool trains, bool relu, const auto& f) {
    Tape tape;
    const auto x = tape.watch(drawn(shape, 1)), bias = trains ? tape.watch(b) : VarOnCuda(b);
    const auto y = f(x, bias, relu ? Activation::relu : Activation::gelu);
    tape.backward(y, drawn(y.shape(), 4));
    std::vector<std::vector<float>> out{y.value().values(), tape.gradient(x).values()};
    if (trains) out.push_back(tape.gradient(bias).values());
    return out;
  };
  const auto apart = [&](const auto& x, const auto& bias, Activation f) {
    return linear(linear_activation(x, up, bias, f), down, c);
  };
  const auto whole = [&](const auto& x, const auto& bias, Activation f) {
    return feed_forward(x, up, bias, down, c, f);
  };
  for (const bool relu : {false, true}) {
    CAPTURE(relu);
    const auto near = [](const auto& got, const auto& expected) {
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(distance(got[i], expected[i]) < 0x1p-7);
    };
    for (const bool trains : {false, true}) {
      const auto got = run(trains, relu, whole), expected = run(trains, relu, apart);
      if (relu) near(got, expected);  // apart it is an epilogue of the product, which may sum in another order
      else CHECK(got == expected);
    }
    const auto expected = run(false, relu, whole);
    const Fusing fusing(4);
    near(run(false, relu, whole), expected);
#ifdef MEFT_EMULATED
    emulate::set_counting(true);
    (void)run(false, relu, whole);
    emulate::set_counting(false);
    CHECK(emulate::counts().at("product and more").launches == 2);
    Fusing::version(92500);
    CHECK(run(false, relu, whole) == expected);
#endif
  }
  CHECK_FALSE(linear(drawn(shape, 1), up, b, Hand::in_full, Hand::rounded).value().narrow());
  const Fusing fusing(4);
  const auto full = linear(drawn(shape, 1), up, b).value(),
             handed = linear(drawn(shape, 1), up, b, Hand::in_full, Hand::rounded).value();
#ifdef MEFT_EMULATED
  CHECK(handed.narrow());  // a device's cuDNN may be older
#endif
  CHECK(distance(handed.values(), full.values()) < 0x1p-8);
}

TEST_CASE("elements kept rounded beside others are those of now, and rounded alone they are widened when asked for") {
  auto x = drawn({4, 6}, 1);
  const auto of_rounded = [](const OnCuda& t) {
    OnCuda wide(t.shape());
    from_bf16(Cuda{}, t.size(), t.rounded(), wide.data());
    return wide.values();
  };
  CHECK(of_rounded(x) == rounded(x.values()));
  CHECK(x.rounded() == std::as_const(x).rounded());  // once
  CHECK(of_rounded(x.rows(1, 3)) == rounded(x.rows(1, 3).values()));
  x.zero();
  CHECK(of_rounded(x) == std::vector<float>(24));
  const auto source = drawn({4, 6}, 2);
  auto narrow = OnCuda::handed({4, 6}, Hand::rounded);
  CHECK(narrow.narrow());
  CHECK(narrow.fill_full() == nullptr);
  to_bf16(Cuda{}, 24, source.data(), narrow.fill_rounded(Hand::rounded));
  const std::size_t held = Cuda::pool().read().total;
  CHECK(narrow.rows(1, 4).values() == rounded(source.rows(1, 4).values()));
  CHECK_FALSE(narrow.narrow());
  CHECK(Cuda::pool().read().total > held);
  CHECK(narrow.values() == rounded(source.values()));
}

TEST_CASE(
    "a bottleneck of any width is its two products with the activation between them, also where x has a gradient "
    "already") {
  const auto run = [&]<class T, Backend B>(const std::array<Index, 3>& size, Activation f, const auto& bottleneck_of) {
    const auto [rows, width, inner] = size;
    Tape tape;
    std::vector<Var<T, B>> x;
    const Shape shapes[] = {{rows, width}, {inner, width}, {inner}, {width, inner}, {width}};
    for (std::size_t i = 0; i < 5; ++i) x.push_back(tape.watch(random_tensor<T, B>(shapes[i], 20 + i)));
    const auto y = bottleneck_of(x, f) + x[0] * T(2);  // a gradient of x is there before
    std::vector<std::vector<double>> out;
    const auto keep = [&](const Tensor<T, B>& t) {
      const auto values = t.values();
      out.emplace_back(values.begin(), values.end());
    };
    keep(y.value());
    tape.backward(y, random_tensor<T, B>(y.shape(), 30));
    for (const auto& v : x) keep(tape.gradient(v));
    return out;
  };
  for (const auto& size : std::vector<std::array<Index, 3>>{{130, 40, 11}, {3, 600, 64}})
    for (const Activation f : {Activation::gelu, Activation::relu}) {
      CAPTURE(size[0]);
      CAPTURE(static_cast<int>(f));
      const auto got = run.template operator()<float, Cuda>(
          size, f, [](auto& x, Activation a) { return bottleneck(x[0], x[1], x[2], x[3], x[4], a); });
      const auto expected = run.template operator()<double, Cpu>(
          size, f, [](auto& x, Activation a) { return linear(linear_activation(x[0], x[1], x[2], a), x[3], x[4]); });
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i);
        CHECK(distance(got[i], expected[i]) < 2e-6);
      }
    }
}
