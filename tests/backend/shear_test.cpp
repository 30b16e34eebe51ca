// Owns: the shear passes: undoing gives back every element, the digits stay in their words, the hash sees a change.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <meft/backend/cpu/shear.hpp>

#include "shear_report.hpp"

namespace {

using namespace meft;
using namespace meft::test;

constexpr std::uint32_t guard = 0xA5A5A5A5u;

/// What a shear makes of one element, less the digit that λ = n/d with |n| > 1 takes in: sign(n)·⌊X/d⌋·|n| +
/// round(f·2ˢ).
template <class Word, class F>
std::int64_t plain_shear(Word x, F f, Lambda l, int bits) {
  const std::int64_t q = (x - ((x % l.d) + l.d) % l.d) / l.d;
  return q * l.n + std::llrint(std::ldexp(static_cast<double>(f), bits));
}

enum class Digits { random, largest };

template <class Word, class F>
void check_round_trip(std::mt19937_64& random, Lambda lambda, Index n, int bits, double magnitude, Digits digits) {
  std::vector<Word> x(static_cast<std::size_t>(n));
  std::vector<F> f(x.size());
  std::uniform_real_distribution<double> uniform(-magnitude, magnitude);
  for (auto& v : x) {
    v = static_cast<Word>(std::ldexp(uniform(random), bits));
    if (digits == Digits::largest)
      v = static_cast<Word>(v / lambda.d * lambda.d + (v < 0 ? -1 : lambda.d - 1));  // all ≡ d − 1
  }
  for (auto& v : f) v = static_cast<F>(uniform(random));
  const auto before = x;
  const Index count = digit_words<Word>(Cpu{}, n, lambda);
  std::vector<std::uint32_t> words(static_cast<std::size_t>(count) + 64, guard);
  const auto down = shear_on<Cpu>(n, x.data(), f.data(), lambda, bits, words.data());
  REQUIRE_FALSE(down.overflow);
  const bool guarded = std::all_of(words.begin() + count, words.end(), [](std::uint32_t w) { return w == guard; });
  CHECK(guarded);
  const int most = std::abs(lambda.n) - 1;
  bool right = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::int64_t digit = (x[i] - plain_shear(before[i], f[i], lambda, bits)) * (lambda.n < 0 ? -1 : 1);
    right &= 0 <= digit && digit <= most;
  }
  CHECK(right);

  auto wrong = x;
  auto wrong_words = words;
  auto f_wrong = f;
  const auto spot = static_cast<std::size_t>(random() % x.size());
  f_wrong[spot] += static_cast<F>(1);
  const auto up = unshear_on<Cpu>(n, x.data(), f.data(), lambda, bits, words.data());
  CHECK_FALSE(up.overflow);
  CHECK(up.hash == down.hash);
  const bool same = x == before;
  CHECK(same);
  CHECK(std::all_of(words.begin() + count, words.end(), [](std::uint32_t w) { return w == guard; }));

  const auto other = unshear_on<Cpu>(n, wrong.data(), f_wrong.data(), lambda, bits, wrong_words.data());
  CHECK((other.overflow || other.hash != down.hash));
}

template <class Word, class F>
void check_many(int bits, double magnitude, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Lambda> lambdas{{1, 10}, {1, 256},   {7, 8},      {3, 7},         {-1, 1}, {1, 1},  {10, 7},   {1, 2},
                              {-1, 3}, {1, 32768}, {-1, 32767}, {32767, 32768}, {3, 1},  {-5, 1}, {1, 32749}};
  for (int i = 0; i < 60; ++i)
    lambdas.push_back(Lambda{static_cast<std::int32_t>(random() % 200) - 100,
                             static_cast<std::int32_t>(random() % (i % 3 ? 100 : 32768)) + 1});
  for (auto lambda : lambdas) {
    if (lambda.n == 0) continue;
    lambda = lambda.reduced();
    CAPTURE(lambda.text());
    // |λ| may be 100: start where one shear stays in the range.
    const double start = magnitude / (1 + std::fabs(lambda.value()));
    for (const Index n :
         {Index{1}, Index{15}, Index{16}, Index{17}, Index{2000}, static_cast<Index>(random() % 2000 + 1)}) {
      CAPTURE(n);
      check_round_trip<Word, F>(random, lambda, n, bits, start, Digits::random);
      check_round_trip<Word, F>(random, lambda, n, bits, start / 2, Digits::largest);
    }
  }
}

}  // namespace

