// Owns: the register tile of the float GEMM and the packing of its right operand into panels of 16 columns.
// A panel holds, for each k, 16 neighbouring columns; columns beyond the matrix are zero.
#pragma once

#include <algorithm>
#include <cstring>

#include <meft/backend/product.hpp>
#include <meft/base/target.hpp>

namespace meft::cpu {

constexpr Index panel_width = 16;
constexpr Index tile_rows = 6;

#if MEFT_X86
namespace detail {

// Vectors of the compilers instead of <immintrin.h>, which takes as long to compile as half of Eigen.
typedef float Float8 __attribute__((vector_size(32)));                         // NOLINT: clang drops the alignment
typedef float Loose8 __attribute__((vector_size(32), aligned(4), may_alias));  // NOLINT  of an alias declaration

/// C[M, 16] = start + A[M, k] · panel[k, 16]. Sums run over k in ascending order in one fused multiply-add each.
template <int M>
__attribute__((target("avx2,fma"))) inline void tile_avx2(Index k, Strided<float> a, const float* panel, float* c,
                                                          Index ldc, Index columns, Start start, const float* bias) {
  alignas(32) float edge[M * 16];
  float* out = c;
  Index ld = ldc;
  if (columns < 16) {  // the last panel: work on a copy
    out = edge;
    ld = 16;
    for (int i = 0; i < M * 16; ++i) edge[i] = 0;
    if (start == Start::accumulate)
      for (int i = 0; i < M; ++i)
        std::memcpy(edge + i * 16, c + i * ldc, static_cast<std::size_t>(columns) * sizeof(float));
  }
  Float8 acc[M][2];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    if (start == Start::zero) acc[i][0] = acc[i][1] = Float8{};
    else {
      const float* from = start == Start::bias ? bias : out + i * ld;
      acc[i][0] = *reinterpret_cast<const Loose8*>(from);
      acc[i][1] = *reinterpret_cast<const Loose8*>(from + 8);
    }
  }
  const float* row[M];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) row[i] = a.data + i * a.row;
  const Index step = a.column;
  for (Index p = 0, at = 0; p < k; ++p, at += step) {
    const Float8 b0 = *reinterpret_cast<const Loose8*>(panel + p * 16),
                 b1 = *reinterpret_cast<const Loose8*>(panel + p * 16 + 8);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const float s = row[i][at];
      const Float8 x = {s, s, s, s, s, s, s, s};
      acc[i][0] = x * b0 + acc[i][0];
      acc[i][1] = x * b1 + acc[i][1];
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    *reinterpret_cast<Loose8*>(out + i * ld) = acc[i][0];
    *reinterpret_cast<Loose8*>(out + i * ld + 8) = acc[i][1];
  }
  if (columns < 16)
    for (int i = 0; i < M; ++i)
      std::memcpy(c + i * ldc, edge + i * 16, static_cast<std::size_t>(columns) * sizeof(float));
}

/// 8 × 8 transpose in registers: out[j * ldo + i] = in[i * ldi + j].
__attribute__((target("avx2,fma"))) inline void transpose8(const float* in, Index ldi, float* out, Index ldo) {
  Float8 r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = *reinterpret_cast<const Loose8*>(in + i * ldi);
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
    *reinterpret_cast<Loose8*>(out + i * ldo) = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    *reinterpret_cast<Loose8*>(out + (i + 4) * ldo) =
        __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

}  // namespace detail

/// C[rows, columns ≤ 16] = start + A[rows, k] · panel, tile by tile.
inline void multiply_panel(Index rows, Index k, Strided<float> a, const float* panel, float* c, Index ldc,
                           Index columns, Start start, const float* bias) {
  alignas(32) float padded[16] = {};
  if (start == Start::bias && columns < 16) {
    std::copy(bias, bias + columns, padded);
    bias = padded;
  }
  Index i = 0;
  for (; i + tile_rows <= rows; i += tile_rows)
    detail::tile_avx2<6>(k, a.at(i, 0), panel, c + i * ldc, ldc, columns, start, bias);
  const auto rest = [&](auto tile) { tile(k, a.at(i, 0), panel, c + i * ldc, ldc, columns, start, bias); };
  switch (rows - i) {
    case 1: return rest(detail::tile_avx2<1>);
    case 2: return rest(detail::tile_avx2<2>);
    case 3: return rest(detail::tile_avx2<3>);
    case 4: return rest(detail::tile_avx2<4>);
    case 5: return rest(detail::tile_avx2<5>);
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
