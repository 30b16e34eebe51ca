// Owns: the register tiles of the float GEMM and the packing of its right operand into panels of 16 columns.
// A panel holds, for each k, 16 neighbouring columns; columns beyond the matrix are zero. Each sum runs over k in
// ascending order in one fused multiply-add each, so the shape of a tile and the width of a vector change no bit.
#pragma once

#include <algorithm>
#include <cstring>

#include <meft/backend/product.hpp>
#include <meft/base/target.hpp>

#if MEFT_X86
#define MEFT_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace meft::cpu {

inline constexpr Index panel_width = 16;
inline constexpr Index most_panels = 2;  // that a tile reads side by side

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

/// acc[M, P vectors] ← the rows that a tile starts from, and to C; its next rows are fetched.
template <class V, int M, int P>
MEFT_INLINE inline void begin(V (&acc)[M][P], const float* start, Index start_ld, const float* c, Index ld) {
  constexpr int lanes = sizeof(V) / sizeof(float);
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < P; ++j) load(acc[i][j], start + i * start_ld + j * lanes);
    __builtin_prefetch(c + (M + i) * ld, 1);
  }
}
template <class V, int M, int P>
MEFT_INLINE inline void end(const V (&acc)[M][P], float* c, Index ld) {
  constexpr int lanes = sizeof(V) / sizeof(float);
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < P; ++j) store(c + i * ld + j * lanes, acc[i][j]);
}

/// C[M, 16·panels] = start + A[M, k ≥ 1] · block. C's rows lie `ld` elements apart, those that it starts from
/// `start_ld`.
template <class V, int M, int Panels>
MEFT_INLINE inline void tile_float(Index k, const Strided<float>& a, Block<float> block, const float* start,
                                   Index start_ld, float* c, Index ld) {
  constexpr int width = 16 * Panels, lanes = sizeof(V) / sizeof(float), parts = width / lanes;
  V acc[M][parts];
  const float* row[M];
  if (k < 1) __builtin_unreachable();
  begin(acc, start, start_ld, c, ld);
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) row[i] = a.data + i * a.row;
  for (Index p = 0; p < k; ++p) {
    V b[parts];
#pragma GCC unroll 4
    for (int j = 0; j < parts; ++j) load(b[j], block.data + j * lanes / 16 * block.step + p * 16 + j * lanes % 16);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
      for (int j = 0; j < parts; ++j) acc[i][j] = row[i][p * a.column] * b[j] + acc[i][j];
  }
  end(acc, c, ld);
}

// Functions of their own, not inlined: the accumulators need all registers. Of numbers alone: structures would be read
// from the stack in larger pieces than they were written there, for which processors wait.
template <int M>
[[gnu::noinline]] MEFT_AVX2 inline void tile_avx2(Index k, const float* a, Index row, Index column, const float* block,
                                                  Index step, const float* start, Index start_ld, float* c, Index ld) {
  tile_float<Float8, M, 1>(k, {a, row, column}, {block, step}, start, start_ld, c, ld);
}
template <int M>
[[gnu::noinline]] __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) inline void tile_avx512(
    Index k, const float* a, Index row, Index column, const float* block, Index step, const float* start,
    Index start_ld, float* c, Index ld) {
  tile_float<Float16, M, 2>(k, {a, row, column}, {block, step}, start, start_ld, c, ld);
}

alignas(64) inline constexpr float zeros[most_panels * panel_width] = {};

/// One of these, or of words of two elements: tiles of `height` rows and `width` columns.
template <class E>
struct Tile {
  void (*run)(Index k, const E* a, Index row, Index column, const E* block, Index step, const float* start,
              Index start_ld, float* c, Index ld);
  Index height, width;
};

/// `count` tiles below each other; the rows of A that one reads begin `down` elements behind those of the one before.
/// Before each, so many lines ahead are fetched.
template <class E>
void tiles(const Tile<E>& tile, Index count, Index k, const Strided<E>& a, Index down, Block<E> block, const Corner& at,
           Ahead& ahead, Index lines) {
  alignas(64) float copy[12 * most_panels * panel_width];  // of a tile where C has fewer columns
  const bool whole = at.columns >= tile.width, add = at.start == Start::accumulate;
  const float* const row = at.start == Start::bias ? at.bias : zeros;
  const Index ld = whole ? at.ldc : tile.width;
  const auto bytes = static_cast<std::size_t>(at.columns) * sizeof(float);
  const E* from = a.data;
  float* c = at.c;
  for (; count > 0; --count, from += down, c += tile.height * at.ldc) {
    ahead.fetch(lines);
    float* const out = whole ? c : copy;
    if (add && !whole) {
      std::memset(copy, 0, sizeof copy);
      for (Index i = 0; i < tile.height; ++i) std::memcpy(copy + i * ld, c + i * at.ldc, bytes);
    }
    tile.run(k, from, a.row, a.column, block.data, block.step, add ? out : row, add ? ld : 0, out, ld);
    if (whole) continue;
    for (Index i = 0; i < tile.height; ++i) std::memcpy(c + i * at.ldc, copy + i * ld, bytes);
  }
}

