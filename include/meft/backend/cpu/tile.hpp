// Owns: the register tiles of the float GEMM and the packing of its right operand into panels of 16 columns.
// A panel holds, for each k, 16 neighbouring columns; columns beyond the matrix are zero. Each sum runs over k in
// ascending order in one fused multiply-add each, so the shape of a tile and the width of a vector change no bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <meft/backend/product.hpp>
#include <meft/base/target.hpp>

#if MEFT_X86
#define MEFT_AVX2 __attribute__((target("avx2,fma")))
#define MEFT_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#endif

namespace meft::cpu {

constexpr Index panel_width = 16;
constexpr Index most_panels = 2;  // that a tile reads side by side

constexpr Index round_up(Index x, Index multiple) { return (x + multiple - 1) / multiple * multiple; }

/// One panel of a right operand, and how many elements further the next begins.
template <class E>
struct Block {
  const E* data;
  Index step;
};

/// Where a tile's result goes, and what it starts from.
struct Corner {
  float* c;
  Index ldc, columns;
  Start start;
  const float* bias;  // `columns` elements, rounded up to whole panels

  Corner below(Index rows) const { return {c + rows * ldc, ldc, columns, start, bias}; }
};

/// What the next block is made from, in equal pieces: it is fetched into the second-level cache while this one is
/// multiplied.
struct Ahead {
  const char* data = nullptr;
  Index pieces = 0, bytes = 0, step = 0;  // step: in bytes, from one piece to the next
  Index at = 0;                           // in the first piece

  /// The lines of all pieces.
  Index lines() const { return pieces * ((bytes + 63) / 64); }
  /// Fetches the next lines.
  MEFT_INLINE void fetch(Index count) {
    for (; pieces > 0 && count-- > 0; at += 64) {
      if (at >= bytes) {
        data += step, at = 0;
        if (--pieces == 0) return;
      }
      __builtin_prefetch(data + at, 0, 2);
    }
  }
};

#if MEFT_X86
namespace detail {

// Vectors of the compilers instead of <immintrin.h>, which takes as long to compile as half of Eigen.
typedef float Float8 __attribute__((vector_size(32)));   // NOLINT: clang drops the alignment
typedef float Float16 __attribute__((vector_size(64)));  // NOLINT  of an alias declaration

template <class V, class T>
MEFT_INLINE inline void load(V& v, const T* from) {
  std::memcpy(&v, from, sizeof v);
}
template <class V, class T>
MEFT_INLINE inline void store(T* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}

/// Where M rows of W columns of a tile lie: in C, or where C has fewer columns in a copy.
template <int M, int W>
struct Edge {
  alignas(64) float copy[M * W];
  float* out;
  Index ld;

