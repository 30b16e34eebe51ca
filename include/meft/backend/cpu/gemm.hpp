// Owns: C = A·B for strided operands. The library's only Eigen user.
// Float on AVX2 runs on our tile; every other case runs on Eigen's kernel. Work is cut by fixed sizes, and each sum
// runs over k in one order, so the thread count changes nothing.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <type_traits>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace cpu {

constexpr Index depth_block = 384;   // in words; a multiple of 16, so that blocks of transposed panels begin at one
constexpr Index row_block = 264;     // with depth_block, the left block stays in the second-level cache
constexpr Index column_block = 128;  // the least columns of a task

inline Index balanced(Index total, Index most) {
  const Index parts = (total + most - 1) / most;
  return parts ? (total + parts - 1) / parts : 1;
}

#if MEFT_X86
/// Float operands as they are.
struct Floats {
  using Element = float;
  static constexpr Index pack = 1;       // elements of the matrix in one of these
  static constexpr Index tile_rows = 4;  // tasks begin at multiples of it

  /// A[rows, k], copied to `to` where its rows lie multiples of 2 KiB apart: tiles of 12 rows would find them in the
  /// same few sets of the first-level cache.
  static Strided<float> left(Index rows, Index k, Strided<float> a, float* to) {
    if (isa() < Isa::avx512 || a.column != 1 || a.row % 512 || rows < 12) return a;
    for (Index i = 0; i < rows; ++i)
      std::memcpy(to + i * k, a.data + i * a.row, static_cast<std::size_t>(k) * sizeof(float));
    return {to, k, 1};
  }
  static void multiply(Index rows, Index k, Strided<float> left, Block<float> block, const Corner& at) {
    multiply_block(rows, k, left, block, at);
  }
};

/// C = start + A·B with operands as Floats (or Widened, Paired, Tiled of tile_bf16.hpp, tile_amx.hpp).
/// `right(first_column, columns, k0, depth, scratch)` gives a block of B. How the columns are cut into tasks changes no
/// sum.
template <class Operands, class Right>
void multiply(const Product<float>& p, const Right& right) {
  using Element = typename Operands::Element;
  const Index depth = round_up(balanced(p.depth, depth_block * Operands::pack), 16 * Operands::pack);
  const Index rows_each = round_up(balanced(p.rows, row_block), Operands::tile_rows), wide = columns_at_once();
  const Index row_tasks = (p.rows + rows_each - 1) / rows_each;
  const Index wanted = row_tasks ? (4 * workers() + row_tasks - 1) / row_tasks : 1;
  const Index columns_each = std::max(column_block, round_up((p.columns + wanted - 1) / wanted, wide));
  const Index column_tasks = (p.columns + columns_each - 1) / columns_each;
  parallel_for(row_tasks * column_tasks, [&](Index task) {
    const Index i0 = task % row_tasks * rows_each, rows = std::min(rows_each, p.rows - i0);
    const Index j0 = task / row_tasks * columns_each, j1 = std::min(j0 + columns_each, p.columns);
    alignas(64) Element scratch[most_panels * (depth_block + 1) * panel_width];
    alignas(64) Element copy[round_up(row_block, Operands::tile_rows) * depth_block];
    for (Index k0 = 0; k0 < std::max<Index>(p.depth, 1); k0 += depth) {
      const Index k = std::min(depth, p.depth - k0);
      const auto left = Operands::left(rows, k, p.a.at(i0, k0), copy);
      for (Index j = j0; j < j1; j += wide) {
        const Index columns = std::min(wide, j1 - j);
        Operands::multiply(
            rows, k, left, right(j, columns, k0, k, scratch),
            {p.c + i0 * p.ldc + j, p.ldc, columns, k0 ? Start::accumulate : p.start, p.bias ? p.bias + j : nullptr});
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

template <Real T>
void gemm(Cpu, const Product<T>& p, Strided<T> b) {
  if (p.batch != 1) {
    Product<T> one = p;
    one.batch = 1;
    for (Index i = 0; i < p.batch; ++i) {
      gemm(Cpu{}, one, b);
      one.a.data += p.rows * p.depth;
      one.c += p.rows * p.ldc;
      b.data += p.depth * p.columns;
    }
    return;
  }
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (has_avx2())
      return cpu::multiply<cpu::Floats>(p, [&](Index j, Index columns, Index k0, Index k, float* scratch) {
        return cpu::fill_panels(columns, k * cpu::panel_width, scratch, [&](Index at, Index width, float* panel) {
          cpu::pack_panel(k, b.at(k0, j + at), width, panel);
        });
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

template <Real T>
bool gemm_activated(Cpu, Activation, const Product<T>&, Strided<T>, T*) {
  return false;
}

}  // namespace meft
