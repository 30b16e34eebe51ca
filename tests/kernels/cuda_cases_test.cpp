// Every line of cases.hpp on the Cuda backend against the CPU: results and gradients, in float and in double; the bytes
// that the tape holds; and, under emulation, the same bits whatever the order of threads and blocks.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <meft/autodiff/tape.hpp>
#include <meft/cuda.hpp>

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
