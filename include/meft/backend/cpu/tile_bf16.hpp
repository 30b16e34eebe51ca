// Owns: bf16 operands of the float GEMM. A weight in bf16 lies in panels of 16 rows, two neighbouring inputs a 32-bit
// word, the first in its lower half. Processors with AVX512-BF16 multiply these words; others widen them to floats,
// which gives exact products too. Left operands are rounded to bf16 on the way. Sums are in float.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

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

/// A float as a bf16.
struct Narrow {
  MEFT_INLINE bf16 operator()(float x) const {
    bf16 out;
    out.bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(RoundToBf16{}(x)) >> 16);
    return out;
  }
};

/// A bf16 as a float.
struct Widen {
  MEFT_INLINE float operator()(bf16 x) const { return static_cast<float>(x); }
};

/// Two neighbouring elements in a word.
inline std::uint32_t bf16_pair(float first, float second) {
  return static_cast<std::uint32_t>(bf16(first).bits) | static_cast<std::uint32_t>(bf16(second).bits) << 16;
}

#if MEFT_X86
namespace detail {

typedef std::uint32_t Word8 __attribute__((vector_size(32)));   // NOLINT: clang drops the alignment
typedef std::uint32_t Word16 __attribute__((vector_size(64)));  // NOLINT  of an alias declaration
typedef std::uint64_t Cell8 __attribute__((vector_size(64)));   // NOLINT
typedef std::uint16_t Half32 __attribute__((vector_size(64)));  // NOLINT

/// C[M, 16·panels] = start + A[M, pairs ≥ 1] · block, in words of two elements, those of a row of A side by side. The
/// instruction is written by name: its builtin differs between compilers.
template <int M, int Panels>
[[gnu::noinline]] __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) inline void
tile_dot(Index pairs, const std::uint32_t* a, Index row, Index, const std::uint32_t* block, Index step,
         const float* start, Index start_ld, float* c, Index ld) {
  Float16 acc[M][Panels];
  if (pairs < 1) __builtin_unreachable();
  begin(acc, start, start_ld, c, ld);
  const std::uint32_t* from[(M + 3) / 4];  // hidden: compilers would take one pointer and eleven offsets, and spill
#pragma GCC unroll 4
  for (int i = 0; i < M; i += 4) {
    from[i / 4] = a + i * row;
    asm("" : "+r"(from[i / 4]));
  }
  for (Index p = 0; p < pairs; ++p) {
    Word16 b[Panels];
    for (int j = 0; j < Panels; ++j) load(b[j], block + j * step + p * 16);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const std::uint32_t s = from[i / 4][i % 4 * row];
      const Word16 x = {s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
      for (int j = 0; j < Panels; ++j) asm("vdpbf16ps %2, %1, %0" : "+v"(acc[i][j]) : "v"(x), "v"(b[j]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; i += 4) ++from[i / 4];
  }
  end(acc, c, ld);
}

/// words[p] ← x[2p], x[2p + 1] rounded to bf16 for p < 16·blocks.
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) inline void narrow_blocks(
    Index blocks, const float* x, std::uint32_t* words) {
  for (Index i = 0; i < blocks; ++i) {
    Float16 low, high;
    Word16 out;
    load(low, x + i * 32);
    load(high, x + i * 32 + 16);
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(out) : "v"(low), "v"(high));
    store(words + i * 16, out);
  }
}

/// to[p, 16] ← x[2p, 16], x[2p + 1, 16] rounded to bf16. Rows of x lie `row` elements apart.
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) inline void pair_rows(
    Index pairs, const float* x, Index row, std::uint32_t* to) {
  for (Index p = 0; p < pairs; ++p) {
    Float16 first, second;
    Half32 halves;
    load(first, x + 2 * p * row);
    load(second, x + (2 * p + 1) * row);
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(halves) : "v"(first), "v"(second));
    store(to + p * 16, __builtin_shufflevector(halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
}

/// to[j, i] ← from[i, j] for 16 rows and columns.
MEFT_AVX2 inline void turn(const float* from, Index row, float* to, Index row_to) {
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 16; j += 8) transpose8(from + i * row + j, row, to + j * row_to + i, row_to);
}
/// to[q, i] ← tile[2q, i], tile[2q + 1, i] in a word.
MEFT_AVX2 inline void pair(const float* tile, std::uint32_t* to) {
  for (int q = 0; q < 8; ++q)
    for (int half = 0; half < 16; half += 8) {
      Word8 first, second;
      load(first, tile + 32 * q + half);
      load(second, tile + 32 * q + 16 + half);
      store(to + 16 * q + half, (first >> 16) | (second & 0xffff0000u));
    }
}

}  // namespace detail

