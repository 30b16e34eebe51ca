// Owns: the accuracy of the scalar mathematics against double, its special values, the derivatives of functors against
// central differences, and that an element's bits do not depend on its place in a loop; eigenvectors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <meft/backend/cpu/map.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/symmetric.hpp>

#include "messages.hpp"

using namespace meft;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity(), nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint32_t stride = 1021;  // prime: every exponent, 4.2 million floats

float from_bits(std::uint32_t u) { return __builtin_bit_cast(float, u); }

/// Runs f over x as the elementwise ops do.
template <class F>
std::vector<float> evaluate(const F& f, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  vectorised([&]() MEFT_INLINE { cpu::map_run(f, static_cast<Index>(x.size()), y.data(), x.data()); });
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Worst {
  double ulp = 0, relative = 0;  // relative: of results that are not subnormal
  float at = 0;
  bool special = true;  // NaN and infinity exactly where the reference has them
};

/// Compares f with `reference`, in double, over a stride through all floats within [low, high].
template <class F, class R>
Worst sweep(const F& f, R reference, float low = -inf, float high = inf) {
  Worst worst;
  std::vector<float> x;
  for (std::uint64_t u = 0; u < (1ull << 32);) {
    x.clear();
    for (; x.size() < 4099 && u < (1ull << 32); u += stride) {
      const float v = from_bits(static_cast<std::uint32_t>(u));
      if (v >= low && v <= high) x.push_back(v);
    }
    const auto y = evaluate(f, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = reference(static_cast<double>(x[i]));
      const float rounded = static_cast<float>(expected);
      if (!std::isfinite(rounded) || !std::isfinite(y[i])) {
        if (!(rounded == y[i] || (std::isnan(rounded) && std::isnan(y[i])))) worst.special = false, worst.at = x[i];
        continue;
      }
      int exponent;
      std::frexp(expected, &exponent);
      const double error = std::fabs(y[i] - expected);
      const double ulp = error / std::ldexp(1.0, exponent - 24 < -149 ? -149 : exponent - 24);
      if (ulp > worst.ulp) worst.ulp = ulp, worst.at = x[i];
      if (std::fabs(expected) >= 0x1p-126) worst.relative = std::fmax(worst.relative, error / std::fabs(expected));
    }
  }
  MESSAGE("ulp " << worst.ulp << " at " << worst.at << ", relative " << worst.relative);
  return worst;
}

#define MEFT_TEST_FUNCTION(call) [](float x) MEFT_INLINE { return call; }

}  // namespace

TEST_CASE("functor: float mathematics is within its bounds over all exponents") {
  const auto check = [](const char* name, const Worst& worst, double ulp) {
    INFO(std::string(name) << ": worst at " << worst.at);
    CHECK(worst.special);
    CHECK(worst.ulp <= ulp);
  };
  check("exp", sweep(Exp{}, [](double x) { return std::exp(x); }), 1.1);
  check("log", sweep(Log{}, [](double x) { return std::log(x); }), 0.9);
  check("sqrt", sweep(Sqrt{}, [](double x) { return std::sqrt(x); }), 0.5);
  check("tanh", sweep(Tanh{}, [](double x) { return std::tanh(x); }), 2.8);
  check("sigmoid", sweep(Sigmoid{}, [](double x) { return 1 / (1 + std::exp(-x)); }), 2.5);
}

TEST_CASE("functor: activations keep relative accuracy in the negative tail") {
  // From where the results are subnormal, their own spacing is the error.
  const auto silu = sweep(
      Silu{}, [](double x) { return x / (1 + std::exp(-x)); }, -87.0f, 1e30f);
  CHECK(silu.special);
  CHECK(silu.relative < 4e-7);
  const auto gelu = sweep(
      Gelu{}, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }, -12.9f, 1e30f);
  CHECK(gelu.special);
  CHECK(gelu.relative < 5e-7);
  const auto gelu_tanh = [](double x) {
    return x / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
  };
  CHECK(sweep(GeluTanh{}, gelu_tanh, -2.0f, 1e30f).relative < 1e-6);
  const auto tail = sweep(GeluTanh{}, gelu_tanh, -10.0f, -2.0f);  // the exponent's rounding error, times the exponent
  CHECK(tail.special);
  CHECK(tail.relative < 1.5e-5);
}

