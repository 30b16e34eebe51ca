// Owns: the exact shear on the CPU: x ← λ·x + f in fixed point, its inverse, and the digits that make λ invertible.
// After Maclaurin, Duvenaud, Adams, "Gradient-based hyperparameter optimization through reversible learning", arXiv
// 1502.03492, section 3. A stream element X (int32 or int64) stands for X·2⁻ˢ. Everything here runs on one thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/shear.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/lambda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>
#include <meft/base/target.hpp>

namespace meft {

namespace cpu {

inline constexpr Index lanes = 16;
inline constexpr double rounder =
    6755399441055744.0;  // 1.5·2⁵²: adding and taking it away rounds to the nearest integer, ties to even

/// Digits of base d that fit a word below 2³¹.
constexpr Index digits_per_word(std::int32_t d) {
  Index count = 0;
  for (std::int64_t power = d; power <= (std::int64_t{1} << 31); power *= d) ++count;
  return count;
}

/// A stack of digits of changing base in one integer with overflow words (asymmetric numeral system over uniform
/// symbols). `push` and `pop` of the same base are exact inverses in both directions: popping an empty stack reads
/// zeros, and pushing gives them back.
class DigitStack {
 public:
  DigitStack(std::uint32_t* words, std::uint64_t bases)
      : words_(words), low_((std::uint64_t{1} << 31) / bases * bases), state_(low_) {}

  void push(std::uint64_t base, std::uint64_t digit) {
    if (state_ >= (low_ / base) << 32) {
      if (count_) words_[count_++] = static_cast<std::uint32_t>(state_);
      else if (borrowed_) --borrowed_;
      else words_[count_++] = static_cast<std::uint32_t>(state_);
      state_ >>= 32;
    }
    state_ = state_ * base + digit;
  }
  std::uint64_t pop(std::uint64_t base) {
    const std::uint64_t digit = state_ % base;
    state_ /= base;
    if (state_ < low_) {
      std::uint32_t word = 0;
      if (count_) word = words_[--count_];
      else ++borrowed_;
      state_ = state_ << 32 | word;
    }
    return digit;
  }

  /// The header that `load` reads: four words before the stack.
  void save(std::uint32_t* header) const {
    header[0] = static_cast<std::uint32_t>(state_);
    header[1] = static_cast<std::uint32_t>(state_ >> 32);
    header[2] = static_cast<std::uint32_t>(count_);
    header[3] = static_cast<std::uint32_t>(borrowed_);
  }
  void load(const std::uint32_t* header) {
    state_ = header[0] | std::uint64_t{header[1]} << 32;
    count_ = header[2];
    borrowed_ = header[3];
  }

