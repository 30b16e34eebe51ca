// Owns: what a format of weights is: numbers in blocks along a row, and how they are looked at: a block, or a tile of
// 16 rows × 16 numbers, which products take in. Must not know: the formats (formats.hpp lists them), matrices.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <meft/base/host_device.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>

namespace meft::weights {

inline constexpr std::size_t part = 16,
                             most_block = 256;  // numbers that are decoded at a time, and of the largest block
inline constexpr std::size_t most_scales = 2;

/// A format, as the rest of the library knows it.
struct Format {
  std::string_view dtype;      // its name in files
  std::size_t numbers, bytes;  // of a block
  unsigned bits;               // of a number, beside what a block shares
  void (*decode)(const std::byte* block, float* out);
  /// out[r, 16] ← numbers [at, at + 16) of the rows that begin at rows[r], each rounded to bf16, for r < count; zeros
  /// for the rest of 16 rows. `at` is a multiple of 16.
  void (*tile)(const std::byte* const* rows, std::size_t at, std::size_t count, float* out);
  void (*encode)(const float* x, std::byte* block);  // the nearest that it can say; null: it is only read

  /// Bytes of a row of n numbers, the last block filled up.
  constexpr std::size_t row_bytes(std::size_t n) const { return (n + numbers - 1) / numbers * bytes; }
};

// A format F has dtype, numbers, bytes, bits and
//   scales                       an array: where in a block the numbers are, of two bytes, that it goes by
//   number(block, i, s)          number i of a block whose scales are s[0], s[1]: on a device, and where no vectors are
//   part(block, i, s, low, high) numbers [16·i, 16·i + 16) in two vectors, on AVX2
//   encode(x, block)             where it can be written
// Arithmetic is such that products are exact in float: both say the same, with and without fused multiply-add.

MEFT_HD std::uint32_t byte_at(const std::byte* at) { return static_cast<std::uint32_t>(*at); }
/// A number of two bytes.
MEFT_HD float half_at(const std::byte* at) {
  const std::uint32_t bits = byte_at(at) | byte_at(at + 1) << 8;
  const std::uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
  if (exponent - 1u < 30u) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return exponent ? std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13)) : sign ? -tiny : tiny;
}
/// Numbers of blocks, one by one. Made for each block anew, it reads the scales once.
template <class F>
struct Numbers {
  const std::byte* block;
  float scales[most_scales];

  MEFT_HD explicit Numbers(const std::byte* at) : block(at), scales{} {
    constexpr auto places = F::scales;  // a device has none of the host's
    if constexpr (places.size() > 0)
      for (std::size_t n = 0; n < places.size(); ++n) scales[n] = half_at(at + places[n]);
  }
  MEFT_HD float operator[](std::size_t i) const { return F::number(block, i, scales); }
};

/// The nearest half, the largest in place of infinity.
inline float as_half(float x) { return static_cast<float>(half(std::clamp(x, -65504.0f, 65504.0f))); }
inline void store_half(std::byte* to, float x) {
  const half value(x);
  std::memcpy(to, &value.bits, sizeof value.bits);
}

#if MEFT_X86
// Vectors of the compilers: what they are lowered to is the target's.
typedef float Float8 __attribute__((vector_size(32)));         // NOLINT: clang drops the alignment
typedef std::int32_t Int8 __attribute__((vector_size(32)));    // NOLINT  of an alias declaration
typedef std::uint32_t Word8 __attribute__((vector_size(32)));  // NOLINT

