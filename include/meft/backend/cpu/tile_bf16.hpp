// Owns: bf16 operands of the float GEMM. A weight in bf16 lies in panels of 16 rows, two neighbouring inputs a 32-bit
// word, the first in its lower half. Processors with AVX512-BF16 multiply these words; others widen them to floats,
// which gives exact products too. Left operands are rounded to bf16 on the way. Sums are in float.
#pragma once

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/base/scalar.hpp>

namespace meft::cpu {

/// The float nearest to x that is a bf16.
struct RoundToBf16 {
  MEFT_INLINE float operator()(float x) const {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t even = u + 0x7fffu + ((u >> 16) & 1u), nan = u | 0x400000u;
    return std::bit_cast<float>(((u & 0x7fffffffu) > 0x7f800000u ? nan : even) & 0xffff0000u);
  }
};

/// Two neighbouring elements in a word.
inline std::uint32_t bf16_pair(float first, float second) {
  return static_cast<std::uint32_t>(bf16(first).bits) | static_cast<std::uint32_t>(bf16(second).bits) << 16;
}

#if MEFT_X86
namespace detail {

typedef std::uint32_t Word8 __attribute__((vector_size(32)));   // NOLINT: clang drops the alignment
typedef std::uint32_t Word16 __attribute__((vector_size(64)));  // NOLINT  of an alias declaration

/// C[M, 16] = start + A[M, pairs] · panel[pairs, 16], in words of two elements. The instruction is written by name: its
/// builtin differs between compilers.
template <int M>
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) inline void tile_dot(
    Index pairs, const std::uint32_t* a, Index lda, const std::uint32_t* panel, const Corner& at) {
  const Edge<M> edge(at);
  Float16 acc[M][1];
  begin(at, edge, acc);
  for (Index p = 0; p < pairs; ++p) {
    Word16 b;
    load(b, panel + p * 16);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const std::uint32_t s = a[i * lda + p];
      const Word16 x = {s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
      asm("vdpbf16ps %2, %1, %0" : "+v"(acc[i][0]) : "v"(x), "v"(b));
    }
  }
  end(at, edge, acc);
}

}  // namespace detail

/// C[rows, columns ≤ 16] = start + A[rows, pairs] · panel, on AVX512-BF16.
inline void multiply_pairs(Index rows, Index pairs, const std::uint32_t* a, Index lda, const std::uint32_t* panel,
                           Corner at) {
  alignas(64) float padded[16] = {};
  if (at.start == Start::bias && at.columns < 16) {
    for (Index j = 0; j < at.columns; ++j) padded[j] = at.bias[j];
    at.bias = padded;
  }
  Index i = 0;
  for (; i + 12 <= rows; i += 12) detail::tile_dot<12>(pairs, a + i * lda, lda, panel, at.below(i));
  for (; i + 4 <= rows; i += 4) detail::tile_dot<4>(pairs, a + i * lda, lda, panel, at.below(i));
  for (; i < rows; ++i) detail::tile_dot<1>(pairs, a + i * lda, lda, panel, at.below(i));
}

/// to[2p, 16], to[2p + 1, 16] ← the elements of words[p, 16], as floats.
MEFT_AVX2 inline void widen(Index pairs, const std::uint32_t* words, float* to) {
  for (Index p = 0; p < pairs; ++p)
    for (int half = 0; half < 2; ++half) {
      detail::Word8 w;
      detail::load(w, words + p * 16 + half * 8);
      detail::store(to + p * 32 + half * 8, w << 16);
      detail::store(to + p * 32 + 16 + half * 8, w & 0xffff0000u);
    }
}

/// The transposed block of a panel: words[q, o] hold W[o, 2q], W[o, 2q + 1] for 16 rows o; to[o, 16] ← W[o, 0…15] as
/// floats. Of the 8 pairs q, those from `pairs` on are zero.
MEFT_AVX2 inline void widen_transposed(Index pairs, const std::uint32_t* words, float* to) {
  alignas(32) float wide[16 * 16] = {};
  widen(std::min<Index>(pairs, 8), words, wide);
  for (int i = 0; i < 16; i += 8)
    for (int o = 0; o < 16; o += 8) detail::transpose8(wide + i * 16 + o, 16, to + o * 16 + i, 16);
}

/// The same in words: to[o / 2, i] ← W[o, i], W[o + 1, i].
MEFT_AVX2 inline void pair_transposed(Index pairs, const std::uint32_t* words, std::uint32_t* to) {
  alignas(32) float by_input[16 * 8] = {};  // row i, column o / 2; words that only move, never floats
  alignas(32) float out[8 * 16];
  for (Index q = 0; q < std::min<Index>(pairs, 8); ++q) {
    detail::Word8 a, b;
    detail::load(a, words + q * 16);
    detail::load(b, words + q * 16 + 8);
    const detail::Word8 even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14),
                        odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
    detail::store(by_input + 2 * q * 8, (even & 0xffffu) | (odd << 16));
    detail::store(by_input + (2 * q + 1) * 8, (even >> 16) | (odd & 0xffff0000u));
  }
  detail::transpose8(by_input, 8, out, 16);
  detail::transpose8(by_input + 64, 8, out + 8, 16);
  std::memcpy(to, out, sizeof out);
}

/// Operands as floats that are bf16.
struct Widened {
  using Element = float;
  static constexpr Index pack = 1;  // elements of the matrix in one of these

  /// to[rows, k] ← A, rounded; A's rows are contiguous.
  static void left(Index rows, Index k, Strided<float> a, float* to) {
    vectorised([&]() MEFT_INLINE {
      for (Index i = 0; i < rows; ++i) map_run(RoundToBf16{}, k, to + i * k, a.data + i * a.row);
    });
  }
  static const float* right(Index k, const std::uint32_t* words, float* to) {
    widen((k + 1) / 2, words, to);
    return to;
  }
  static void transposed(Index pairs, const std::uint32_t* words, float* to) { widen_transposed(pairs, words, to); }
  static void multiply(Index rows, Index k, const float* left, const float* block, const Corner& at) {
    multiply_panel(rows, k, {left, k, 1}, block, at);
  }
};

/// Operands as words of two.
struct Paired {
  using Element = std::uint32_t;
  static constexpr Index pack = 2;

  static void left(Index rows, Index k, Strided<float> a, std::uint32_t* to) {
    const Index pairs = (k + 1) / 2;
    for (Index i = 0; i < rows; ++i) {
      const float* row = a.data + i * a.row;
      for (Index p = 0; p < pairs; ++p) to[i * pairs + p] = bf16_pair(row[2 * p], 2 * p + 1 < k ? row[2 * p + 1] : 0);
    }
  }
  static const std::uint32_t* right(Index, const std::uint32_t* words, std::uint32_t*) { return words; }
  static void transposed(Index pairs, const std::uint32_t* words, std::uint32_t* to) {
    pair_transposed(pairs, words, to);
  }
  static void multiply(Index rows, Index k, const std::uint32_t* left, const std::uint32_t* block, const Corner& at) {
    multiply_pairs(rows, (k + 1) / 2, left, (k + 1) / 2, block, at);
  }
};
#endif  // MEFT_X86

}  // namespace meft::cpu
