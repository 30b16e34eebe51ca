// Owns: exponentials of many elements on the CPU, with the bits of Exp{}, and the largest of them. With AVX2 in two
// loops over some elements each: one loop over the whole formula waits for its own results, since a processor has room
// for a few of its turns alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/base/compose.hpp>

namespace meft::cpu {

#if MEFT_X86
namespace detail {

typedef std::int32_t Int8
    __attribute__((vector_size(32)));  // NOLINT: clang drops the alignment of an alias declaration

MEFT_AVX2 MEFT_INLINE inline Float8 all(float x) { return Float8{x, x, x, x, x, x, x, x}; }

MEFT_AVX2 MEFT_INLINE inline Float8 larger(const Float8& a, const Float8& b) { return a > b ? a : b; }
/// fast::detail::reduce: e^x = 2ᵏ·(1 + tail), k + 64 in the low bits of `power`, tail a polynomial in `rest`. x ≤ 43.
MEFT_AVX2 MEFT_INLINE inline void reduce8(Float8 x, Float8& power, Float8& rest) {
  x = larger(x, all(-104.0f));
  power = x * all(1.44269504f) + all(0x1.8p23f + 64);
  const Float8 n = power - all(0x1.8p23f + 64);
  const Float8 high = n * all(-0x1.62ep-1f) + x;
  rest = n * all(-3.19461845e-5f) + high;
}
/// e^x. 2⁶⁴·e^x is made by adding to an exponent, so that the last product alone rounds, as that of
/// fast::detail::value.
MEFT_AVX2 MEFT_INLINE inline Float8 value8(const Float8& power, const Float8& r) {
  Float8 q = r * all(0x1.6a513p-10f) + all(0x1.12397ap-7f);
  q = r * q + all(0x1.5558acp-5f);
  q = r * q + all(0x1.555492p-3f);
  q = r * q + all(0x1.fffffcp-2f);
  const Float8 square = r * r + all(0.0f);
  const Float8 tail = square * q + r;
  const Float8 scaled =
      reinterpret_cast<Float8>(reinterpret_cast<Int8>(tail + all(1.0f)) + (reinterpret_cast<Int8>(power) << 23));
  return scaled * all(0x1p-64f) + all(0.0f);
}
/// The halves, and then the quarters, of a vector changed over.
MEFT_AVX2 MEFT_INLINE inline Float8 halves(const Float8& v) {
  return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
}
MEFT_AVX2 MEFT_INLINE inline Float8 quarters(const Float8& v) {
  return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
}
/// The sum of two vectors' elements, in the order of `joined`.
MEFT_AVX2 MEFT_INLINE inline float joined8(const Float8& low, const Float8& high) {
  const Float8 eight = low + high, four = eight + halves(eight), two = four + quarters(four);
  return two[0] + two[1];
}

inline constexpr Index exp_most = 512;  // elements that are done at a time

/// to[i] ← e^x of what reduce8 left, times `times` where it is told, for a multiple of 16 elements; adds e^x to
/// `total`.
template <class... Times>
MEFT_AVX2 MEFT_INLINE inline void finish_exp(Index count, const float* power, const float* rest, float* to,
                                             Float8 (&total)[2], Times... times) {
  for (Index j = 0; j < count; j += 16)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Float8 k, r;
      load(k, power + j + 8 * half);
      load(r, rest + j + 8 * half);
      const Float8 e = value8(k, r);
      total[half] += e;
      store(to + j + 8 * half, (e * ... * all(times)));
    }
}

/// x[i, j] ← e^(by·x[i, j] − shift[i]) for rows of 64, sum[i] ← its row's sum; at most 8 rows.
[[gnu::noinline]] MEFT_AVX2 inline void exp_rows(Index rows, float* x, float by, const float* shift, float* sum) {
  alignas(64) float power[exp_most];
  for (Index i = 0; i < rows; ++i)
    for (Index j = 64 * i; j < 64 * i + 64; j += 8) {
      Float8 v, k, r;
      load(v, x + j);
      v = v * all(by) + all(0.0f);
      reduce8(v - all(shift[i]), k, r);
      store(power + j, k);
      store(x + j, r);
    }
  for (Index i = 0; i < rows; ++i) {
    Float8 total[2] = {};
    finish_exp(64, power + 64 * i, x + 64 * i, x + 64 * i, total);
    sum[i] = joined8(total[0], total[1]);
  }
}

/// out[i] ← times·e^(x[i] − shift) where `out` is not null; gives the sum of the exponentials, in the order of sum_of.
[[gnu::noinline]] MEFT_AVX2 inline float exp_row(Index n, const float* x, float shift, float times, float* out) {
  alignas(64) float power[exp_most], rest[exp_most], padded[16];
  Float8 total[2] = {};
  for (Index i = 0; i < n;) {
    const Index count = n - i < 16 ? 16 : std::min(exp_most, (n - i) / 16 * 16);
    const float* from = x + i;
    if (n - i < 16) {  // e^−∞ = 0 adds nothing
      for (Index j = 0; j < 16; ++j) padded[j] = i + j < n ? x[i + j] : -std::numeric_limits<float>::infinity();
      from = padded;
    }
    for (Index j = 0; j < count; j += 8) {
      Float8 v, k, r;
      load(v, from + j);
      reduce8(v - all(shift), k, r);
      store(power + j, k);
      store(rest + j, r);
    }
    float* const to = out && n - i >= 16 ? out + i : rest;
    finish_exp(count, power, rest, to, total, times);
    if (out && n - i < 16) std::copy(rest, rest + (n - i), out + i);
    i += count;
  }
  return joined8(total[0], total[1]);
}

/// The largest of x[0, n); NaN where one of them is.
[[gnu::noinline]] MEFT_AVX2 inline float largest(Index n, const float* x) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  Float8 top[2] = {all(lowest), all(lowest)};
  Int8 nan = {};
  const Index whole = n / 16 * 16;
  for (Index i = 0; i < whole; i += 16)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Float8 v;
      load(v, x + i + 8 * half);
      top[half] = larger(top[half], v);
      nan |= v != v;
    }
  const Float8 eight = larger(top[0], top[1]), four = larger(eight, halves(eight)), two = larger(four, quarters(four));
  float best = two[0] > two[1] ? two[0] : two[1];
  bool any = __builtin_ia32_movmskps256(reinterpret_cast<Float8>(nan)) != 0;
  for (Index i = whole; i < n; ++i) best = best > x[i] ? best : x[i], any = any || x[i] != x[i];
  return any ? std::numeric_limits<float>::quiet_NaN() : best;
}

}  // namespace detail
#endif