  MEFT_INLINE explicit Edge(const Corner& at) : out(at.c), ld(at.ldc) {
    if (at.columns >= W) return;
    out = copy;
    ld = W;
    for (int i = 0; i < M * W; ++i) copy[i] = 0;
    if (at.start == Start::accumulate)
      for (int i = 0; i < M; ++i)
        std::memcpy(copy + i * W, at.c + i * at.ldc, static_cast<std::size_t>(at.columns) * sizeof(float));
  }
};

/// acc[M, W] ← start, and back.
template <class V, int M, int P, int W>
MEFT_INLINE inline void begin(const Corner& at, const Edge<M, W>& edge, V (&acc)[M][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < P; ++j) {
      if (at.start == Start::zero) acc[i][j] = V{};
      else load(acc[i][j], (at.start == Start::bias ? at.bias : edge.out + i * edge.ld) + j * (W / P));
    }
}
template <class V, int M, int P, int W>
MEFT_INLINE inline void end(const Corner& at, const Edge<M, W>& edge, const V (&acc)[M][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < P; ++j) store(edge.out + i * edge.ld + j * (W / P), acc[i][j]);
  if (at.columns < W)
    for (int i = 0; i < M; ++i)
      std::memcpy(at.c + i * at.ldc, edge.copy + i * W, static_cast<std::size_t>(at.columns) * sizeof(float));
}

/// C[M, 16·panels] = start + A[M, k] · block.
template <class V, int M, int Panels>
MEFT_INLINE inline void tile_float(Index k, const Strided<float>& a, Block<float> block, const Corner& at) {
  constexpr int width = 16 * Panels, lanes = sizeof(V) / sizeof(float), parts = width / lanes;
  const Edge<M, width> edge(at);
  V acc[M][parts];
  begin(at, edge, acc);
  const float* row[M];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    row[i] = a.data + i * a.row;
    __builtin_prefetch(edge.out + (M + i) * edge.ld, 1);  // of the next tile
  }
  for (Index p = 0, from = 0; p < k; ++p, from += a.column) {
    V b[parts];
#pragma GCC unroll 4
    for (int j = 0; j < parts; ++j) load(b[j], block.data + j * lanes / 16 * block.step + p * 16 + j * lanes % 16);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
      for (int j = 0; j < parts; ++j) acc[i][j] = row[i][from] * b[j] + acc[i][j];
  }
  end(at, edge, acc);
}

template <int M>
MEFT_AVX2 inline void tile_avx2(Index k, const Strided<float>& a, Block<float> block, const Corner& at) {
  tile_float<Float8, M, 1>(k, a, block, at);
}
template <int M>
MEFT_AVX512 inline void tile_avx512(Index k, const Strided<float>& a, Block<float> block, const Corner& at) {
  tile_float<Float16, M, 2>(k, a, block, at);
}

/// 8 × 8 transpose in registers: out[j * ldo + i] = in[i * ldi + j].
MEFT_AVX2 inline void transpose8(const float* in, Index ldi, float* out, Index ldo) {
  Float8 r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) load(r[i], in + i * ldi);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = __builtin_shufflevector(s[4 * i], s[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[4 * i + 1] = __builtin_shufflevector(s[4 * i], s[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[4 * i + 2] = __builtin_shufflevector(s[4 * i + 1], s[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[4 * i + 3] = __builtin_shufflevector(s[4 * i + 1], s[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store(out + i * ldo, __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
    store(out + (i + 4) * ldo, __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
  }
}

/// out[j * 8 + i] = in[i * ldi + j] for six rows i and 8 columns j.
MEFT_AVX2 inline void transpose_six(const float* in, Index ldi, float* out) {
  alignas(32) float rows[64];
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    Float8 v;
    load(v, in + i * ldi);
    store(rows + i * 8, v);
  }
  for (int i = 6; i < 8; ++i) store(rows + i * 8, Float8{});
  transpose8(rows, 8, out, 8);
}

}  // namespace detail

/// `at` with a bias row that may be read up to whole panels; `room` holds it where it has to be copied.
inline Corner with_bias(Corner at, float (&room)[most_panels * panel_width]) {
  if (at.start != Start::bias || at.columns % panel_width == 0) return at;
  for (Index j = 0; j < most_panels * panel_width; ++j) room[j] = j < at.columns ? at.bias[j] : 0.0f;
  at.bias = room;
  return at;
}

/// How a left operand lies for multiply_block: as it is, or where it is in panels, each six rows as a[k][6], rows that
/// are left over behind them as they are, all without a gap.
struct Rows {
  Strided<float> a;
  bool panels = false;
};

/// How many of the rows go in tiles of six: tiles of one or two rows would wait for their sums.
inline Index in_sixes(Index rows) {
  const Index rest = rows % 6;
  return rows - rest - (rows > 6 && (rest == 1 || rest == 2) ? 6 : 0);
}

/// A[rows, k] in panels, in `to` with 2 elements to spare. A's rows are contiguous.
MEFT_AVX2 inline Rows in_panels(Index rows, Index k, const Strided<float>& a, float* to) {
  const Index sixes = in_sixes(rows);
  for (Index i = 0; i < sixes; i += 6) {
    const float* from = a.data + i * a.row;
    float* panel = to + i * k;
    Index p = 0;
    alignas(32) float turned[64];
    for (; p + 8 <= k; p += 8, panel += 48) {
      detail::transpose_six(from + p, a.row, turned);
      for (Index q = 0; q < 8; ++q) {  // the last two of each are overwritten by the next
        detail::Float8 v;
        detail::load(v, turned + q * 8);
        detail::store(panel + q * 6, v);
      }
    }
    for (; p < k; ++p, panel += 6)
      for (Index r = 0; r < 6; ++r) panel[r] = from[r * a.row + p];
  }
  for (Index i = sixes; i < rows; ++i)
    std::memcpy(to + i * k, a.data + i * a.row, static_cast<std::size_t>(k) * sizeof(float));
  return {{to, k, 1}, true};
}

/// How many columns a product goes through at a time: two panels where there are 32 vector registers.
inline Index columns_at_once() { return isa() >= Isa::avx512 ? most_panels * panel_width : panel_width; }

/// C[rows, columns ≤ columns_at_once()] = start + A[rows, k] · block, tile by tile.
inline void multiply_block(Index rows, Index k, const Rows& left, Block<float> block, Corner at, Ahead ahead = {}) {
  alignas(64) float room[most_panels * panel_width];
  at = with_bias(at, room);
  Index i = 0;
  const Index lines = ahead.lines() * 6 / std::max<Index>(rows, 6) + 1;  // with six rows
  const auto next = [&](auto tile, Index height) {
    ahead.fetch(height <= 6 ? lines : 2 * lines);
    if (left.panels && height == 6) tile(k, {left.a.data + i * k, 1, 6}, block, at.below(i));
    else tile(k, left.a.at(i, 0), block, at.below(i));
    i += height;
  };
  using namespace detail;
  if (isa() >= Isa::avx512 && at.columns > panel_width) {
    while (i + 12 <= rows) next(tile_avx512<12>, 12);
    while (i + 4 <= rows) next(tile_avx512<4>, 4);
    while (i < rows) next(tile_avx512<1>, 1);
    return;
  }
  while (i < in_sixes(rows)) next(tile_avx2<6>, 6);
  while (rows - i > 6) next(tile_avx2<4>, 4);
  switch (rows - i) {
    case 1: return next(tile_avx2<1>, 1);
    case 2: return next(tile_avx2<2>, 2);
    case 3: return next(tile_avx2<3>, 3);
    case 4: return next(tile_avx2<4>, 4);
    case 5: return next(tile_avx2<5>, 5);
  }
}

/// Packs B[k, columns ≤ 16] into one panel.
inline void pack_panel(Index k, Strided<float> b, Index columns, float* panel) {
  Index p = 0;
  if (b.column == 1 && columns == 16) {
    for (; p < k; ++p) std::memcpy(panel + p * 16, b.data + p * b.row, 64);
  } else if (b.row == 1 && columns == 16) {
    for (; p + 8 <= k; p += 8) {
      detail::transpose8(b.data + p, b.column, panel + p * 16, 16);
      detail::transpose8(b.data + p + 8 * b.column, b.column, panel + p * 16 + 8, 16);
    }
  }
  for (; p < k; ++p)
    for (Index j = 0; j < 16; ++j) panel[p * 16 + j] = j < columns ? b.data[p * b.row + j * b.column] : 0.0f;
}

/// Fills panels for `columns` columns by one(first column, columns ≤ 16, panel) and gives them as a block.
template <class E, class One>
Block<E> fill_panels(Index columns, Index elements, E* scratch, const One& one) {
  for (Index j = 0; j < columns; j += panel_width)
    one(j, std::min(panel_width, columns - j), scratch + j / panel_width * elements);
  return {scratch, elements};
}
#endif  // MEFT_X86

}  // namespace meft::cpu
