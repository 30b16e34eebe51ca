// Owns: the gradient of a weight in bf16, Aᵀ·B: both sides are rounded and laid out once for some rows at a time, not
// once a tile that reads them.
#pragma once

#include <type_traits>

#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft::cpu {

#if MEFT_X86
/// Operands whose left side is the columns of a matrix with contiguous rows.
template <class Operands>
struct Turned : Operands {
  static Rows left(Index rows, Index k, Index columns, const Strided<float>& a, float* to) {
    return Operands::turned(rows, k, columns, a.data, a.column, to);
  }
};
/// Operands whose left side is in words already.
template <class Operands>
struct Laid : Operands {
  static Strided<std::uint32_t> left(Index, Index, Index, const Strided<float>& a, std::uint32_t*) {
    return {reinterpret_cast<const std::uint32_t*>(a.data), a.row, 1};
  }
};

/// C[out, in] = A[rows, out]ᵀ · B[rows, in], rows of both without gaps, B of floats or rounded already. Sums run over
/// the rows in order.
template <class Operands, class X>
void weight_gradient(Index rows, Index out, Index in, const float* a, const X* b, float* c) {
  using Element = typename Operands::Element;
  constexpr bool words = Operands::pack == 2;
  using Ready = std::conditional_t<words, Laid<Operands>, Turned<Operands>>;
  const Index most = round_up(balanced(rows, depth_block * Operands::pack), 16 * Operands::pack);
  const Index panels = (in + panel_width - 1) / panel_width, panel = most / Operands::pack * panel_width,
              step = most / 2;
  const UseScope use(Use::workspace);
  const auto room = [](Index elements) { return Buffer(Cpu::pool(), static_cast<std::size_t>(elements) * 4); };
  const Buffer right = room(panels * panel), left = words ? room(round_up(out, 32) * step) : Buffer();
  auto* const laid = static_cast<Element*>(right.data());
  for (Index k0 = 0; k0 < std::max<Index>(rows, 1); k0 += most) {
    const Index k = std::min(most, rows - k0);
    parallel_for(panels, [&](Index j) {
      const Index first = j * panel_width;
      Operands::panel(k, std::min(panel_width, in - first), b + k0 * in + first, in, laid + j * panel);
    });
    Product<float> p{out, in, k, {a + k0 * out, 1, out}, c, in, k0 ? Start::accumulate : Start::zero};
    if constexpr (words) {
      constexpr Index each = 64;
      auto* const turned = static_cast<std::uint32_t*>(left.data());
      parallel_for((out + each - 1) / each, [&](Index task) {
        const Index i = task * each;
        turn_words<Operands>(std::min(each, out - i), k, a + k0 * out + i, out, turned + i * step, step);
      });
      p.a = {static_cast<const float*>(left.data()), step, 1};
    }
    const auto at = [&](Index j) { return laid + j / panel_width * panel; };
    multiply<Ready>(
        p,
        [&](Index j, Index, Index, Index, Element*) {
          return Block<Element>{at(j), panel};
        },
        [&](Index j, Index columns, Index, Index) {
          return Ahead{reinterpret_cast<const char*>(at(j)), (columns + panel_width - 1) / panel_width,
                       64 * ((k + Operands::pack - 1) / Operands::pack), 4 * panel};
        });
  }
}
#endif

}  // namespace meft::cpu