 private:
  std::uint32_t* words_;
  std::uint64_t low_, state_;
  std::size_t count_ = 0, borrowed_ = 0;
};

inline constexpr Index stack_header = 4;

/// A hash of a slice, 16 running values side by side: an odd multiplier keeps every difference.
struct Hash {
  std::uint32_t lane[lanes] = {};
  template <class Word>
  MEFT_INLINE void add(Index j, Word x) {
    if constexpr (sizeof(Word) == 4) lane[j] = (lane[j] ^ static_cast<std::uint32_t>(x)) * 0x9E3779B1u;
    else
      lane[j] = ((lane[j] ^ static_cast<std::uint32_t>(x)) * 0x9E3779B1u ^
                 static_cast<std::uint32_t>(static_cast<std::uint64_t>(x) >> 32)) *
                0x85EBCA6Bu;
  }
  std::uint64_t value() const {
    std::uint64_t out = 0;
    for (std::uint32_t x : lane) out = mix(out, x);
    return out;
  }
};

/// The values that left the range, the farthest of each lane.
struct Range {
  double limit, out[lanes] = {};
  int bad = 0;
  MEFT_INLINE double check(Index j, double y) {
    const bool in = std::fabs(y) <= limit, farther = !(std::fabs(y) <= std::fabs(out[j])) & (out[j] == out[j]);
    bad |= !in;
    out[j] = farther ? y : out[j];  // NaN is the farthest
    return in ? y : 0.0;
  }
  ShearSlot slot(const Hash& hash) const {
    unsigned long long worst = 0;
    if (bad)
      for (double y : out) worst = std::max(worst, beyond(y));
    return {hash.value(), worst};
  }
};

/// round(f·2ˢ) as a double; the caller checks the range, in which it is exact.
MEFT_INLINE inline double fixed(double f, double scale) { return f * scale + rounder - rounder; }

/// Blocks of `per · 16` elements: `group(g, j)` handles element g·16 + j of a block; the last block is padded by zeros.
template <class Word, class F, class Block>
MEFT_INLINE inline void blocks(Index n, Index per, Word* x, const F* f, const Block& block) {
  Word px[32 * lanes];
  F pf[32 * lanes];
  const Index size = per * lanes;
  Index i = 0, b = 0;
  for (; i + size <= n; i += size, ++b) block(b, x + i, f + i);
  if (i == n) return;
  for (Index k = 0; k < size; ++k) {
    px[k] = i + k < n ? x[i + k] : Word(0);
    pf[k] = i + k < n ? f[i + k] : F(0);
  }
  block(b, px, pf);
  for (Index k = 0; i + k < n; ++k) x[i + k] = px[k];
}

/// Whether every |X| and |f·2ˢ| of so many elements is below 2³⁰: then a shear's sums fit 32 bits.
template <class F>
MEFT_INLINE inline bool small(Index groups, const std::int32_t* x, const F* f, F limit) {
  std::int32_t large[lanes] = {}, any = 0;
  for (Index g = 0; g < groups; ++g, x += lanes, f += lanes)
    MEFT_LANES (j, lanes) {
      large[j] |= !(std::fabs(f[j]) < limit);
      large[j] |= static_cast<std::uint32_t>(x[j]) + ((1u << 30) - 1) >= (1u << 31) - 1;
    }
  for (const std::int32_t l : large) any |= l;
  return !any;
}

/// round(f·2ˢ) where it is small; ties to even, as `fixed`.
MEFT_INLINE inline std::int32_t fixed_small(float f, float scale) {
  return static_cast<std::int32_t>(std::rint(f * scale));
}
MEFT_INLINE inline std::int32_t fixed_small(double f, double scale) {
  return static_cast<std::int32_t>(f * scale + rounder - rounder);
}

template <class F>
MEFT_INLINE inline ShearSlot shear_run(Index n, std::int32_t* x, const F* f, Lambda lambda, double scale,
                                       std::uint32_t* words) {
  const Index per = lambda.d > 1 ? digits_per_word(lambda.d) : 8;
  const double inverse = 1.0 / lambda.d, d = lambda.d, sign = lambda.n;
  const std::int32_t flip = lambda.n < 0 ? -1 : 0, base = lambda.d;
  const F narrow = static_cast<F>(scale), limit = static_cast<F>(0x1p30 / scale);
  // ⌊X/d⌋ = ⌊(X + ½)/d + k⌋ − k: the fraction is never near an integer; k makes the sum positive, whose floor is cheap.
  const std::int32_t k = (1 << 30) / base + 1;
  const double half = 0.5 * inverse + k;
  Hash hash;
  Range range{std::numeric_limits<std::int32_t>::max()};
  blocks(n, per, x, f, [&](Index b, std::int32_t* px, const F* pf) MEFT_INLINE {
    std::int32_t word[lanes] = {};
    if (!small(per, px, pf, limit)) {
      for (Index g = 0; g < per; ++g)
        MEFT_LANES (j, lanes) {
          const std::int32_t old = px[g * lanes + j];
          hash.add(j, old);
          const double q = (old + 0.5) * inverse - 0.5 + rounder - rounder;  // ⌊X/d⌋: the fraction is never near ½
          word[j] = word[j] * base + static_cast<std::int32_t>(old - q * d);
          px[g * lanes + j] = static_cast<std::int32_t>(range.check(j, sign * q + fixed(pf[g * lanes + j], scale)));
        }
    } else if (base == 1) {
      for (Index g = 0; g < per; ++g, px += lanes, pf += lanes)
        MEFT_LANES (j, lanes) {
          hash.add(j, px[j]);
          px[j] = (px[j] ^ flip) - flip + fixed_small(pf[j], narrow);
        }
    } else {
      for (Index g = 0; g < per; ++g, px += lanes, pf += lanes)
        MEFT_LANES (j, lanes) {
          const std::int32_t old = px[j], q = static_cast<std::int32_t>(old * inverse + half) - k;
          hash.add(j, old);
          word[j] = word[j] * base + (old - q * base);
          px[j] = (q ^ flip) - flip + fixed_small(pf[j], narrow);
        }
    }
    if (base > 1 && words)
      MEFT_LANES (j, lanes) words[b * lanes + j] = static_cast<std::uint32_t>(word[j]);
  });
  return range.slot(hash);
}

template <bool digits, class F>
MEFT_INLINE inline ShearSlot unshear_run(Index n, std::int32_t* x, const F* f, Lambda lambda, double scale,
                                         const std::uint32_t* words) {
  const Index per = digits ? digits_per_word(lambda.d) : 8;
  const double inverse = 1.0 / lambda.d, d = lambda.d, sign = lambda.n;
  const std::int32_t flip = lambda.n < 0 ? -1 : 0, base = lambda.d;
  const F narrow = static_cast<F>(scale), limit = static_cast<F>(0x1p30 / scale);
  const std::int32_t most = std::numeric_limits<std::int32_t>::max() / base - 1;  // of what d is multiplied with
  Hash hash;
  Range range{std::numeric_limits<std::int32_t>::max()};
  blocks(n, per, x, f, [&](Index b, std::int32_t* px, const F* pf) MEFT_INLINE {
    std::int32_t whole[32 * lanes];  // ±(X − f)
    bool fits = small(per, px, pf, limit);
    if (fits) {
      std::int32_t large[lanes] = {}, any = 0;
      for (Index g = 0; g < per; ++g)
        MEFT_LANES (j, lanes) {
          const std::int32_t t = px[g * lanes + j] - fixed_small(pf[g * lanes + j], narrow), w = (t ^ flip) - flip;
          whole[g * lanes + j] = w;
          large[j] |= w > most;
          large[j] |= w < -most;
        }
      for (const std::int32_t l : large) any |= l;
      fits = !any;
    }
    if (!fits) {
      double word[lanes] = {};
      if constexpr (digits)
        MEFT_LANES (j, lanes) word[j] = static_cast<std::int32_t>(words[b * lanes + j]);
      for (Index g = per - 1; g >= 0; --g)
        MEFT_LANES (j, lanes) {
          double y = sign * (px[g * lanes + j] - fixed(pf[g * lanes + j], scale)) * d;
          if constexpr (digits) {
            const double rest = (word[j] + 0.5) * inverse - 0.5 + rounder - rounder;
            y += word[j] - rest * d;
            word[j] = rest;
          }
          px[g * lanes + j] = static_cast<std::int32_t>(range.check(j, y));
        }
    } else if constexpr (digits) {
      // Of a word W the digit of group g is ⌊W/dᵃ⌋ − d·⌊W/dᵃ⁺¹⌋ with a = per − 1 − g; none waits for another.
      std::int32_t low[lanes];
      double middle[lanes];
      MEFT_LANES (j, lanes) {
        low[j] = static_cast<std::int32_t>(words[b * lanes + j]);
        middle[j] = low[j] + 0.5;
      }
      double power = inverse;
      for (Index g = per - 1; g >= 0; --g, power *= inverse)
        MEFT_LANES (j, lanes) {
          const std::int32_t rest = static_cast<std::int32_t>(middle[j] * power);
          px[g * lanes + j] = whole[g * lanes + j] * base + (low[j] - rest * base);
          low[j] = rest;
        }
    } else {
      for (Index i = 0; i < per * lanes; ++i) px[i] = whole[i];
    }
    for (Index g = 0; g < per; ++g)
      MEFT_LANES (j, lanes) hash.add(j, px[g * lanes + j]);
  });
  return range.slot(hash);
}

/// What a term of a sum of two may be, so that it is an integer of 64 bits.
inline constexpr double most_term = 0.99 * 0x1p63;

/// Any n/d and any word, digit by digit.
template <class Word, class F>
ShearSlot shear_any(Index n, Word* x, const F* f, Lambda lambda, double scale, std::uint32_t* words) {
  const std::int64_t d = lambda.d, sign = lambda.n < 0 ? -1 : 1, m = lambda.n * sign;
  const bool digits = d > 1 || m > 1;
  DigitStack stack(words + (digits ? stack_header : 0), static_cast<std::uint64_t>(d * m));
  Hash hash;
  unsigned long long worst = 0;
  for (Index i = 0; i < n; ++i) {
    hash.add(i % lanes, x[i]);
    const std::int64_t r = (x[i] % d + d) % d, q = (x[i] - r) / d;
    std::int64_t p = 0;
    if (digits) {
      stack.push(static_cast<std::uint64_t>(d), static_cast<std::uint64_t>(r));
      p = static_cast<std::int64_t>(stack.pop(static_cast<std::uint64_t>(m)));
    }
    const double add = static_cast<double>(f[i]) * scale, scaled = static_cast<double>(q) * static_cast<double>(m);
    std::int64_t sum = 0;
    if (!(std::fabs(add) < most_term && std::fabs(scaled) < most_term) ||
        __builtin_add_overflow((q * m + p) * sign, std::llrint(add), &sum) || static_cast<Word>(sum) != sum ||
        sum == std::numeric_limits<Word>::min()) {
      worst = std::max(worst, beyond(scaled * static_cast<double>(sign) + add));
      sum = 0;
    }
    x[i] = static_cast<Word>(sum);
  }
  if (digits) stack.save(words);
  return {hash.value(), worst};
}

template <class Word, class F>
ShearSlot unshear_any(Index n, Word* x, const F* f, Lambda lambda, double scale, std::uint32_t* words) {
  const std::int64_t d = lambda.d, sign = lambda.n < 0 ? -1 : 1, m = lambda.n * sign;
  const bool digits = d > 1 || m > 1;
  DigitStack stack(words + (digits ? stack_header : 0), static_cast<std::uint64_t>(d * m));
  if (digits) stack.load(words);
  Hash hash;
  unsigned long long worst = 0;
  for (Index i = n - 1; i >= 0; --i) {
    const double add = static_cast<double>(f[i]) * scale;
    std::int64_t whole = 0;
    if (!(std::fabs(add) < most_term) || !(std::fabs(static_cast<double>(x[i]) - add) < 0x1p63) ||
        __builtin_sub_overflow(static_cast<std::int64_t>(x[i]), std::llrint(add), &whole)) {
      worst = std::max(worst, beyond(add));
      continue;
    }
    whole *= sign;
    const std::int64_t p = (whole % m + m) % m;
    std::int64_t r = 0;
    if (digits) {
      stack.push(static_cast<std::uint64_t>(m), static_cast<std::uint64_t>(p));
      r = static_cast<std::int64_t>(stack.pop(static_cast<std::uint64_t>(d)));
    }
    // A wrong f may give anything here; the range or the hash tells.
    std::int64_t old = 0;
    if (__builtin_mul_overflow((whole - p) / m, d, &old) || __builtin_add_overflow(old, r, &old) ||
        static_cast<Word>(old) != old)
      worst = std::max(worst, beyond(static_cast<double>(whole)));
    x[i] = static_cast<Word>(old);
  }
  for (Index i = 0; i < n; ++i) hash.add(i % lanes, x[i]);
  return {hash.value(), worst};
}

inline bool blockwise(Lambda lambda, bool narrow) { return narrow && (lambda.n == 1 || lambda.n == -1); }

}  // namespace cpu

template <class Word>
Index digit_words(Cpu, Index n, Lambda lambda) {
  if (lambda.d == 1 && (lambda.n == 1 || lambda.n == -1)) return 0;
  if (cpu::blockwise(lambda, sizeof(Word) == 4)) {
    const Index block = cpu::digits_per_word(lambda.d) * cpu::lanes;
    return (n + block - 1) / block * cpu::lanes;
  }
  const double bits = std::max(0.0, std::log2(std::fabs(1.0 / lambda.value())));
  return cpu::stack_header + static_cast<Index>(static_cast<double>(n) * bits * 1.000001 / 32.0) + 8;
}

template <class Word, Real F>
void shear(Cpu, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot) {
  const double scale = std::ldexp(1.0, fraction_bits);
  if constexpr (sizeof(Word) == 4)
    if (cpu::blockwise(lambda, true))
      return vectorised<Isa::avx512>([&]() MEFT_INLINE { *slot = cpu::shear_run(n, x, f, lambda, scale, words); });
  *slot = cpu::shear_any(n, x, f, lambda, scale, words);
}

template <class Word, Real F>
void unshear(Cpu, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words,
             ShearSlot* slot) {
  const double scale = std::ldexp(1.0, fraction_bits);
  if constexpr (sizeof(Word) == 4)
    if (cpu::blockwise(lambda, true)) {
      if (lambda.d > 1)
        return vectorised<Isa::avx512>(
            [&]() MEFT_INLINE { *slot = cpu::unshear_run<true>(n, x, f, lambda, scale, words); });
      return vectorised<Isa::avx512>(
          [&]() MEFT_INLINE { *slot = cpu::unshear_run<false>(n, x, f, lambda, scale, words); });
    }
  *slot = cpu::unshear_any(n, x, f, lambda, scale, words);
}

template <class Word, Real F>
void to_fixed(Cpu, Index n, const F* v, Word* x, int fraction_bits, ShearSlot* slot) {
  std::fill(x, x + n, Word(0));
  shear(Cpu{}, n, x, v, Lambda{1, 1}, fraction_bits, nullptr, slot);
}

template <class Word, Real F>
void from_fixed(Cpu, Index n, const Word* x, F* v, int fraction_bits) {
  const F unit = static_cast<F>(std::ldexp(1.0, -fraction_bits));
  vectorised(
      [&]() MEFT_INLINE { cpu::map_run([unit](Word w) MEFT_INLINE { return static_cast<F>(w) * unit; }, n, v, x); });
}

template <Real F>
void shear_rounded(Cpu, Index n, F* x, const F* f, Lambda lambda) {
  const F by = static_cast<F>(lambda.value());
  vectorised([&]() MEFT_INLINE { cpu::map_run([by](F a, F b) MEFT_INLINE { return by * a + b; }, n, x, x, f); });
}
template <Real F>
void unshear_rounded(Cpu, Index n, F* x, const F* f, Lambda lambda) {
  const F by = static_cast<F>(lambda.value());
  vectorised([&]() MEFT_INLINE { cpu::map_run([by](F a, F b) MEFT_INLINE { return (a - b) / by; }, n, x, x, f); });
}

}  // namespace meft
