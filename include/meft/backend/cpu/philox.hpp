// Owns: Philox words in bulk, the same bits as base/random.hpp: on AVX2 four counters side by side, each in the lower
// half of a 64-bit lane, where the 32 × 32 → 64 bit product works. What overflows into the upper halves is never read.
#pragma once

#include <cstdint>

#include <meft/base/random.hpp>
#include <meft/base/shape.hpp>
#include <meft/base/target.hpp>

#if MEFT_X86
#include <immintrin.h>
#endif

namespace meft::cpu {

#if MEFT_X86
/// Four counters: word w of counter j in the lower half of lane j of c[w].
struct PhiloxLanes {
  __m256i c0, c1, c2, c3;

  __attribute__((target("avx2"), always_inline)) PhiloxLanes(Key key, std::uint64_t block)
      : c0(_mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(block)), _mm256_set_epi64x(3, 2, 1, 0))),
        c1(_mm256_srli_epi64(c0, 32)),
        c2(_mm256_set1_epi64x(key.site)),
        c3(_mm256_set1_epi64x(key.step)) {}

  __attribute__((target("avx2"), always_inline)) void round(__m256i k0, __m256i k1) {
    const __m256i p0 = _mm256_mul_epu32(c0, _mm256_set1_epi64x(0xD2511F53));
    const __m256i p1 = _mm256_mul_epu32(c2, _mm256_set1_epi64x(0xCD9E8D57));
    c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), k0);
    c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), k1);
    c1 = p1;
    c3 = p0;
  }

  __attribute__((target("avx2"), always_inline)) void store(std::uint32_t* words) const {
    const __m256i a = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
    const __m256i b = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);  // counters 0, 2 and 1, 3
    auto* to = reinterpret_cast<__m256i*>(words);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
};

/// Words of eight blocks from `block` on: two sets of lanes hide each other's latency.
__attribute__((target("avx2"))) inline void philox_eight(Key key, std::uint64_t block, std::uint32_t* words) {
  PhiloxLanes x(key, block), y(key, block + 4);
  auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const __m256i k0 = _mm256_set1_epi64x(low), k1 = _mm256_set1_epi64x(high);
    x.round(k0, k1);
    y.round(k0, k1);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  x.store(words);
  y.store(words + 16);
}
#endif

/// words[4b + k] = philox(key, block + b)[k] for b in [0, blocks).
inline void philox_words(Key key, std::uint64_t block, Index blocks, std::uint32_t* words) {
  Index b = 0;
#if MEFT_X86
  if (has_avx2())
    for (; b + 8 <= blocks; b += 8) philox_eight(key, block + static_cast<std::uint64_t>(b), words + 4 * b);
#endif
  for (; b < blocks; ++b) {
    const auto four = philox(key, block + static_cast<std::uint64_t>(b));
    for (std::size_t k = 0; k < 4; ++k) words[4 * b + static_cast<Index>(k)] = four[k];
  }
}

}  // namespace meft::cpu
