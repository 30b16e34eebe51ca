// Owns: how a tile of 16 × 16 decoded numbers is laid into a panel, as operands of cpu::Widened, cpu::Paired or
// cpu::Tiled: forward along the rows of W, transposed along its columns. The panels are those of a bf16 weight, so that
// the products have their bits.
#pragma once

#include <meft/backend/blocks.hpp>
#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft::cpu {

#if MEFT_X86
/// C[rows, columns] = start + A · Wᵀ, or A · W where it is `transposed`, with W in blocks: 16 × 16 of its numbers are
/// decoded at a time, into the panels of a task that is at them.
template <class Operands>
void multiply_blocks(const Product<float>& p, const Blocks& w, bool transposed, const End* end = nullptr) {
  using Element = typename Operands::Element;
  constexpr bool paired = std::is_same_v<Element, std::uint32_t>;
  const auto right = [&](Index j, Index columns, Index k0, Index k, Element* scratch) {
    const Index elements = round_up(k, 16) * panel_width / Operands::pack;
    return fill_panels(columns, elements, scratch, [&](Index at, Index, Element* panel) {
      alignas(32) float tile[16 * 16], turned[16 * 16];
      Blocks::Rows rows;
      if (!transposed) rows = w.rows(j + at);
      for (Index done = 0; done < k; done += 16) {
        Element* const to = panel + done * panel_width / Operands::pack;
        if (transposed) rows = w.rows(k0 + done);
        const Index first = transposed ? j + at : k0 + done;
        if constexpr (paired) {
          if (transposed) w.tile(rows, first, tile);
          else w.tile(rows, first, turned), detail::turn(turned, 16, tile, 16);
          detail::pair(tile, to);
        } else if (transposed) w.tile(rows, first, to);
        else w.tile(rows, first, tile), detail::turn(tile, 16, to, 16);
      }
    });
  };
  multiply<Operands>(p, right, NoAhead{}, end);
}
#endif

}  // namespace meft::cpu