TEST_CASE("functor: sqrt is the correctly rounded one for every significand") {
  std::vector<float> x(1 << 12);
  std::uint32_t wrong = 0;
  for (std::uint32_t block = 0; block < (1u << 12); ++block) {
    for (std::uint32_t i = 0; i < (1u << 12); ++i) x[i] = from_bits(0x3f800000u + (block << 12) + i);  // [1, 4)
    const auto y = evaluate(Sqrt{}, x);
    for (std::size_t i = 0; i < x.size(); ++i) wrong += y[i] != std::sqrt(x[i]);
  }
  CHECK(wrong == 0);
}

TEST_CASE("functor: special values") {
  const auto at = [](const auto& f, float x) { return evaluate(f, {x})[0]; };
  const auto propagates = [&](const auto& f) { return std::isnan(at(f, nan_value)) && std::isnan(at(f, -nan_value)); };
  CHECK((propagates(Exp{}) && propagates(Log{}) && propagates(Sqrt{}) && propagates(Tanh{}) && propagates(Sigmoid{})));
  CHECK(
      (propagates(Relu{}) && propagates(Silu{}) && propagates(Gelu{}) && propagates(GeluTanh{}) && propagates(Abs{})));

  CHECK(at(Exp{}, 0.0f) == 1.0f);
  CHECK(at(Exp{}, inf) == inf);
  CHECK(at(Exp{}, 88.73f) == inf);
  CHECK(at(Exp{}, 88.72f) < inf);
  CHECK(at(Exp{}, -inf) == 0.0f);
  CHECK(at(Exp{}, -103.0f) == from_bits(1));  // the least subnormal
  CHECK(at(Exp{}, -104.0f) == 0.0f);
  CHECK(at(Log{}, 0.0f) == -inf);
  CHECK(at(Log{}, -0.0f) == -inf);
  CHECK(at(Log{}, 1.0f) == 0.0f);
  CHECK(at(Log{}, inf) == inf);
  CHECK(std::isnan(at(Log{}, -1.0f)));
  CHECK(std::isnan(at(Log{}, -inf)));
  CHECK(std::isnan(at(Sqrt{}, -1.0f)));
  CHECK(at(Sqrt{}, inf) == inf);
  CHECK((at(Sqrt{}, -0.0f) == 0.0f && std::signbit(at(Sqrt{}, -0.0f))));
  CHECK((at(Tanh{}, inf) == 1.0f && at(Tanh{}, -inf) == -1.0f && std::signbit(at(Tanh{}, -0.0f))));
  CHECK(at(Tanh{}, from_bits(1)) == from_bits(1));
  CHECK((at(Sigmoid{}, inf) == 1.0f && at(Sigmoid{}, -inf) == 0.0f && at(Sigmoid{}, 0.0f) == 0.5f));
  CHECK((at(Silu{}, inf) == inf && at(Silu{}, -inf) == 0.0f));
  CHECK((at(Gelu{}, inf) == inf && at(Gelu{}, -inf) == 0.0f && at(Gelu{}, -1e30f) == 0.0f));
  CHECK((at(GeluTanh{}, inf) == inf && at(GeluTanh{}, -inf) == 0.0f && at(GeluTanh{}, -1e30f) == 0.0f));
  CHECK((at(Abs{}, -inf) == inf && !std::signbit(at(Abs{}, -0.0f))));
}

namespace {

/// The derivative of F in double against a central difference, and in float against double; at ±∞ it is finite or NaN
/// as stated by `bounded`.
template <class F>
void check_derivative(double low, double high, bool bounded = false) {
  INFO(std::string(F::name));
  const F f;
  const double unread = std::numeric_limits<double>::quiet_NaN();  // what needs_x and needs_y disclaim
  double worst = 0, worst_float = 0;
  for (int i = 0; i <= 2000; ++i) {
    const double x = low + (high - low) * (i + 0.37) / 2001, h = 1e-5;
    const auto slope = [&](auto v) {
      using T = decltype(v);
      return f.derivative(F::needs_x ? v : T(unread), F::needs_y ? f(v) : T(unread));
    };
    const double numeric = (f(x + h) - f(x - h)) / (2 * h), analytic = slope(x);
    worst = std::fmax(worst, std::fabs(numeric - analytic) / std::fmax(1.0, std::fabs(analytic)));
    const double exact = slope(static_cast<double>(static_cast<float>(x))), single = slope(static_cast<float>(x));
    worst_float = std::fmax(worst_float, std::fabs(single - exact) / std::fmax(1.0, std::fabs(exact)));
  }
  CHECK(worst < 1e-8);
  CHECK(worst_float < 1e-6);
  if (bounded)
    for (const float x : {inf, -inf, 1e30f, -1e30f}) {
      CHECK(f.derivative(x, f(x)) == (x > 0 ? f.derivative(50.0f, f(50.0f)) : 0.0f));
      CHECK(f.derivative(double(x), f(double(x))) == (x > 0 ? f.derivative(50.0, f(50.0)) : 0.0));
    }
}

}  // namespace