/// The panel of W[columns ≤ 16, k], rows without a gap, rounded: words[q, r] ← W[r, 2q], W[r, 2q + 1], zero behind
/// them.
inline void pack_words(Index columns, Index k, const float* w, std::uint32_t* words) {
  alignas(32) float tile[16 * 16];
  Index p = 0;
  if (columns == 16)
    for (; p + 16 <= k; p += 16) {
      detail::turn(w + p, k, tile, 16);
      vectorised([&]() MEFT_INLINE { map_run(RoundToBf16{}, 16 * 16, tile, static_cast<const float*>(tile)); });
      detail::pair(tile, words + p / 2 * 16);
    }
  for (; p < k; p += 2)
    for (Index r = 0; r < 16; ++r) {
      const float* from = w + (r < columns ? r * k + p : 0);
      words[p / 2 * 16 + r] = r < columns ? bf16_pair(from[0], p + 1 < k ? from[1] : 0) : 0;
    }
}

/// C[rows, columns ≤ 32] = start + A[rows, pairs] · block, on AVX512-BF16.
inline void multiply_pairs(Index rows, Index pairs, const Strided<std::uint32_t>& a, Block<std::uint32_t> block,
                           Corner at, Ahead ahead = {}) {
  if (pairs == 0) return multiply_block(rows, 0, {}, {}, at);
  alignas(64) float room[most_panels * panel_width];
  at = with_bias(at, room);
  Index i = 0;
  const Index lines = ahead.lines() * 12 / std::max<Index>(rows, 12) + 1;  // with twelve rows
  using namespace detail;
  const auto next = [&](const Tile<std::uint32_t>& tile, Index count) {
    tiles(tile, count, pairs, a.at(i, 0), tile.height * a.row, block, at.below(i), ahead, lines);
    i += count * tile.height;
  };
  const bool two = at.columns > panel_width;
  const Index width = two ? 2 * panel_width : panel_width;
  next({two ? tile_dot<12, 2> : tile_dot<12, 1>, 12, width}, rows / 12);
  next({two ? tile_dot<4, 2> : tile_dot<4, 1>, 4, width}, (rows - i) / 4);
  next({two ? tile_dot<1, 2> : tile_dot<1, 1>, 1, width}, rows - i);
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
  detail::turn(wide, 16, to, 16);
}