TEST_CASE("shear: undone bit for bit, digits in their words: 32-bit words, random factors and lengths") {
  check_many<std::int32_t, float>(20, 1000, 1);
  check_many<std::int32_t, float>(9, 4e6, 2);  // beyond 2³⁰ too
}

TEST_CASE("shear: undone bit for bit, digits in their words: 64-bit words") {
  check_many<std::int64_t, double>(40, 1e6, 3);
  check_many<std::int64_t, double>(52, 900, 4);
}

TEST_CASE("shear: a chain of forty, undone in reverse order") {
  std::mt19937_64 random(5);
  for (const Lambda lambda : {Lambda{1, 10}, {7, 8}, {-1, 1}, {9, 8}}) {
    CAPTURE(lambda.text());
    std::vector<std::int32_t> x(777);
    for (auto& v : x) v = static_cast<std::int32_t>(random());
    for (auto& v : x) v >>= 8;
    const auto before = x;
    std::vector<std::vector<std::uint32_t>> words;
    std::vector<std::vector<float>> f;
    for (int k = 0; k < 40; ++k) {
      f.emplace_back(x.size());
      for (auto& v : f.back()) v = static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-53 - 0.5);
      words.emplace_back(static_cast<std::size_t>(digit_words<std::int32_t>(Cpu{}, 777, lambda)) + 1);
      REQUIRE_FALSE(shear_on<Cpu>(777, x.data(), f.back().data(), lambda, 20, words.back().data()).overflow);
    }
    for (int k = 40; k-- > 0;) {
      const auto at = static_cast<std::size_t>(k);
      REQUIRE_FALSE(unshear_on<Cpu>(777, x.data(), f[at].data(), lambda, 20, words[at].data()).overflow);
    }
    CHECK(x == before);
  }
}

TEST_CASE("shear: the digits cost what the design says") {
  const Index n = 1 << 20;
  const auto bits = [&](Lambda l, bool wide) {
    return 32.0 *
           static_cast<double>(wide ? digit_words<std::int64_t>(Cpu{}, n, l) : digit_words<std::int32_t>(Cpu{}, n, l)) /
           static_cast<double>(n);
  };
  CHECK(bits({1, 1}, false) == 0);
  CHECK(bits({-1, 1}, true) == 0);
  CHECK(bits({1, 10}, false) < 3.6);
  CHECK(bits({1, 10}, true) < 3.33);
  CHECK(bits({1, 256}, false) < 10.7);  // three digits a word
  CHECK(bits({7, 8}, false) < 0.2);
  CHECK(bits({3, 7}, false) < 1.23);
  CHECK(bits({10, 7}, false) < 0.001);
}

TEST_CASE("shear: the range: its last value passes, the next is reported") {
  const auto fixed = [](float v, int bits) {
    std::int32_t x = 0;
    return to_fixed_on<Cpu>(1, &v, &x, bits);
  };
  CHECK_FALSE(fixed(2047.999f, 20).overflow);
  CHECK_FALSE(fixed(-2047.999f, 20).overflow);
  for (const float bad : {2048.0f, -2048.5f, 1e30f, INFINITY, -INFINITY, NAN}) {
    CAPTURE(bad);
    const auto report = fixed(bad, 20);
    CHECK(report.overflow);
    CHECK((report.value == bad || (std::isnan(report.value) && std::isnan(bad))));
  }
  // An element in range, a sum beyond it; the report survives in any lane of any block.
  for (const std::size_t at : {0u, 5u, 159u, 300u}) {
    std::vector<std::int32_t> x(301, 2000 << 20);
    std::vector<float> f(301, 0.0f);
    f[at] = 100;
    const auto report = shear_on<Cpu>(301, x.data(), f.data(), Lambda{1, 1}, 20, nullptr);
    CHECK(report.overflow);
    CHECK(report.value == 2100);
  }
}

