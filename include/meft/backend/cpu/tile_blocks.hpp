// Owns: how a tile of 16 × 16 decoded numbers is laid into a panel, as operands of cpu::Widened, cpu::Paired or
// cpu::Tiled: forward along the rows of W, transposed along its columns. The panels are those of a bf16 weight, so that
// the products have their bits.
#pragma once

#include <meft/backend/blocks.hpp>
#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft::cpu {

#if MEFT_X86
namespace detail {

/// to[j, i] ← tile[i, j].
MEFT_AVX2 inline void turn(const float* tile, float* to) {
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 16; j += 8) transpose8(tile + i * 16 + j, 16, to + j * 16 + i, 16);
}
/// to[q, i] ← tile[2q, i], tile[2q + 1, i] in a word.
MEFT_AVX2 inline void pair(const float* tile, std::uint32_t* to) {
  for (int q = 0; q < 8; ++q)
    for (int half = 0; half < 16; half += 8) {
      Word8 first, second;
      load(first, tile + 32 * q + half);
      load(second, tile + 32 * q + 16 + half);
      store(to + 16 * q + half, (first >> 16) | (second & 0xffff0000u));
    }
}

}  // namespace detail

/// C[rows, columns] = start + A · Wᵀ, or A · W where it is `transposed`, with W in blocks: 16 × 16 of its numbers are
/// decoded at a time, into the panels of a task that is at them.
template <class Operands>
void multiply_blocks(const Product<float>& p, const Blocks& w, bool transposed) {
  using Element = typename Operands::Element;
  constexpr bool paired = std::is_same_v<Element, std::uint32_t>;
  multiply<Operands>(p, [&](Index j, Index columns, Index k0, Index k, Element* scratch) {
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
          else w.tile(rows, first, turned), detail::turn(turned, tile);
          detail::pair(tile, to);
        } else if (transposed) w.tile(rows, first, to);
        else w.tile(rows, first, tile), detail::turn(tile, to);
      }
    });
  });
}
#endif

}  // namespace meft::cpu
