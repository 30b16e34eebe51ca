// Owns: C = A·B for strided operands. The library's only Eigen user.
// Float on AVX2 runs on our tile; every other case runs on Eigen's kernel. Work is cut by fixed sizes, and each sum
// runs over k in one order, so the thread count changes nothing.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <type_traits>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace cpu {

constexpr Index depth_block = 384;   // a panel of it stays in the first-level cache
constexpr Index row_block = 264;     // with depth_block, the left block stays in the second-level cache
constexpr Index column_block = 128;  // columns a task; eight panels

inline Index balanced(Index total, Index most) {
  const Index parts = (total + most - 1) / most;
  return parts ? (total + parts - 1) / parts : 1;
}

/// The rows of a task: whole tiles of 6 or 12, except for the last.
inline Index balanced_rows(Index rows) { return (balanced(rows, row_block) + 11) / 12 * 12; }

#if MEFT_X86
/// Runs the product panel by panel; `panel(first_column, columns, k0, depth, scratch)` gives B's packed block.
template <class Panel>
void multiply(const Product<float>& p, const Panel& panel) {
  const Index depth = balanced(p.depth, depth_block), block = balanced_rows(p.rows);
  const Index row_tasks = (p.rows + block - 1) / block;
  const Index column_tasks = (p.columns + column_block - 1) / column_block;
  parallel_for(row_tasks * column_tasks, [&](Index task) {
    const Index i0 = task % row_tasks * block, rows = std::min(block, p.rows - i0);
    const Index j0 = task / row_tasks * column_block, j1 = std::min(j0 + column_block, p.columns);
    alignas(64) float scratch[depth_block * panel_width];
    for (Index k0 = 0; k0 < std::max<Index>(p.depth, 1); k0 += depth) {
      const Index k = std::min(depth, p.depth - k0);
      const Start start = k0 ? Start::accumulate : p.start;
      for (Index j = j0; j < j1; j += panel_width) {
        const Index columns = std::min(panel_width, j1 - j);
        multiply_panel(rows, k, p.a.at(i0, k0), panel(j, columns, k0, k, scratch),
                       {p.c + i0 * p.ldc + j, p.ldc, columns, start, p.bias ? p.bias + j : nullptr});
      }
    }
  });
}
#endif

namespace detail {

template <class T>
struct Blocking : Eigen::internal::level3_blocking<T, T> {
  Blocking(Index rows, Index columns, Index depth)
      : workspace(Cpu::pool(),
                  static_cast<std::size_t>(std::min<Index>(depth, 256) * (std::min<Index>(rows, 96) + columns + 32)) *
                      sizeof(T)) {
    this->m_mc = std::min<Index>(rows, 96);
    this->m_nc = columns;
    this->m_kc = std::min<Index>(depth, 256);
    this->m_blockA = static_cast<T*>(workspace.data());
    this->m_blockB = this->m_blockA + (this->m_kc * this->m_mc + 15) / 16 * 16;
  }
  Buffer workspace;
};

template <class T, int A, int B>
void eigen_product(const Product<T>& p, Strided<T> b) {
  Blocking<T> blocking(p.rows, p.columns, p.depth);
  Eigen::internal::general_matrix_matrix_product<Index, T, A, false, T, B, false, Eigen::RowMajor, 1>::run(
      p.rows, p.columns, p.depth, p.a.data, A == Eigen::RowMajor ? p.a.row : p.a.column, b.data,
      B == Eigen::RowMajor ? b.row : b.column, p.c, 1, p.ldc, T(1), blocking, nullptr);
}

template <class T>
void eigen_block(const Product<T>& p, Strided<T> b) {
  for (Index i = 0; i < p.rows; ++i) {
    T* c = p.c + i * p.ldc;
    if (p.start == Start::zero) std::fill(c, c + p.columns, T(0));
    if (p.start == Start::bias) std::copy(p.bias, p.bias + p.columns, c);
  }
  if (!p.rows || !p.columns || !p.depth) return;
  constexpr int row = Eigen::RowMajor, column = Eigen::ColMajor;
  const bool ra = p.a.column == 1, rb = b.column == 1;
  if (ra && rb) eigen_product<T, row, row>(p, b);
  else if (ra) eigen_product<T, row, column>(p, b);
  else if (rb) eigen_product<T, column, row>(p, b);
  else eigen_product<T, column, column>(p, b);
}

}  // namespace detail
}  // namespace cpu

/// C[m, n] = start + A[m, k] · B[k, n]. One stride of A and of B is 1. Errors: none; shapes are the caller's.
template <Real T>
void gemm(Cpu, const Product<T>& p, Strided<T> b) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (has_avx2())
      return cpu::multiply(p, [&](Index j, Index columns, Index k0, Index k, float* scratch) {
        cpu::pack_panel(k, b.at(k0, j), columns, scratch);
        return static_cast<const float*>(scratch);
      });
#endif
  constexpr Index rows = 64;
  parallel_chunks(p.rows, rows, [&](Index begin, Index end) {
    Product<T> part = p;
    part.rows = end - begin;
    part.a = p.a.at(begin, 0);
    part.c = p.c + begin * p.ldc;
    cpu::detail::eigen_block(part, b);
  });
}

}  // namespace meft
