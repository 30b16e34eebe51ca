// Owns: Philox words and dropout's draws in bulk, the same bits as base/random.hpp and backend/keep.hpp: on AVX2 four
// counters side by side, each in the lower half of a 64-bit lane, where the 32 × 32 → 64 bit product works. What
// overflows into the upper halves is never read.
#pragma once

#include <cstdint>

#include <meft/backend/keep.hpp>
#include <meft/base/random.hpp>
#include <meft/base/shape.hpp>
#include <meft/base/target.hpp>

namespace meft::cpu {

#if MEFT_X86
typedef std::uint64_t Word4 __attribute__((vector_size(32)));                              // NOLINT: see tile.hpp
typedef std::uint64_t LooseWord4 __attribute__((vector_size(32), aligned(2), may_alias));  // NOLINT
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

  __attribute__((target("avx2"), always_inline)) void store(LooseWord4* words) const {
    const Word4 a = (c0 & 0xffffffffu) | (c1 << 32), b = (c2 & 0xffffffffu) | (c3 << 32);
    words[0] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    words[1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
};

/// Words of 8·eights blocks from `block` on: two sets of lanes hide each other's latency.
template <int rounds>
__attribute__((target("avx2"))) inline void philox_eights(Key key, std::uint64_t block, Index eights, void* words) {
  const Word4 step0 = Word4{} + 0x9E3779B9u, step1 = Word4{} + 0xBB67AE85u;
  auto* to = static_cast<LooseWord4*>(words);
  for (; eights > 0; --eights, block += 8, to += 4) {
    Word4 k0 = Word4{} + static_cast<std::uint32_t>(key.seed), k1 = Word4{} + (key.seed >> 32);
    PhiloxLanes x(key, block), y(key, block + 4);
#pragma GCC unroll 10
    for (int round = 0; round < rounds; ++round) {
      x.round(k0, k1);
      y.round(k0, k1);
      k0 += step0;
      k1 += step1;
    }
    x.store(to);
    y.store(to + 2);
  }
}
#endif

/// The words of blocks [block, block + blocks), or their halves, the lower one first.
template <int rounds, class Word>
void philox_blocks(Key key, std::uint64_t block, Index blocks, Word* words) {
  Index b = 0;
#if MEFT_X86
  if (has_avx2()) {
    philox_eights<rounds>(key, block, blocks / 8, words);
    b = blocks / 8 * 8;
  }
#endif
  constexpr Index each = 16 / sizeof(Word);
  for (; b < blocks; ++b) {
    const auto four = philox<rounds>(key, block + static_cast<std::uint64_t>(b));
    for (Index k = 0; k < each; ++k)
      words[each * b + k] = static_cast<Word>(four[static_cast<std::size_t>(4 * k / each)] >> 4 * k % each * 32 / each);
  }
}

/// words[4b + k] = philox(key, block + b)[k] for b in [0, blocks).
inline void philox_words(Key key, std::uint64_t block, Index blocks, std::uint32_t* words) {
  philox_blocks<10>(key, block, blocks, words);
}

/// bits[8b + e] = those of element e of dropout_block(key, block + b), for b in [0, blocks).
inline void dropout_draws(Key key, std::uint64_t block, Index blocks, std::uint16_t* bits) {
  philox_blocks<dropout_rounds>(key, block, blocks, bits);
}

}  // namespace meft::cpu