/// 8 × 8 transpose in registers.
MEFT_AVX2 MEFT_INLINE inline void turn8(Float8 (&r)[8]) {
  Float8 s[8];
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
    s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = s[i];
}

/// out[j * ldo + i] = in[i * ldi + j] for 8 rows i and columns j.
MEFT_AVX2 MEFT_INLINE inline void transpose8(const float* in, Index ldi, float* out, Index ldo) {
  Float8 r[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) load(r[i], in + i * ldi);
  turn8(r);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store(out + i * ldo, r[i]);
}

/// out[j * 6 + i] = in[i * ldi + j] for six rows i and 8 columns j; two elements behind them are written too.
MEFT_AVX2 MEFT_INLINE inline void transpose_six(const float* in, Index ldi, float* out) {
  Float8 r[8] = {};
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) load(r[i], in + i * ldi);
  turn8(r);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store(out + i * 6, r[i]);
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
    for (; p + 8 <= k; p += 8, panel += 48) detail::transpose_six(from + p, a.row, panel);
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
  if (k == 0) return multiply_block(rows, 1, {{detail::zeros, 0, 0}}, {detail::zeros, 0}, at);
  alignas(64) float room[most_panels * panel_width];
  at = with_bias(at, room);
  Index i = 0;
  const Index lines = ahead.lines() * 6 / std::max<Index>(rows, 6) + 1;  // with six rows
  using namespace detail;
  const auto next = [&](const Tile<float>& tile, Index count) {
    const bool panels = left.panels && tile.height == 6;
    tiles(tile, count, k, panels ? Strided<float>{left.a.data + i * k, 1, 6} : left.a.at(i, 0),
          panels ? 6 * k : tile.height * left.a.row, block, at.below(i), ahead, tile.height <= 6 ? lines : 2 * lines);
    i += count * tile.height;
  };
  if (isa() >= Isa::avx512 && at.columns > panel_width) {
    next({tile_avx512<12>, 12, 32}, rows / 12);
    next({tile_avx512<4>, 4, 32}, (rows - i) / 4);
    next({tile_avx512<1>, 1, 32}, rows - i);
    return;
  }
  next({tile_avx2<6>, 6, 16}, in_sixes(rows) / 6);
  if (rows - i > 6) next({tile_avx2<4>, 4, 16}, 1);
  switch (rows - i) {
    case 1: return next({tile_avx2<1>, 1, 16}, 1);
    case 2: return next({tile_avx2<2>, 2, 16}, 1);
    case 3: return next({tile_avx2<3>, 3, 16}, 1);
    case 4: return next({tile_avx2<4>, 4, 16}, 1);
    case 5: return next({tile_avx2<5>, 5, 16}, 1);
  }
}

namespace detail {

/// A panel of 16 contiguous columns, of rows `row` elements apart.
MEFT_AVX2 inline void pack_rows(Index k, const float* from, Index row, float* panel) {
  for (Index p = 0; p < k; ++p)
    for (int half = 0; half < 16; half += 8) {
      Float8 v;
      load(v, from + p * row + half);
      store(panel + p * 16 + half, v);
    }
}
/// One of 16 columns that lie `column` elements apart, of contiguous rows: how many of them are done, 8 at a time.
MEFT_AVX2 inline Index pack_columns(Index k, const float* from, Index column, float* panel) {
  Index p = 0;
  for (; p + 8 <= k; p += 8)
    for (int half = 0; half < 16; half += 8) transpose8(from + p + half * column, column, panel + p * 16 + half, 16);
  return p;
}

}  // namespace detail

/// Packs B[k, columns ≤ 16] into one panel.
inline void pack_panel(Index k, Strided<float> b, Index columns, float* panel) {
  if (b.column == 1 && columns == 16) return detail::pack_rows(k, b.data, b.row, panel);
  Index p = b.row == 1 && columns == 16 ? detail::pack_columns(k, b.data, b.column, panel) : 0;
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