/// Whether exponentials of elements of T less `shift` are taken by vectors.
template <class T>
bool exp_by_vectors([[maybe_unused]] T shift) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>) return has_avx2() && std::isfinite(shift);
#endif
  return false;
}

/// The largest of x[0, n), −∞ of none; NaN where one of them is.
template <class T>
MEFT_INLINE inline T largest(Index n, const T* x) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (has_avx2()) return detail::largest(n, x);
#endif
  return fold(n, -std::numeric_limits<T>::infinity(), Larger{}, [x](Index i) MEFT_INLINE { return x[i]; });
}

/// x[i, j] ← e^(by·x[i, j] − shift[i]), of rows of 64; sum[i] ← its row's sum, as sum_of has it. What is taken is at
/// most 43, shift finite, where it is by no more than rounding above 0; other shifts have NaN or ∞ in their rows.
template <class T>
MEFT_INLINE inline void exp_rows(Index rows, T* x, T by, const T* shift, T* sum) {
  for (Index i = 0, count; i < rows; i += count) {
    count = 1;
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>)
      if (exp_by_vectors(shift[i])) {
        while (count < detail::exp_most / 64 && i + count < rows && exp_by_vectors(shift[i + count])) ++count;
        detail::exp_rows(count, x + i * 64, by, shift + i, sum + i);
        continue;
      }
#endif
    T* const row = x + i * 64;
    map_run([by, s = shift[i]](T v) MEFT_INLINE { return Exp{}(product(v, by) - s); }, 64, row, row);
    sum[i] = sum_of<T>(64, [row](Index j) MEFT_INLINE { return row[j]; });
  }
}

/// out[i] ← times·e^(x[i] − shift), at most 43, for i < n, where `out` is not null, which may be x. Gives the sum of
/// the exponentials, as sum_of has it.
template <class T>
MEFT_INLINE inline T exp_row(Index n, const T* x, T shift, T* out, T times = 1) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (exp_by_vectors(shift)) return detail::exp_row(n, x, shift, times, out);
#endif
  const T total = sum_of<T>(n, [x, shift](Index i) MEFT_INLINE { return Exp{}(x[i] - shift); });
  if (out) map_run([shift, times](T v) MEFT_INLINE { return Exp{}(v - shift) * times; }, n, out, x);
  return total;
}

}  // namespace meft::cpu
