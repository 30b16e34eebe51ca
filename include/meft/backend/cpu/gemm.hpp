// Owns: C = A·B for strided operands.
// Float on AVX2 runs on the tiles of tile.hpp; other types and processors on one that the compiler vectorises. Work is
// cut by fixed sizes, and each sum runs over k in one order, so the thread count changes nothing.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/base/function_ref.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace cpu {

inline constexpr Index depth_block = 384;   // in words; a multiple of 16: blocks of transposed panels begin at one
inline constexpr Index row_block = 264;     // with depth_block, the left block stays in the second-level cache
inline constexpr Index column_block = 128;  // the least columns of a task, where there are more

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

  /// A[rows, k] for so many columns: in panels where tiles have six rows and there are columns enough, and copied to
  /// `to` where its rows lie multiples of 2 KiB apart: they would share a few sets of the caches.
  static Rows left(Index rows, Index k, Index columns, const Strided<float>& a, float* to) {
    const bool wide = isa() >= Isa::avx512;
    if (a.column != 1 || rows < 12 || (wide ? a.row % 512 != 0 : columns < column_block)) return {a};
    if (!wide) return in_panels(rows, k, a, to);
    for (Index i = 0; i < rows; ++i)
      std::memcpy(to + i * k, a.data + i * a.row, static_cast<std::size_t>(k) * sizeof(float));
    return {{to, k, 1}};
  }
  static void multiply(Index rows, Index k, const Rows& left, Block<float> block, const Corner& at,
                       const Ahead& ahead) {
    multiply_block(rows, k, left, block, at, ahead);
  }
};

/// For `multiply` where what a block is made from isn't known.
struct NoAhead {
  Ahead operator()(Index, Index, Index, Index) const { return {}; }
};

/// What is done with a block of C while it is at hand: (first row, rows, first column, columns, block, elements from
/// one of its rows to the next).
using End = FunctionRef<void(Index, Index, Index, Index, const float*, Index)>;

/// C = start + A·B with operands as Floats (or Widened, Paired, Tiled of tile_bf16.hpp, tile_amx.hpp).
/// `right(first_column, columns, k0, depth, scratch)` gives a block of B, `ahead` of the same without scratch what it
/// is made from. How the columns are cut into tasks changes no sum. `end` is called for each block that is done; where
/// there is one and C is null, that is all who see it.
template <class Operands, class Right, class Source = NoAhead>
void multiply(Product<float> p, const Right& right, const Source& ahead = {}, const End* end = nullptr) {
  using Element = typename Operands::Element;
  const Index depth = round_up(balanced(p.depth, depth_block * Operands::pack), 16 * Operands::pack);
  Buffer sums;
  if (!p.c && depth < p.depth) {
    const UseScope use(Use::workspace);
    sums = Buffer(Cpu::pool(), static_cast<std::size_t>(p.rows * p.columns) * sizeof(float));
    p.c = static_cast<float*>(sums.data()), p.ldc = p.columns;
  }
  const Index rows_each = round_up(balanced(p.rows, row_block), Operands::tile_rows), wide = columns_at_once();
  const Index row_tasks = (p.rows + rows_each - 1) / rows_each;
  const Index threads = workers(), wanted = threads > 1 && row_tasks ? (4 * threads + row_tasks - 1) / row_tasks : 1;
  const Index parts = std::clamp<Index>(p.columns / column_block, 1, wanted);
  const Index columns_each = round_up(std::max<Index>((p.columns + parts - 1) / parts, 1), wide);
  const Index column_tasks = (p.columns + columns_each - 1) / columns_each;
  parallel_for(row_tasks * column_tasks, [&](Index task) {
    const Index i0 = task % row_tasks * rows_each, rows = std::min(rows_each, p.rows - i0);
    const Index j0 = task / row_tasks * columns_each, j1 = std::min(j0 + columns_each, p.columns);
    alignas(64) Element scratch[most_panels * (depth_block + 1) * panel_width];
    alignas(64) Element copy[round_up(row_block, Operands::tile_rows) * depth_block + 2];
    alignas(64) float own[round_up(row_block, Operands::tile_rows) * most_panels * panel_width];  // of C
    for (Index k0 = 0; k0 < std::max<Index>(p.depth, 1); k0 += depth) {
      const Index k = std::min(depth, p.depth - k0);
      const auto left = [&] {
        if constexpr (requires { &Operands::rounded_left; })
          if (p.rounded) return Operands::rounded_left(rows, k, j1 - j0, p.rounded + i0 * p.depth + k0, p.depth, copy);
        return Operands::left(rows, k, j1 - j0, p.a.at(i0, k0), copy);
      }();
      for (Index j = j0; j < j1; j += wide) {
        const Index columns = std::min(wide, j1 - j);
        const bool last = j + wide >= j1;
        const Index next_j = last ? j0 : j + wide, next_k0 = last ? k0 + depth : k0;
        float* const c = p.c ? p.c + i0 * p.ldc + j : own;
        const Index ldc = p.c ? p.ldc : columns;
        Operands::multiply(rows, k, left, right(j, columns, k0, k, scratch),
                           {c, ldc, columns, k0 ? Start::accumulate : p.start, p.bias ? p.bias + j : nullptr},
                           next_k0 < p.depth
                               ? ahead(next_j, std::min(wide, j1 - next_j), next_k0, std::min(depth, p.depth - next_k0))
                               : Ahead{});
        if (end && k0 + depth >= p.depth) (*end)(i0, rows, j, columns, c, ldc);
      }
    }
  });
}
#endif