template <class Word>
void check_reach(int bits) {
  const double most = std::ldexp(static_cast<double>(std::numeric_limits<Word>::max()), -bits);
  for (const Lambda lambda : {Lambda{1, 1}, {-1, 1}, {1, 2}, {2, 3}, {-2, 3}, {3, 1}}) {
    CAPTURE(lambda.text());
    for (const double to : {0.0, 0.999 * most, -0.999 * most, 1.001 * most}) {
      CAPTURE(to);
      const double from = 0.95 * most / std::max(1.0, std::fabs(lambda.value()));
      Word x = static_cast<Word>(std::ldexp(from, bits));
      const Word before = x;
      const double f = to - lambda.value() * from;
      if (sizeof(Word) == 8 && std::fabs(f) > 0.98 * most) continue;  // a term that has no word of its own
      std::vector<std::uint32_t> words(static_cast<std::size_t>(digit_words<Word>(Cpu{}, 1, lambda)) + 8);
      const auto down = shear_on<Cpu>(1, &x, &f, lambda, bits, words.data());
      REQUIRE(down.overflow == (to > most));
      if (down.overflow) continue;
      CHECK(std::ldexp(static_cast<double>(x), -bits) == doctest::Approx(to).epsilon(1e-5).scale(most));
      const auto up = unshear_on<Cpu>(1, &x, &f, lambda, bits, words.data());
      CHECK_FALSE(up.overflow);
      CHECK((x == before && up.hash == down.hash));
    }
  }
}

TEST_CASE("shear: it is the sum that has a range, for any factor and word, however far its terms go") {
  check_reach<std::int32_t>(20);
  check_reach<std::int64_t>(52);
}

TEST_CASE("shear: rounding is to the nearest of fixed point, and 2 in the last place shows in the hash") {
  std::vector<float> v{0.5f, -0.5f, 1.0f / 3, 100.25f, -1e-7f, 6e-7f};
  std::vector<std::int32_t> x(v.size());
  CHECK_FALSE(to_fixed_on<Cpu>(6, v.data(), x.data(), 20).overflow);
  for (std::size_t i = 0; i < v.size(); ++i) CHECK(x[i] == std::llrint(std::ldexp(double(v[i]), 20)));
  std::vector<float> back(v.size());
  from_fixed(Cpu{}, 6, x.data(), back.data(), 20);
  for (std::size_t i = 0; i < v.size(); ++i) CHECK(std::fabs(back[i] - v[i]) <= 0x1p-21f);

  std::vector<std::int32_t> a(100, 7), b = a;
  b[42] += 2;
  const std::vector<float> zero(100, 0.0f);
  CHECK(shear_on<Cpu>(100, a.data(), zero.data(), Lambda{1, 1}, 20, nullptr).hash !=
        shear_on<Cpu>(100, b.data(), zero.data(), Lambda{1, 1}, 20, nullptr).hash);
}

TEST_CASE("shear: the rounded policy divides in floating point, and does not come back exactly") {
  std::vector<float> x(1000), f(1000);
  std::mt19937 random(9);
  for (auto& v : x) v = static_cast<float>(random()) * 0x1p-32f;
  for (auto& v : f) v = static_cast<float>(random()) * 0x1p-29f;
  const auto before = x;
  shear_rounded(Cpu{}, 1000, x.data(), f.data(), {1, 10});
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == doctest::Approx(before[i] * 0.1f + f[i]));
  unshear_rounded(Cpu{}, 1000, x.data(), f.data(), {1, 10});
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::fabs(double(x[i]) - before[i]));
  CHECK(worst > 1e-7);
  CHECK(worst < 1e-4);
}
