// Owns: the register tiles of the float GEMM and the packing of its right operand into panels of 16 columns.
// A panel holds, for each k, 16 neighbouring columns; columns beyond the matrix are zero. Each sum runs over k in
// ascending order in one fused multiply-add each, so the height of a tile and the width of a vector change no bit.
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

/// Where a tile's result goes, and what it starts from.
struct Corner {
  float* c;
  Index ldc, columns;  // columns ≤ 16
  Start start;
  const float* bias;  // 16 elements

  Corner below(Index rows) const { return {c + rows * ldc, ldc, columns, start, bias}; }
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

/// Where M rows of a tile lie: in C, or for a last panel of less than 16 columns in a copy.
template <int M>
struct Edge {
  alignas(64) float copy[M * 16];
  float* out;
  Index ld;

  MEFT_INLINE explicit Edge(const Corner& at) : out(at.c), ld(at.ldc) {
    if (at.columns == 16) return;
    out = copy;
    ld = 16;
    for (int i = 0; i < M * 16; ++i) copy[i] = 0;
    if (at.start == Start::accumulate)
      for (int i = 0; i < M; ++i)
        std::memcpy(copy + i * 16, at.c + i * at.ldc, static_cast<std::size_t>(at.columns) * sizeof(float));
  }
};

/// acc[M, 16] ← start, and back.
template <class V, int M, int P>
MEFT_INLINE inline void begin(const Corner& at, const Edge<M>& edge, V (&acc)[M][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < P; ++j) {
      if (at.start == Start::zero) acc[i][j] = V{};
      else load(acc[i][j], (at.start == Start::bias ? at.bias : edge.out + i * edge.ld) + j * (16 / P));
    }
}
template <class V, int M, int P>
MEFT_INLINE inline void end(const Corner& at, const Edge<M>& edge, const V (&acc)[M][P]) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < P; ++j) store(edge.out + i * edge.ld + j * (16 / P), acc[i][j]);
  if (at.columns < 16)
    for (int i = 0; i < M; ++i)
      std::memcpy(at.c + i * at.ldc, edge.copy + i * 16, static_cast<std::size_t>(at.columns) * sizeof(float));
}

/// C[M, 16] = start + A[M, k] · panel[k, 16].
template <class V, int M>
MEFT_INLINE inline void tile_float(Index k, const float* a, Index lda, Index step, const float* panel,
                                   const Corner& at) {
  constexpr int parts = 64 / sizeof(V), lanes = 16 / parts;
  const Edge<M> edge(at);
  V acc[M][parts];
  begin(at, edge, acc);
  const float* row[M];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) row[i] = a + i * lda;
  for (Index p = 0, from = 0; p < k; ++p, from += step) {
    V b[parts];
    for (int j = 0; j < parts; ++j) load(b[j], panel + p * 16 + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
      for (int j = 0; j < parts; ++j) acc[i][j] = row[i][from] * b[j] + acc[i][j];
  }
  end(at, edge, acc);
}

template <int M>
MEFT_AVX2 inline void tile_avx2(Index k, const float* a, Index lda, Index step, const float* panel, const Corner& at) {
  tile_float<Float8, M>(k, a, lda, step, panel, at);
}
template <int M>
MEFT_AVX512 inline void tile_avx512(Index k, const float* a, Index lda, Index step, const float* panel,
                                    const Corner& at) {
  tile_float<Float16, M>(k, a, lda, step, panel, at);
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

}  // namespace detail

/// C[rows, columns ≤ 16] = start + A[rows, k] · panel, tile by tile.
inline void multiply_panel(Index rows, Index k, Strided<float> a, const float* panel, Corner at) {
  alignas(32) float padded[16] = {};
  if (at.start == Start::bias && at.columns < 16) {
    for (Index j = 0; j < at.columns; ++j) padded[j] = at.bias[j];
    at.bias = padded;
  }
  Index i = 0;
  const auto next = [&](auto tile, Index height) {
    tile(k, a.data + i * a.row, a.row, a.column, panel, at.below(i));
    i += height;
  };
  if (isa() >= Isa::avx512)
    while (i + 12 <= rows) next(detail::tile_avx512<12>, 12);
  while (i + 6 <= rows) next(detail::tile_avx2<6>, 6);
  switch (rows - i) {
    case 1: return next(detail::tile_avx2<1>, 1);
    case 2: return next(detail::tile_avx2<2>, 2);
    case 3: return next(detail::tile_avx2<3>, 3);
    case 4: return next(detail::tile_avx2<4>, 4);
    case 5: return next(detail::tile_avx2<5>, 5);
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
#endif  // MEFT_X86

}  // namespace meft::cpu
