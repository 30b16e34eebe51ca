// Sums of products on the CPU, compiled at -O2 and at -O3: which product of a sum is contracted is written, so that an
// element's bits depend neither on where it stands nor on how loops are unrolled.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <meft/backend/cpu/attention.hpp>
#include <meft/backend/cpu/norm.hpp>
#include <meft/backend/cpu/optimize.hpp>

using namespace meft;

namespace {

/// Numbers of no pattern in [−1, 1).
std::vector<float> numbers(std::size_t n, std::uint32_t seed) {
  std::vector<float> out(n);
  for (float& x : out) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return out;
}
bool same(const float* a, const float* b, std::size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }

}  // namespace

TEST_CASE("contraction: AdamW's moments and values are the same in whole strides and behind them") {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    const auto value = numbers(16, seed), first = numbers(16, seed + 100), gradient = numbers(16, seed + 200);
    auto second = numbers(16, seed + 300);
    for (float& v : second) v = std::fabs(v);
    struct Arrays {
      std::vector<float> value, first, second, gradient;
    } whole{value, first, second, gradient}, part = whole;
    const AdamWStep step{1e-3, 0.9, 0.999, 1e-8, 0.1, 0.1, 0.001, 0.7};
    for (auto* a : {&whole, &part}) {
      const AdamWSlot<float> slot{a == &whole ? 16 : 15, a->gradient.data(), a->value.data(),
                                  a->first.data(),       a->second.data(),   true};
      adamw(Cpu{}, 1, &slot, step);
    }
    CHECK(same(whole.first.data(), part.first.data(), 15));
    CHECK(same(whole.second.data(), part.second.data(), 15));
    CHECK(same(whole.value.data(), part.value.data(), 15));
  }
}

TEST_CASE("contraction: GELU is the same in the loops of its two parts and behind them") {
  constexpr std::size_t n = 64 + 16 + 7;
  auto x = numbers(n, 3);
  for (float& v : x) v *= 14.5f;
  std::vector<float> whole(n), one(n);
  map(Cpu{}, Gelu{}, Index{n}, whole.data(), x.data());
  for (std::size_t i = 0; i < n; ++i) map(Cpu{}, Gelu{}, Index{1}, &one[i], &x[i]);
  CHECK(same(whole.data(), one.data(), n));
}

TEST_CASE("contraction: equal columns have equal gradients of a norm's input, wherever they stand") {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    constexpr std::size_t n = 16 + 8;  // the last 8 as the first
    auto x = numbers(n, seed), dy = numbers(n, seed + 100), gamma = numbers(n, seed + 200);
    for (auto* of : {&x, &dy, &gamma}) std::copy(of->begin(), of->begin() + 8, of->begin() + 16);
    const float mean = 0.1f, rstd = 1.3f;
    std::vector<float> dx(n);
    layer_norm_backward(Cpu{}, 1, n, x.data(), gamma.data(), &mean, &rstd, dy.data(), dx.data());
    CHECK(same(dx.data(), dx.data() + 16, 8));
  }
}

TEST_CASE("contraction: attention adds a tile of keys to those before in one rounding") {
  constexpr Index keys = 3 * 64 + 17, width = 8;
  std::vector<float> q(width), k(keys * width), v(keys * width, 1.0f), out(width);
  q[0] = 1;  // a score is its key's first feature
  AttentionSpec<float> spec{};
  spec.heads = 1, spec.width = width, spec.scale = 1;
  const Spans spans({{0, 1, 0, keys}});
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    const auto noise = numbers(keys, seed);
    for (Index j = 0; j < keys; ++j) k[static_cast<std::size_t>(j * width)] = 3 * noise[static_cast<std::size_t>(j)];
    float lse = 0;
    attention(Cpu{}, spec, spans, q.data(), k.data(), v.data(), out.data(), &lse);

    const auto of = [](const auto& f, float x) {
      cpu::map_here(f, 1, &x, &x);
      return x;
    };
    float top = -std::numeric_limits<float>::infinity(), total = 0;
    for (Index k0 = 0; k0 < keys; k0 += 64) {
      std::vector<float> e;
      float best = top;
      for (Index j = k0; j < std::min(k0 + 64, keys); ++j) {
        e.push_back(k[static_cast<std::size_t>(j * width)]);
        best = std::max(best, e.back());
      }
      for (float& x : e) x = of(Exp{}, x - best);
      const float sum = cpu::sum_of<float>(std::ssize(e), [&](Index i) { return e[static_cast<std::size_t>(i)]; });
      const float shrink = of(Exp{}, top - best);
      total = has_avx2() ? std::fma(total, shrink, sum) : total * shrink + sum;
      top = best;
    }
    CHECK(lse == top + of(Log{}, total));
  }
}