/// The same in words: to[o / 2, i] ← W[o, i], W[o + 1, i]. Two neighbouring words are a cell of 2 × 2 elements; the 8 ×
/// 8 cells are transposed, and each within.
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) inline void pair_transposed(
    Index pairs, const std::uint32_t* words, std::uint32_t* to) {
  using namespace detail;
  Cell8 r[8] = {}, s[8];
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q)
    if (q < pairs) load(r[q], words + q * 16);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    s[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int low = i / 2 * 4 + i % 2;
    r[low] = __builtin_shufflevector(s[low], s[low + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[low + 2] = __builtin_shufflevector(s[low], s[low + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const auto cells = reinterpret_cast<Half32>(s[i]);
    store(to + i * 16, __builtin_shufflevector(cells, cells, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 16,
                                               18, 17, 19, 20, 22, 21, 23, 24, 26, 25, 27, 28, 30, 29, 31));
  }
}

/// to[i, q] ← x[2q, i], x[2q + 1, i] in words, of x[k, rows] whose rows lie `row` elements apart: the columns of x as
/// rows of pairs, `step` words apart and zero from the last pair on. Panels are made by `Operands`.
template <class Operands>
Strided<std::uint32_t> turn_words(Index rows, Index k, const float* x, Index row, std::uint32_t* to, Index step) {
  alignas(64) std::uint32_t words[16 * 16];
  for (Index i = 0; i < rows; i += 16)
    for (Index q = 0; q < step; q += 16) {
      const Index depth = std::clamp<Index>(k - 2 * q, 0, 32), count = std::min<Index>(16, rows - i);
      if (depth < 31) std::memset(words, 0, sizeof words);
      if (depth) Operands::panel(depth, count, x + 2 * q * row + i, row, words);
      std::uint32_t* const out = to + i * step + q;
      const Index pairs = std::min<Index>(16, step - q);
      if (count == 16 && pairs == 16)  // moved as they are
        detail::turn(reinterpret_cast<const float*>(words), 16, reinterpret_cast<float*>(out), step);
      else
        for (Index r = 0; r < count; ++r)
          for (Index p = 0; p < pairs; ++p) out[r * step + p] = words[p * 16 + r];
    }
  return {to, step, 1};
}

/// Operands as floats that are bf16.
struct Widened {
  using Element = float;
  static constexpr Index pack = 1;  // elements of the matrix in one of these
  static constexpr Index tile_rows = 4;

  /// A[rows, k] rounded, in `to`; in panels where tiles have six rows and there are columns enough. A's rows are
  /// contiguous.
  static Rows left(Index rows, Index k, Index columns, const Strided<float>& a, float* to) {
    return lay(rows, k, columns, to, [&](Index first, Index count, float* out) {
      vectorised([&]() MEFT_INLINE {
        for (Index i = 0; i < count; ++i) map_run(RoundToBf16{}, k, out + i * k, a.data + (first + i) * a.row);
      });
    });
  }
  /// The same of what is rounded already, rows `row` elements apart.
  static Rows rounded_left(Index rows, Index k, Index columns, const bf16* a, Index row, float* to) {
    return lay(rows, k, columns, to, [&](Index first, Index count, float* out) {
      vectorised([&]() MEFT_INLINE {
        for (Index i = 0; i < count; ++i) map_run(Widen{}, k, out + i * k, a + (first + i) * row);
      });
    });
  }
  /// By round(first row, rows, to), which writes them without a gap.
  template <class Round>
  static Rows lay(Index rows, Index k, Index columns, float* to, const Round& round) {
    if (isa() >= Isa::avx512 || columns < 2 * panel_width) {
      round(0, rows, to);
      return {{to, k, 1}};
    }
    const Index sixes = in_sixes(rows);
    alignas(64) float six[6 * 512];
    for (Index i = 0; i < sixes; i += 6) {
      round(i, 6, six);
      in_panels(6, k, {six, k, 1}, to + i * k);
    }
    round(sixes, rows - sixes, to + sixes * k);
    return {{to, k, 1}, true};
  }
  /// The columns of x[k, rows], whose rows lie `row` elements apart, rounded, as they lie; no more than 8 elements a
  /// row between them where rows would share a few sets of the caches.
  static Rows turned(Index rows, Index k, Index, const float* x, Index row, float* to) {
    const Index step = rows % 64 || rows > 256 ? rows : rows + 8;
    vectorised([&]() MEFT_INLINE {
      for (Index p = 0; p < k; ++p) map_run(RoundToBf16{}, rows, to + p * step, x + p * row);
    });
    return {{to, 1, step}};
  }
  /// The panel of x[k, columns ≤ 16], rounded if it is not yet.
  template <class X>
  static void panel(Index k, Index columns, const X* x, Index row, float* to) {
    const std::conditional_t<std::is_same_v<X, float>, RoundToBf16, Widen> as{};
    vectorised([&]() MEFT_INLINE {
      if (columns == panel_width)
        for (Index p = 0; p < k; ++p) map_run(as, panel_width, to + p * panel_width, x + p * row);
      else
        for (Index p = 0; p < k; ++p)
          for (Index j = 0; j < panel_width; ++j) to[p * panel_width + j] = j < columns ? as(x[p * row + j]) : 0;
    });
  }
  /// The block of `panels` panels, `step` words apart, as elements.
  static Block<float> right(Index k, Index columns, Block<std::uint32_t> words, float* to) {
    return fill_panels(columns, k * panel_width + panel_width, to, [&](Index j, Index, float* panel) {
      widen((k + 1) / 2, words.data + j / panel_width * words.step, panel);
    });
  }
  static void transposed(Index pairs, const std::uint32_t* words, float* to) { widen_transposed(pairs, words, to); }
  static void multiply(Index rows, Index k, const Rows& left, Block<float> block, const Corner& at,
                       const Ahead& ahead) {
    multiply_block(rows, k, left, block, at, ahead);
  }
};

/// Operands as words of two.
struct Paired {
  using Element = std::uint32_t;
  static constexpr Index pack = 2;
  static constexpr Index tile_rows = 4;

  static Strided<std::uint32_t> left(Index rows, Index k, Index, Strided<float> a, std::uint32_t* to) {
    return rounded(rows, k, a, to, (k + 1) / 2);
  }
  static Strided<std::uint32_t> rounded_left(Index rows, Index k, Index, const bf16* a, Index row, std::uint32_t* to) {
    return copied(rows, k, a, row, to, (k + 1) / 2);
  }
  /// What is rounded already, rows `step` words apart, zero behind.
  static Strided<std::uint32_t> copied(Index rows, Index k, const bf16* a, Index row, std::uint32_t* to, Index step) {
    for (Index i = 0; i < rows; ++i) {
      std::memset(to + i * step + k / 2, 0, static_cast<std::size_t>(step - k / 2) * sizeof *to);
      std::memcpy(to + i * step, a + i * row, static_cast<std::size_t>(k) * sizeof *a);
    }
    return {to, step, 1};
  }
  /// Rows `step` words apart, zero from the last pair on.
  static Strided<std::uint32_t> rounded(Index rows, Index k, Strided<float> a, std::uint32_t* to, Index step) {
    const Index blocks = k / 32;
    for (Index i = 0; i < rows; ++i) {
      const float* row = a.data + i * a.row;
      const auto element = [&](Index e) { return e < k ? row[e] : 0.0f; };
      std::uint32_t* words = to + i * step;
      detail::narrow_blocks(blocks, row, words);
      for (Index p = blocks * 16; p < step; ++p) words[p] = bf16_pair(element(2 * p), element(2 * p + 1));
    }
    return {to, step, 1};
  }
  /// The panel of x[k, columns ≤ 16], rounded already, or rounded here.
  static void panel(Index k, Index columns, const bf16* x, Index row, std::uint32_t* to) {
    const bf16 zeros[panel_width] = {};
    vectorised([&]() MEFT_INLINE {
      for (Index p = 0; 2 * p < k; ++p) {
        const bf16 *first = x + 2 * p * row, *second = 2 * p + 1 < k ? first + row : zeros;
        std::uint32_t* const words = to + p * panel_width;
        const auto word = [&](Index j) MEFT_INLINE {
          return static_cast<std::uint32_t>(first[j].bits) | static_cast<std::uint32_t>(second[j].bits) << 16;
        };
        if (columns == panel_width)
          MEFT_LANES (j, panel_width) words[j] = word(j);
        else
          for (Index j = 0; j < panel_width; ++j) words[j] = j < columns ? word(j) : 0;
      }
    });
  }
  static void panel(Index k, Index columns, const float* x, Index row, std::uint32_t* to) {
    const Index whole = columns == panel_width ? k / 2 : 0;
    detail::pair_rows(whole, x, row, to);
    panel_by_element(whole, k, columns, x, row, to);
  }
  /// Its pairs from `first` on.
  static void panel_by_element(Index first, Index k, Index columns, const float* x, Index row, std::uint32_t* to) {
    for (Index p = first; 2 * p < k; ++p)
      for (Index j = 0; j < panel_width; ++j) {
        const float* const at = x + 2 * p * row + j;
        to[p * panel_width + j] = j < columns ? bf16_pair(at[0], 2 * p + 1 < k ? at[row] : 0) : 0;
      }
  }
  static Block<std::uint32_t> right(Index, Index, Block<std::uint32_t> words, std::uint32_t*) { return words; }
  static void transposed(Index pairs, const std::uint32_t* words, std::uint32_t* to) {
    pair_transposed(pairs, words, to);
  }
  static void multiply(Index rows, Index k, const Strided<std::uint32_t>& left, Block<std::uint32_t> block,
                       const Corner& at, const Ahead& ahead) {
    multiply_pairs(rows, (k + 1) / 2, left, block, at, ahead);
  }
};
#endif  // MEFT_X86

}  // namespace meft::cpu
