// Owns: Philox words in bulk, the same bits as base/random.hpp: on AVX2 four counters side by side, each in the lower
// half of a 64-bit lane, where the 32 × 32 → 64 bit product works. What overflows into the upper halves is never read.
#pragma once

#include <cstdint>

#include <meft/base/random.hpp>
#include <meft/base/shape.hpp>
#include <meft/base/target.hpp>

namespace meft::cpu {

#if MEFT_X86
typedef std::uint64_t Word4 __attribute__((vector_size(32)));                              // NOLINT: see tile.hpp
typedef std::uint64_t LooseWord4 __attribute__((vector_size(32), aligned(4), may_alias));  // NOLINT
typedef int Int8 __attribute__((vector_size(32)));                                         // NOLINT

/// Four counters: word w of counter j in the lower half of lane j of c[w].
struct PhiloxLanes {
  Word4 c0, c1, c2, c3;

  __attribute__((target("avx2"), always_inline)) PhiloxLanes(Key key, std::uint64_t block)
      : c0(Word4{block, block + 1, block + 2, block + 3}),
        c1(c0 >> 32),
        c2(Word4{} + key.site),
        c3(Word4{} + key.step) {}

  /// The 64-bit products of the lower halves.
  __attribute__((target("avx2"), always_inline)) static void multiply(const Word4& a, std::uint64_t by, Word4& out) {
    const Word4 b = Word4{} + by;
#if !defined(__clang__) || __has_builtin(__builtin_ia32_pmuludq256)  // g++ has it, but does not say so
    out = reinterpret_cast<Word4>(__builtin_ia32_pmuludq256(reinterpret_cast<Int8>(a), reinterpret_cast<Int8>(b)));
#else
    out = (a & 0xffffffffu) * b;
#endif
  }

  __attribute__((target("avx2"), always_inline)) void round(const Word4& k0, const Word4& k1) {
    Word4 p0, p1;
    multiply(c0, 0xD2511F53u, p0);
    multiply(c2, 0xCD9E8D57u, p1);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
  }

  __attribute__((target("avx2"), always_inline)) void store(std::uint32_t* words) const {
    const Word4 a = (c0 & 0xffffffffu) | (c1 << 32), b = (c2 & 0xffffffffu) | (c3 << 32);
    *reinterpret_cast<LooseWord4*>(words) = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    *reinterpret_cast<LooseWord4*>(words + 8) = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
};

/// The keys of the rounds, in every lane.
struct PhiloxKeys {
  Word4 k0[10], k1[10];

  __attribute__((target("avx2"))) explicit PhiloxKeys(std::uint64_t seed) {
    auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, low += 0x9E3779B9u, high += 0xBB67AE85u) {
      k0[round] = Word4{} + low;
      k1[round] = Word4{} + high;
    }
  }
};

/// Words of 8·eights blocks from `block` on: two sets of lanes hide each other's latency.
__attribute__((target("avx2"))) inline void philox_eights(Key key, std::uint64_t block, Index eights,
                                                          std::uint32_t* words) {
  const PhiloxKeys keys(key.seed);
  for (; eights > 0; --eights, block += 8, words += 32) {
    PhiloxLanes x(key, block), y(key, block + 4);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      x.round(keys.k0[round], keys.k1[round]);
      y.round(keys.k0[round], keys.k1[round]);
    }
    x.store(words);
    y.store(words + 16);
  }
}
#endif

/// words[4b + k] = philox(key, block + b)[k] for b in [0, blocks).
inline void philox_words(Key key, std::uint64_t block, Index blocks, std::uint32_t* words) {
  Index b = 0;
#if MEFT_X86
  if (has_avx2()) {
    philox_eights(key, block, blocks / 8, words);
    b = blocks / 8 * 8;
  }
#endif
  for (; b < blocks; ++b) {
    const auto four = philox(key, block + static_cast<std::uint64_t>(b));
    for (std::size_t k = 0; k < 4; ++k) words[4 * b + static_cast<Index>(k)] = four[k];
  }
}

}  // namespace meft::cpu