/// The tile for any type and processor: vectors of 16 bytes, two for each of four rows.
template <class T>
struct Plain {
  typedef T Vector __attribute__((vector_size(16)));  // NOLINT: clang drops the alignment of an alias declaration
  static constexpr Index rows = 4, lanes = 16 / sizeof(T), columns = 2 * lanes;

  /// C[rows ≤ 4, columns] = start + A[rows, k] · panel[k, columns].
  MEFT_INLINE static void multiply(const Product<T>& p, const T* panel) {
    Vector acc[rows][2] = {};
    const T* a[rows];
    for (Index i = 0; i < rows; ++i) a[i] = p.a.data + std::min(i, p.rows - 1) * p.a.row;
    const Index depth = p.depth, step = p.a.column;
    for (Index k = 0, from = 0; k < depth; ++k, from += step, panel += columns) {
      Vector first, second;
      std::memcpy(&first, panel, sizeof first);
      std::memcpy(&second, panel + lanes, sizeof second);
#pragma GCC unroll 4
      for (Index i = 0; i < rows; ++i) {
        acc[i][0] += a[i][from] * first;
        acc[i][1] += a[i][from] * second;
      }
    }
    T sums[rows][columns];
#pragma GCC unroll 4
    for (Index i = 0; i < rows; ++i) {
      std::memcpy(sums[i], &acc[i][0], sizeof(Vector));
      std::memcpy(sums[i] + lanes, &acc[i][1], sizeof(Vector));
    }
    for (Index i = 0; i < p.rows; ++i)
      for (Index j = 0; j < p.columns; ++j) {
        T& c = p.c[i * p.ldc + j];
        c = sums[i][j] + (p.start == Start::zero ? T(0) : p.start == Start::bias ? p.bias[j] : c);
      }
  }
};

/// C = start + A·B on this thread.
template <class T>
MEFT_INLINE inline void plain_product(const Product<T>& p, Strided<T> b) {
  using Tile = Plain<T>;
  constexpr Index depth = 128;
  T panel[depth * Tile::columns] = {};
  for (Index j0 = 0; j0 < p.columns; j0 += Tile::columns)
    for (Index k0 = 0; k0 < std::max<Index>(p.depth, 1); k0 += depth) {
      Product<T> one = p;
      one.columns = std::min(Tile::columns, p.columns - j0);
      one.depth = std::min(depth, p.depth - k0);
      for (Index k = 0; k < one.depth; ++k)
        for (Index j = 0; j < one.columns; ++j)
          panel[k * Tile::columns + j] = b.data[(k0 + k) * b.row + (j0 + j) * b.column];
      if (k0) one.start = Start::accumulate;
      else if (p.bias) one.bias = p.bias + j0;
      for (Index i0 = 0; i0 < p.rows; i0 += Tile::rows) {
        one.rows = std::min(Tile::rows, p.rows - i0);
        one.a = p.a.at(i0, k0);
        one.c = p.c + i0 * p.ldc + j0;
        Tile::multiply(one, panel);
      }
    }
}
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
      return cpu::multiply<cpu::Floats>(
          p,
          [&](Index j, Index columns, Index k0, Index k, float* scratch) {
            return cpu::fill_panels(columns, k * cpu::panel_width, scratch, [&](Index at, Index width, float* panel) {
              cpu::pack_panel(k, b.at(k0, j + at), width, panel);
            });
          },
          [&](Index j, Index columns, Index k0, Index k) {
            const bool turned = b.row == 1;
            return cpu::Ahead{reinterpret_cast<const char*>(b.at(k0, j).data), turned ? columns : k,
                              4 * (turned ? k : columns), 4 * (turned ? b.column : b.row)};
          });
#endif
  constexpr Index rows = 64;
  parallel_chunks(p.rows, rows, [&](Index begin, Index end) {
    Product<T> part = p;
    part.rows = end - begin;
    part.a = p.a.at(begin, 0);
    part.c = p.c + begin * p.ldc;
    vectorised([&]() MEFT_INLINE { cpu::plain_product(part, b); });
  });
}

template <Real T>
bool gemm_activated(Cpu, Activation, const Product<T>&, Strided<T>, T*) {
  return false;
}

}  // namespace meft
