// Owns: float mathematics without branches, tables or library calls, so that a plain loop over it vectorises; the same
// names for double call the standard library. A sum of products is either `multiply_add` or keeps them apart by
// `product`, which leaves compilers no choice in contracting it: under their default -ffp-contract the bits of a result
// depend on whether the target has FMA, not on the place in a loop or what a formula is inlined into.
#pragma once

#include <cmath>
#include <cstdint>

#include <meft/base/host_device.hpp>

#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__ || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "meft: compile without -ffast-math or a part of it: exp, log, tanh and shears rely on operations as written"
#endif

namespace meft {

/// a·b + c in one rounding where the target has FMA, in two elsewhere.
MEFT_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}
MEFT_HD double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

/// a·b rounded, whatever is added to it afterwards; a zero product is +0. With FMA the + 0 takes the place of the
/// addition that a compiler might contract, exactly and at no cost. (It may not be dropped: −0 + 0 is +0.) A product
/// that is only multiplied or divided further needs none of this.
MEFT_HD float product(float a, float b) { return multiply_add(a, b, 0.0f); }
MEFT_HD double product(double a, double b) { return multiply_add(a, b, 0.0); }

/// condition ? yes : no, both computed. Written with masks because GCC leaves a loop scalar when ?: chooses between
/// results of floating-point arithmetic (it sinks the arithmetic into a branch, and then may not undo that under
/// trapping rules).
MEFT_HD float select(bool condition, float yes, float no) {
#if defined(__CUDA_ARCH__) || defined(__clang__)
  return condition ? yes : no;
#else
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
  const std::uint32_t u = __builtin_bit_cast(std::uint32_t, yes), v = __builtin_bit_cast(std::uint32_t, no);
  return __builtin_bit_cast(float, (u & mask) | (v & ~mask));
#endif
}
MEFT_HD double select(bool condition, double yes, double no) { return condition ? yes : no; }