TEST_CASE("functor: derivatives agree with central differences and read only what they declare") {
  check_derivative<Neg>(-3, 3);
  check_derivative<Exp>(-5, 3);
  check_derivative<Log>(0.1, 9);
  check_derivative<Sqrt>(0.1, 9);
  check_derivative<Tanh>(-6, 6);
  check_derivative<Sigmoid>(-12, 12);
  check_derivative<Relu>(-3, -0.01);
  check_derivative<Relu>(0.01, 3, true);
  check_derivative<Silu>(-12, 12, true);
  check_derivative<Gelu>(-7, 7, true);
  check_derivative<GeluTanh>(-7, 7, true);
  check_derivative<Square>(-3, 3);
  check_derivative<Abs>(-3, -0.01);
  check_derivative<Abs>(0.01, 3);
  CHECK(Relu{}.derivative(0.0f, 0.0f) == 0.0f);
  CHECK(Abs{}.derivative(0.0f, 0.0f) == 0.0f);
}

namespace {

/// The same bits for an element in the body of a loop, in its tail, and inlined into a larger formula.
template <class F>
void check_bits(const char* name, const F& f) {
  INFO(std::string(name));
  std::vector<float> x;
  for (int i = 0; i < 4099; ++i) x.push_back(static_cast<float>(i - 2049) * 0.00731f);
  const auto whole = evaluate(f, x);
  std::vector<float> single, pieces;
  for (std::size_t i = 0; i < x.size(); ++i) single.push_back(evaluate(f, {x[i]})[0]);
  for (std::size_t i = 0; i < x.size(); i += 23) {
    const std::size_t end = i + 23 < x.size() ? i + 23 : x.size();
    for (float y :
         evaluate(f, std::vector<float>(x.begin() + static_cast<long>(i), x.begin() + static_cast<long>(end))))
      pieces.push_back(y);
  }
  const auto fused = evaluate([&f](float v) MEFT_INLINE { return f(v) + 0.3f; }, x);
  const auto apart = evaluate([](float v) MEFT_INLINE { return v + 0.3f; }, whole);
  std::vector<float> plain(x.size());  // a loop of another shape
  vectorised([&]() MEFT_INLINE {
    for (std::size_t i = 0; i < x.size(); ++i) plain[i] = f(x[i]);
  });
  CHECK(same_bits(whole, single));
  CHECK(same_bits(whole, pieces));
  CHECK(same_bits(whole, plain));
  CHECK(same_bits(fused, apart));
}

}  // namespace

TEST_CASE("functor: bits depend neither on the place in a loop nor on what the formula is part of") {
  check_bits("exp", Exp{});
  check_bits("log", MEFT_TEST_FUNCTION(fast::log(x + 15.0f)));
  check_bits("sqrt", MEFT_TEST_FUNCTION(fast::sqrt(x + 15.0f)));
  check_bits("tanh", Tanh{});
  check_bits("sigmoid", Sigmoid{});
  check_bits("silu", Silu{});
  check_bits("gelu", Gelu{});
  check_bits("gelu_tanh", GeluTanh{});
  check_bits("square", Square{});
  check_bits("tanh'", MEFT_TEST_FUNCTION(Tanh{}.derivative(x, x)));
  check_bits("sigmoid'", MEFT_TEST_FUNCTION(Sigmoid{}.derivative(x, x)));
  check_bits("silu'", MEFT_TEST_FUNCTION(Silu{}.derivative(x, x)));
  check_bits("gelu'", MEFT_TEST_FUNCTION(Gelu{}.derivative(x, x)));
  check_bits("gelu_tanh'", MEFT_TEST_FUNCTION(GeluTanh{}.derivative(x, x)));
}

