// Owns: the register tile of the float GEMM and the packing of its right operand into panels of 16 columns.
// A panel holds, for each k, 16 neighbouring columns; columns beyond the matrix are zero.
#pragma once

#include <algorithm>
#include <cstring>

#include <meft/backend/product.hpp>
#include <meft/base/target.hpp>

#if MEFT_X86
#include <immintrin.h>
#define MEFT_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace meft::cpu {

constexpr Index panel_width = 16;
constexpr Index tile_rows = 6;

#if MEFT_X86
namespace detail {

/// C[M, 16] = start + A[M, k] · panel[k, 16]. Sums run over k in ascending order in one fused multiply-add each.
template <int M>
MEFT_AVX2 inline void tile_avx2(Index k, Strided<float> a, const float* panel, float* c, Index ldc, Index columns, Start start,
                                const float* bias) {
  alignas(32) float edge[M * 16];
  float* out = c;
  Index ld = ldc;
  if (columns < 16) {  // the last panel: work on a copy
    out = edge;
    ld = 16;
    if (start == Start::accumulate)
      for (int i = 0; i < M; ++i) std::memcpy(edge + i * 16, c + i * ldc, static_cast<std::size_t>(columns) * sizeof(float));
  }
  __m256 acc[M][2];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    if (start == Start::zero) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    else {
      const float* from = start == Start::bias ? bias : out + i * ld;
      acc[i][0] = _mm256_loadu_ps(from);
      acc[i][1] = _mm256_loadu_ps(from + 8);
    }
  }
  const float* row[M];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) row[i] = a.data + i * a.row;
  const Index step = a.column;
  for (Index p = 0, at = 0; p < k; ++p, at += step) {
    const __m256 b0 = _mm256_loadu_ps(panel + p * 16), b1 = _mm256_loadu_ps(panel + p * 16 + 8);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const __m256 x = _mm256_broadcast_ss(row[i] + at);
      acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    _mm256_storeu_ps(out + i * ld, acc[i][0]);
    _mm256_storeu_ps(out + i * ld + 8, acc[i][1]);
  }
  if (columns < 16)
    for (int i = 0; i < M; ++i) std::memcpy(c + i * ldc, edge + i * 16, static_cast<std::size_t>(columns) * sizeof(float));
}

/// 8 × 8 transpose in registers: out[j * ldo + i] = in[i * ldi + j].
MEFT_AVX2 inline void transpose8(const float* in, Index ldi, float* out, Index ldo) {
  __m256 r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(in + i * ldi);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * ldo, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * ldo, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

}  // namespace detail

/// C[rows, columns ≤ 16] = start + A[rows, k] · panel, tile by tile.
inline void multiply_panel(Index rows, Index k, Strided<float> a, const float* panel, float* c, Index ldc, Index columns, Start start,
                           const float* bias) {
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
