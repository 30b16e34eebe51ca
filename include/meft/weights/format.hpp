// Owns: what a format of weights is: numbers in blocks along a row, and how they are looked at: a block, or a tile of
// 16 rows × 16 numbers, which products take in. Must not know: the formats (formats.hpp lists them), matrices.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>

namespace meft::weights {

constexpr std::size_t part = 16, most_block = 256;  // numbers that are decoded at a time, and of the largest block

/// A format, as the rest of the library knows it.
struct Format {
  std::string_view dtype;      // its name in files
  std::size_t numbers, bytes;  // of a block
  void (*decode)(const std::byte* block, float* out);
  /// out[r, 16] ← numbers [at, at + 16) of the rows that begin at rows[r], each rounded to bf16, for r < count; zeros
  /// for the rest of 16 rows. `at` is a multiple of 16.
  void (*tile)(const std::byte* const* rows, std::size_t at, std::size_t count, float* out);
  void (*encode)(const float* x, std::byte* block);  // the nearest that it can say; null: it is only read

  /// Bytes of a row of n numbers, the last block filled up.
  constexpr std::size_t row_bytes(std::size_t n) const { return (n + numbers - 1) / numbers * bytes; }
};

// A format F has dtype, numbers, bytes and
//   part(block, i, out)    out[16] ← numbers [16·i, 16·i + 16) of a block
//   encode(x, block)       where it can be written
// Arithmetic is such that products are exact in float: values are the same with and without fused multiply-add.

// Vectors of the compilers: what they are lowered to is the target's.
typedef float Float8 __attribute__((vector_size(32)));         // NOLINT: clang drops the alignment
typedef std::int32_t Int8 __attribute__((vector_size(32)));    // NOLINT  of an alias declaration
typedef std::uint32_t Word8 __attribute__((vector_size(32)));  // NOLINT
typedef std::uint64_t Long4 __attribute__((vector_size(32)));  // NOLINT
typedef std::uint16_t Half8 __attribute__((vector_size(16)));  // NOLINT

template <class V>
MEFT_INLINE inline void load(V& v, const void* from) {
  std::memcpy(&v, from, sizeof v);
}
template <class V>
MEFT_INLINE inline void store(void* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}
/// words ← eight bytes, the first four times their first word, then their second.
MEFT_INLINE inline void load_words(Word8& words, const std::byte* from) {
  std::uint64_t both;
  std::memcpy(&both, from, sizeof both);
  const Long4 all = {both, both, both, both};
  const auto pairs = reinterpret_cast<Word8>(all);
  words = __builtin_shufflevector(pairs, pairs, 0, 0, 0, 0, 5, 5, 5, 5);
}
/// q ← eight bytes from their bit `bit` on, of which `mask` stays.
MEFT_INLINE inline void load_bits(Int8& q, const std::byte* from, std::uint32_t bit, std::uint32_t mask) {
  const Word8 places = {0, 8, 16, 24, 0, 8, 16, 24};
  Word8 words;
  load_words(words, from);
  q = reinterpret_cast<Int8>((words >> (places + bit)) & mask);
}
/// q ← eight bytes with signs.
MEFT_INLINE inline void load_signed(Int8& q, const std::byte* from) {
  const Word8 places = {24, 16, 8, 0, 24, 16, 8, 0};
  Word8 words;
  load_words(words, from);
  q = reinterpret_cast<Int8>(words << places) >> 24;
}
/// out[8] ← scale·q, and the same with `least` added.
MEFT_INLINE inline void store_scaled(float* out, float scale, const Int8& q) {
  const Float8 v = __builtin_convertvector(q, Float8) * scale;
  store(out, v);
}
MEFT_INLINE inline void store_scaled(float* out, float scale, const Int8& q, float least) {
  const Float8 v = __builtin_convertvector(q, Float8) * scale + least;
  store(out, v);
}

MEFT_INLINE inline std::uint32_t byte_at(const std::byte* at) { return static_cast<std::uint32_t>(*at); }
/// A number of two bytes.
MEFT_INLINE inline float half_at(const std::byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u,
                      fraction = bits & 0x3ffu;
  if (exponent - 1u < 30u) [[likely]]
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
  const float tiny = static_cast<float>(fraction) * 0x1p-24f;
  return exponent ? std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13)) : sign ? -tiny : tiny;
}
inline void store_half(std::byte* to, float x) {
  const half value(x);
  std::memcpy(to, &value.bits, sizeof value.bits);
}

/// x[n] ← rounded to bf16, n a multiple of 8. NaN has no place in weights.
MEFT_INLINE inline void round_to_bf16(float* x, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 8) {
    Word8 u;
    load(u, x + i);
    u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    store(x + i, u);
  }
}

/// F::part, compiled once for the base target.
template <class F>
[[gnu::noinline]] void one_part(const std::byte* block, std::size_t i, float* out) {
  F::part(block, i, out);
}

template <class F>
void decode(const std::byte* block, float* out) {
  for (std::size_t i = 0; i < F::numbers / part; ++i) one_part<F>(block, i, out + i * part);
}

template <class F>
void tile(const std::byte* const* rows, std::size_t at, std::size_t count, float* out) {
  const std::size_t begin = at / F::numbers * F::bytes, i = at % F::numbers / part;
#if MEFT_X86
  if (has_avx2()) {
    meft::detail::run_avx2([&]() MEFT_INLINE {
      float* const to = out;
      const std::byte* const* const from = rows;
      const std::size_t skip = begin, which = i, n = count;
      for (std::size_t r = 0; r < n; ++r) F::part(from[r] + skip, which, to + r * part);
      round_to_bf16(to, n * part);
    });
  } else
#endif
  {
    for (std::size_t r = 0; r < count; ++r) one_part<F>(rows[r] + begin, i, out + r * part);
    round_to_bf16(out, count * part);
  }
  if (count < part) std::memset(out + count * part, 0, (part - count) * part * sizeof(float));
}

/// Its row.
template <class F>
constexpr Format format_of() {
  Format out{F::dtype, F::numbers, F::bytes, decode<F>, tile<F>, nullptr};
  if constexpr (requires(const float* x, std::byte* block) { F::encode(x, block); }) out.encode = F::encode;
  return out;
}

}  // namespace meft::weights