namespace fast {

/// σ(x) and 1 − σ(x) = σ(−x), each with full relative accuracy.
template <class T>
struct Logistic {
  T value, complement;
};

namespace detail {

MEFT_HD std::uint32_t bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
MEFT_HD float real(std::uint32_t u) { return __builtin_bit_cast(float, u); }
MEFT_HD float magnitude(float x) { return real(bits(x) & 0x7fffffffu); }
MEFT_HD float with_sign(float x, float sign) { return real(bits(x) | (bits(sign) & 0x80000000u)); }  // x ≥ 0
/// 2ᵏ for −126 ≤ k ≤ 127.
MEFT_HD float power_of_two(std::int32_t k) { return real(static_cast<std::uint32_t>(k + 127) << 23); }

/// c0 + c1·x + c2·x² + …, by Horner's rule.
MEFT_HD float polynomial(float, float c0) { return c0; }
template <class... More>
MEFT_HD float polynomial(float x, float c0, More... more) {
  return multiply_add(x, polynomial(x, more...), c0);
}

/// e^(hi + lo) = 2ᵏ·(1 + tail), |lo| ≪ |hi|; |tail| ≤ √2 − 1. −104 ≤ hi ≤ 89.
struct Power {
  std::int32_t k;
  float tail;
};
inline constexpr float magic = 0x1.8p23f;  // adding it rounds to an integer, which the low bits of the sum then hold
/// Minimax for e^r − 1 on |r| ≤ ln 2 / 2, relative error 3e-9.
MEFT_HD float tail(float r) {
  const float q = polynomial(r, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558acp-5f, 0x1.12397ap-7f, 0x1.6a513p-10f);
  return multiply_add(product(r, r), q, r);
}
MEFT_HD Power reduce(float hi, float lo) {
  constexpr float ln2_hi = 0x1.62ep-1f, ln2_lo = 3.19461845e-5f;  // n·ln2_hi is exact
  const float shifted = multiply_add(hi + lo, 1.44269504f, magic);
  const float n = shifted - magic;
  const float r = multiply_add(n, -ln2_lo, multiply_add(n, -ln2_hi, hi)) + lo;
  return {static_cast<std::int32_t>(bits(shifted) - bits(magic)), tail(r)};
}

/// The same for any hi up to 89, or any at all: what is beyond has the power of where the result is 0 or ∞.
MEFT_HD Power reduce_below(float hi, float lo) { return reduce(select(hi < -104.0f, -104.0f, hi), lo); }
MEFT_HD Power reduce_any(float hi, float lo) { return reduce_below(select(hi > 89.0f, 89.0f, hi), lo); }
MEFT_HD float value(const Power& p) {
  const std::int32_t half = p.k >> 1;  // two factors: 2ᵏ alone may be out of range though the result is not
  return product((1.0f + p.tail) * power_of_two(half), power_of_two(p.k - half));
}
MEFT_HD float exp_sum(float hi, float lo) { return value(reduce_any(hi, lo)); }

/// Φ(−z) = bell·ratio for z = |x|, 15 beyond it, where that is 0; bell = 2⁶⁴·e^(−z²/2), so that their product alone
/// rounds to a subnormal number.
struct NormalTail {
  float z, bell, ratio;
};
MEFT_HD NormalTail normal_tail(float x) {
  const float m = magnitude(x), z = select(m > 15.0f, 15.0f, m);
  const float zh = (z + 0x1.8p15f) - 0x1.8p15f, zl = z - zh, square = zh * zh;  // exact, by steps of 2⁻⁸; z² is not
  const float shifted = multiply_add(square, 0.72134752f, magic - 64.0f), n = shifted - (magic - 64.0f);
  // r = z² − n·2·ln 2; e^(−r/2) minimax on |r| ≤ .76, relative error 4e-9.
  const float high = multiply_add(n, -0x1.62ep0f, square);
  const float r = multiply_add(zl, z + zh, multiply_add(n, -6.38923690e-5f, high));
  const float power = polynomial(r, 1.0f, -0x1.000002p-1f, 0x1.fffff6p-4f, -0x1.555378p-6f, 0x1.555a0ep-9f,
                                 -0x1.12b2f4p-12f, 0x1.6a7308p-16f);
  // Φ(−z)·e^(z²/2) as a quotient, fitted on [0, 15] for the least relative error, 1.7e-8; over 2⁶⁴.
  const float p = polynomial(z, 0.5f, 0x1.c1d398p-2f, 0x1.78c4e8p-3f, 0x1.4ee624p-5f, 0x1.102fe2p-8f);
  const float q =
      polynomial(z, 0x1p64f, 0x1.ad2bfcp+64f, 0x1.349edep+64f, 0x1.e2b91ep+62f, 0x1.a3c232p+60f, 0x1.5521dcp+57f);
  return {z, real(bits(power) - (bits(shifted) << 23)), p / q};
}

}  // namespace detail

/// eˣ within 1.1 ulp; subnormal results are kept, overflow gives infinity, NaN stays NaN (here and below).
MEFT_HD float exp(float x) { return detail::exp_sum(x, -0.0f); }
MEFT_HD double exp(double x) { return std::exp(x); }

/// ln x within 0.9 ulp, of subnormals too; −∞ at ±0, NaN below.
MEFT_HD float log(float x) {
  const float infinity = detail::real(0x7f800000u), nan = detail::real(0x7fc00000u);
  const bool tiny = x < 0x1p-126f;
  const float scaled = x * 0x1p23f;
  // x = m·2ᵉ with √½ ≤ m < √2, f = m − 1.
  const std::uint32_t u = detail::bits(select(tiny, scaled, x)), offset = u - 0x3f3504f3u;
  const std::int32_t e = static_cast<std::int32_t>(offset) >> 23;
  const float f = detail::real(u - (static_cast<std::uint32_t>(e) << 23)) - 1.0f, f2 = product(f, f);
  const float n = static_cast<float>(e) - select(tiny, 23.0f, 0.0f);
  // (ln(1 + f) − f + f²/2) / f³, minimax, relative error of the logarithm 6e-9.
  const float q = detail::polynomial(f, 0x1.555554p-2f, -0x1.000226p-2f, 0x1.99a01cp-3f, -0x1.54728ap-3f, 0x1.22d93p-3f,
                                     -0x1.0d8246p-3f, 0x1.055eaep-3f, -0x1.38c974p-4f);
  const float low = multiply_add(f2, multiply_add(f, q, -0.5f), product(n, 3.19461845e-5f));
  const float result = multiply_add(n, 0x1.62ep-1f, f + low);
  const float special = select(x < 0.0f, nan, x);  // +∞ and NaN stand for themselves
  const float edge = select(x == 0.0f, -infinity, special);
  const bool inside = (x > 0.0f) & (x < infinity);
  return select(inside, result, edge);
}
MEFT_HD double log(double x) { return std::log(x); }

/// √x, correctly rounded: the bits of std::sqrt. (Its errno keeps compilers from vectorising the library's.)
MEFT_HD float sqrt(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  const float infinity = detail::real(0x7f800000u), nan = detail::real(0x7fc00000u);
  const bool tiny = x < 0x1p-64f;
  const float scaled = x * 0x1p64f;
  const float a = select(tiny, scaled, x), h = -0.5f * a;
  float y = detail::real(0x5f375a86u - (detail::bits(a) >> 1));  // 1/√a by Newton's iteration
  y *= multiply_add(h * y, y, 1.5f);
  y *= multiply_add(h * y, y, 1.5f);
  y *= multiply_add(h * y, y, 1.5f);
  // s + (a − s²)/(2s); the residual is exact, as every product of two halves of s is.
  const float s = product(a, y), sh = detail::real(detail::bits(s) & 0xfffff000u), sl = s - sh;
  const float residual = multiply_add(-sl, sl, multiply_add(-2.0f * sh, sl, multiply_add(-sh, sh, a)));
  const float root = multiply_add(0.5f * y, residual, s) * select(tiny, 0x1p-32f, 1.0f);
  const float edge = select(x < 0.0f, nan, x);  // ±0, +∞ and NaN stand for themselves
  const bool inside = (x > 0.0f) & (x < infinity);
  return select(inside, root, edge);
#endif
}
MEFT_HD double sqrt(double x) { return std::sqrt(x); }

/// tanh x = d/(d + 2) with d = e^(2|x|) − 1, computed without cancellation; within 2.8 ulp (2e-7).
MEFT_HD float tanh(float x) {
  float t = detail::magnitude(x);
  t = t + t;
  t = select(t > 20.0f, 20.0f, t);
  const detail::Power p = detail::reduce(t, -0.0f);
  const float scale = detail::power_of_two(p.k);
  const float d = multiply_add(scale, p.tail, scale - 1.0f);
  return detail::with_sign(d / (d + 2.0f), x);
}
MEFT_HD double tanh(double x) { return std::tanh(x); }

/// σ(x) = 1/(1 + e^−x) within 2.5 ulp (2e-7); `logistic` gives it with its complement.
MEFT_HD Logistic<float> logistic(float x) {
  const float e = exp(-detail::magnitude(x)), big = 1.0f / (1.0f + e), small = product(e, big);
  return {select(x >= 0.0f, big, small), select(x >= 0.0f, small, big)};
}
MEFT_HD Logistic<double> logistic(double x) {
  const double e = std::exp(-std::fabs(x)), big = 1.0 / (1.0 + e), small = product(e, big);
  return {x >= 0.0 ? big : small, x >= 0.0 ? small : big};
}
MEFT_HD float sigmoid(float x) {
  const float e = exp(-detail::magnitude(x));
  return select(x >= 0.0f, 1.0f, e) / (1.0f + e);
}
MEFT_HD double sigmoid(double x) { return logistic(x).value; }

/// x·Φ(x), Φ that of the standard normal distribution; relative error below 5e-7, in the negative tail too, down to
/// where it becomes subnormal.
MEFT_HD float gelu(float x) {
  const detail::NormalTail tail = detail::normal_tail(x);
  return multiply_add(-tail.z, product(tail.bell, tail.ratio), select(x > 0.0f, x, 0.0f));
}
MEFT_HD double gelu(double x) {
  const double below = x < -40.0 ? -40.0 : x;  // −∞·0 is no number
  return product(below, 0.5 * std::erfc(x * -0.70710678118654752440));
}
/// Its derivative, Φ(x) + x·φ(x),  φ(x) = e^(−x²/2)/√(2π).
MEFT_HD float gelu_slope(float x) {
  const detail::NormalTail tail = detail::normal_tail(x);
  const float below = product(tail.bell, multiply_add(tail.z, -0.398942280f * 0x1p-64f, tail.ratio));
  return select(x > 0.0f, 1.0f - below, below);
}
MEFT_HD double gelu_slope(double x) {
  const double held = x < -40.0 ? -40.0 : x > 40.0 ? 40.0 : x;
  return multiply_add(held, 0.39894228040143267794 * std::exp(-0.5 * x * x),
                      0.5 * std::erfc(x * -0.70710678118654752440));
}

}  // namespace fast
}  // namespace meft