TEST_CASE("functor: activations by their Hugging Face names") {
  CHECK(activation_from("gelu") == Activation::gelu);
  for (const char* name : {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"})
    CHECK(activation_from(name) == Activation::gelu_tanh);
  CHECK(activation_from("relu") == Activation::relu);
  CHECK(activation_from("silu") == Activation::silu);
  CHECK(activation_from("swish") == Activation::silu);
  CHECK(activation_from("tanh") == Activation::tanh);
  test::check_error({"activation", "\"mish\"", "gelu_pytorch_tanh", "swish"}, [] { activation_from("mish"); });

  const auto at_minus_one = [](Activation a) { return visit(a, [](auto f) { return static_cast<double>(f(-1.0)); }); };
  CHECK(at_minus_one(Activation::relu) == 0.0);
  CHECK(at_minus_one(Activation::gelu) == doctest::Approx(-0.158655254));
  CHECK(at_minus_one(Activation::gelu_tanh) == doctest::Approx(-0.158808009));
  CHECK(at_minus_one(Activation::silu) == doctest::Approx(-0.268941421));
  CHECK(at_minus_one(Activation::tanh) == doctest::Approx(-0.761594156));
}

// numpy.linalg.eigh.
TEST_CASE("eigenvectors of a symmetric matrix, and of one of rank one") {
  const std::vector<double> a{4,  1,    -2,  0.5, 0,  1, 3,  0, 2, 1,    -2, 0, 5,
                              -1, 0.25, 0.5, 2,   -1, 2, -3, 0, 1, 0.25, -3, 1};
  const std::vector<double> values{7.260914915476284, 4.411949896917081, 3.7070019942377663, 2.0037848462136005,
                                   -2.3836516528447276};
  const std::vector<double> first{-0.553024044034145, -0.267775308791545, 0.673754582787471, -0.376159758882937,
                                  0.164375754573858},
      last{0.030090419207245, -0.367748200214028, 0.072077917338332, 0.639634561167142, 0.670468664371396};
  const auto found = eigenvectors(5, a);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(found.values[i] == doctest::Approx(values[i]).epsilon(1e-14));
    CHECK(found.vectors[i] == doctest::Approx(first[i]).epsilon(1e-13));
    CHECK(found.vectors[20 + i] == doctest::Approx(last[i]).epsilon(1e-13));
  }
  const auto one = eigenvectors(3, {4, 2, -4, 2, 1, -2, -4, -2, 4});  // (2, 1, −2)
  CHECK(one.values[0] == doctest::Approx(9));
  CHECK(std::fabs(one.values[1]) + std::fabs(one.values[2]) < 1e-14);
  CHECK(one.vectors[1] * 2 == doctest::Approx(one.vectors[0]));
  CHECK(eigenvectors(1, {-3}).vectors == std::vector<double>{1});
  CHECK(eigenvectors(2, {0, 0, 0, 0}).values == std::vector<double>{0, 0});
  // More than two panels, the last one narrower; also where a rank is a third of the size.
  for (const bool low_rank : {false, true}) {
    constexpr std::size_t n = 77;
    std::vector<double> g(n * n), b(n * n);
    for (std::size_t i = 0; i < n * n; ++i) g[i] = low_rank && i % n > n / 3 ? 0 : std::sin(static_cast<double>(i * i));
    const auto product = [&](const double* x, const double* y) {
      double sum = 0;
      for (std::size_t i = 0; i < n; ++i) sum += x[i] * y[i];
      return sum;
    };
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) b[i * n + j] = product(g.data() + i * n, g.data() + j * n);
    const int before = threads();
    set_threads(1);
    const auto of = eigenvectors(n, b);
    set_threads(3);
    CHECK(eigenvectors(n, b).vectors == of.vectors);
    set_threads(before);
    double apart = 0, skew = 0;
    for (std::size_t k = 0; k < n; ++k) {
      const double* v = of.vectors.data() + k * n;
      for (std::size_t i = 0; i < n; ++i) {
        apart = std::max(apart, std::fabs(product(b.data() + i * n, v) - of.values[k] * v[i]));
        skew = std::max(skew, std::fabs(product(of.vectors.data() + i * n, v) - (i == k)));
      }
    }
    CHECK(apart < 1e-13 * of.values[0]);
    CHECK(skew < 1e-13);
  }
  CHECK_THROWS_AS((void)eigenvectors(1, {NAN}), NumberError);
  CHECK_THROWS_AS((void)eigenvectors(2, {1}), Error);
}