template <class V>
MEFT_INLINE inline void load(V& v, const void* from) {
  std::memcpy(&v, from, sizeof v);
}
template <class V>
MEFT_INLINE inline void store(void* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}
/// q ← eight bytes, and with signs; eight numbers of two bytes. By the instructions' names for g++, which makes them
/// wide one by one; clang takes no such operands outside of functions for AVX2, and needs no names.
#if defined(__clang__)
template <class Number, class V>
MEFT_INLINE inline void widen(V& q, const void* from) {
  typedef Number Narrow __attribute__((vector_size(8 * sizeof(Number))));
  Narrow narrow;
  load(narrow, from);
  q = __builtin_convertvector(narrow, V);
}
MEFT_INLINE inline void load_bytes(Word8& q, const void* from) { widen<std::uint8_t>(q, from); }
MEFT_INLINE inline void load_signed(Int8& q, const void* from) { widen<std::int8_t>(q, from); }
MEFT_INLINE inline void load_halves(Word8& q, const void* from) { widen<std::uint16_t>(q, from); }
#else
template <class Number>
using Eight = const Number (*)[8];
MEFT_INLINE inline void load_bytes(Word8& q, const void* from) {
  asm("vpmovzxbd %1, %0" : "=x"(q) : "m"(*static_cast<Eight<std::uint8_t>>(from)));
}
MEFT_INLINE inline void load_signed(Int8& q, const void* from) {
  asm("vpmovsxbd %1, %0" : "=x"(q) : "m"(*static_cast<Eight<std::int8_t>>(from)));
}
MEFT_INLINE inline void load_halves(Word8& q, const void* from) {
  asm("vpmovzxwd %1, %0" : "=x"(q) : "m"(*static_cast<Eight<std::uint16_t>>(from)));
}
#endif
/// q ← eight bytes from their bit `bit` on, of which `mask` stays.
MEFT_INLINE inline void load_bits(Int8& q, const std::byte* from, std::uint32_t bit, std::uint32_t mask) {
  Word8 words;
  load_bytes(words, from);
  q = reinterpret_cast<Int8>((words >> bit) & mask);
}
/// to ← scale·q.
MEFT_INLINE inline void scaled(Float8& to, float scale, const Int8& q) {
  to = __builtin_convertvector(q, Float8) * scale;
}
/// to ← table[q], q below 16.
MEFT_INLINE inline void look_up(Float8& to, const float* table, const Int8& q) {
#if defined(__clang__)
  for (int i = 0; i < 8; ++i) to[i] = table[q[i]];
#else
  Float8 low, high;
  load(low, table);
  load(high, table + 8);
  asm("vpermps %1, %2, %0" : "=x"(low) : "x"(low), "x"(q));
  asm("vpermps %1, %2, %0" : "=x"(high) : "x"(high), "x"(q));
  to = q > 7 ? high : low;
#endif
}
/// x ← the nearest numbers of bf16. NaN has no place in weights.
MEFT_INLINE inline void round_to_bf16(Float8& x) {
  Word8 u = reinterpret_cast<Word8>(x);
  u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
  x = reinterpret_cast<Float8>(u);
}
/// Of 16-bit numbers as halves of float: widened.
MEFT_INLINE inline void widen_halves(Float8& to, const Word8& h) {
  const Word8 magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
  const Float8 by = reinterpret_cast<Float8>(magnitude) * 0x1p112f;
  const auto none = reinterpret_cast<Word8>(magnitude >= 0x7c00u << 13) & 0x7f800000u;  // infinite, or NaN
  const Word8 bits = reinterpret_cast<Word8>(by) | sign | none;
  to = reinterpret_cast<Float8>(bits);
}
#endif

template <class F>
void decode(const std::byte* block, float* out) {
  const Numbers<F> numbers(block);
#if MEFT_X86
  if (has_avx2()) {
    meft::detail::run_avx2([&]() MEFT_INLINE {
      for (std::size_t i = 0; i < F::numbers; i += part) {
        Float8 low, high;
        F::part(block, i / part, numbers.scales, low, high);
        store(out + i, low);
        store(out + i + 8, high);
      }
    });
    return;
  }
#endif
  for (std::size_t i = 0; i < F::numbers; ++i) out[i] = numbers[i];
}

template <class F>
void tile(const std::byte* const* rows, std::size_t at, std::size_t count, float* out) {
  const std::size_t begin = at / F::numbers * F::bytes, first = at % F::numbers;
#if MEFT_X86
  if (has_avx2()) {
    meft::detail::run_avx2([&]() MEFT_INLINE {
      float* const to = out;
      const std::byte* const* const from = rows;
      const std::size_t skip = begin, i = first / part, n = count;
      constexpr std::size_t kinds = F::scales.size();
      alignas(32) float wide[most_scales][part];  // the rows' scales, by their kind
      for (std::size_t kind = 0; kind < kinds; ++kind) {
        std::uint16_t halves[part] = {};
        for (std::size_t r = 0; r < n; ++r) std::memcpy(halves + r, from[r] + skip + F::scales[kind], 2);
        for (std::size_t r = 0; r < part; r += 8) {
          Word8 h;
          Float8 v;
          load_halves(h, halves + r);
          widen_halves(v, h);
          store(wide[kind] + r, v);
        }
      }
      for (std::size_t r = 0; r < n; ++r) {
        float scales[most_scales];
        for (std::size_t kind = 0; kind < kinds; ++kind) scales[kind] = wide[kind][r];
        Float8 low, high;
        F::part(from[r] + skip, i, scales, low, high);
        round_to_bf16(low);
        round_to_bf16(high);
        store(to + r * part, low);
        store(to + r * part + 8, high);
      }
    });
  } else
#endif
    for (std::size_t r = 0; r < count; ++r) {
      const Numbers<F> numbers(rows[r] + begin);
      for (std::size_t i = 0; i < part; ++i) out[r * part + i] = static_cast<float>(bf16(numbers[first + i]));
    }
  if (count < part) std::memset(out + count * part, 0, (part - count) * part * sizeof(float));
}

/// Its row.
template <class F>
constexpr Format format_of() {
  Format out{F::dtype, F::numbers, F::bytes, F::bits, decode<F>, tile<F>, nullptr};
  if constexpr (requires(const float* x, std::byte* block) { F::encode(x, block); }) out.encode = F::encode;
  return out;
}

}  // namespace meft::weights
