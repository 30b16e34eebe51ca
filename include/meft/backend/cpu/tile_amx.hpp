// Owns: the products of bf16 operands on the tile registers of AMX-BF16 (Xeon from the fourth generation on), 32 × 32
// elements of C at a time. Instructions: Intel, Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TDPBF16PS.
#pragma once

#include <cstring>

#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft::cpu {

#if MEFT_X86
inline constexpr Index tile_side = 16;  // rows of a tile register, and words in one

namespace detail {

/// Operand of LDTILECFG: the first palette, all eight registers of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileShapes tile_shapes;

}  // namespace detail

/// The tile registers of this thread, by the instructions' names. Steps are in bytes.
struct Amx {
  [[gnu::target("amx-tile,amx-bf16")]] Amx() { asm volatile("ldtilecfg %0" ::"m"(detail::tile_shapes)); }
  [[gnu::target("amx-tile,amx-bf16")]] ~Amx() { asm volatile("tilerelease"); }
  Amx(const Amx&) = delete;
  Amx& operator=(const Amx&) = delete;

  template <int t>
  [[gnu::target("amx-tile,amx-bf16")]] void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  template <int t>
  [[gnu::target("amx-tile,amx-bf16")]] void load(const void* from, Index step) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(t), "r"(from), "r"(step) : "memory");
  }
  template <int t>
  [[gnu::target("amx-tile,amx-bf16")]] void store(void* to, Index step) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(t), "r"(to), "r"(step) : "memory");
  }
  /// c[16, 16] += a[16, 16 words] · b[16 words, 16].
  template <int c, int a, int b>
  [[gnu::target("amx-tile,amx-bf16")]] void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
};

namespace detail {

/// Where a tile's result lies: in C, or in a copy where C has fewer rows or columns.
class TileEdge {
 public:
  TileEdge(const Corner& at, Index rows, Index columns)
      : c_(at.c), ldc_(at.ldc), rows_(std::min(rows, tile_side)), columns_(std::min(columns, tile_side)) {
    if (whole()) return;
    std::memset(copy_, 0, sizeof copy_);
    if (at.start == Start::accumulate) move([](float& copy, const float& c) { copy = c; });
  }
  float* data() { return whole() ? c_ : copy_; }
  Index step() const { return (whole() ? ldc_ : tile_side) * static_cast<Index>(sizeof(float)); }
  void finish() {
    if (!whole()) move([](const float& copy, float& c) { c = copy; });
  }

 private:
  bool whole() const { return rows_ == tile_side && columns_ == tile_side; }
  template <class F>
  void move(const F& f) {
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < columns_; ++j) f(copy_[i * tile_side + j], c_[i * ldc_ + j]);
  }

  float* c_;
  Index ldc_, rows_, columns_;
  alignas(64) float copy_[tile_side * tile_side];
};

/// A register of C before the products, and after.
template <int t, class Tiles>
[[gnu::target("amx-tile,amx-bf16")]] inline void begin(Tiles& tiles, const Corner& at, TileEdge& edge, Index column) {
  if (at.start == Start::zero) tiles.template zero<t>();
  else if (at.start == Start::bias) tiles.template load<t>(at.bias + column, 0);  // the same row 16 times
  else tiles.template load<t>(edge.data(), edge.step());
}
template <int t, class Tiles>
[[gnu::target("amx-tile,amx-bf16")]] inline void end(Tiles& tiles, TileEdge& edge) {
  tiles.template store<t>(edge.data(), edge.step());
  edge.finish();
}

/// C[rows ≤ 16·Down, columns ≤ 16·Right] = start + A · block over `steps` of 16 words; the last step's panels are
/// `last`. Registers: 0…3 of C, 4, 5 of A, 6, 7 of the block.
template <int Down, int Right, class Tiles>
[[gnu::target("amx-tile,amx-bf16")]] inline void multiply_tile(Tiles& tiles, Index steps, Strided<std::uint32_t> a,
                                                               Block<std::uint32_t> block, Block<std::uint32_t> last,
                                                               const Corner& at, Index rows) {
  const auto edge = [&](Index down, Index right) {
    Corner corner = at.below(down);
    corner.c += right;
    return TileEdge(corner, rows - down, at.columns - right);
  };
  TileEdge c0 = edge(0, 0), c1 = edge(0, 16 * (Right - 1)), c2 = edge(16 * (Down - 1), 0),
           c3 = edge(16 * (Down - 1), 16 * (Right - 1));
  begin<0>(tiles, at, c0, 0);
  if constexpr (Right == 2) begin<1>(tiles, at, c1, 16);
  if constexpr (Down == 2) begin<2>(tiles, at, c2, 0);
  if constexpr (Down == 2 && Right == 2) begin<3>(tiles, at, c3, 16);
  constexpr Index words = tile_side, row = tile_side * sizeof(std::uint32_t);
  const Index step = a.row * static_cast<Index>(sizeof(std::uint32_t));
  for (Index s = 0; s < steps; ++s) {
    const bool final = s + 1 == steps;
    const std::uint32_t* const from = a.data + s * words;
    const std::uint32_t* const b = final ? last.data : block.data + s * words * panel_width;
    tiles.template load<4>(from, step);
    if constexpr (Down == 2) tiles.template load<5>(from + tile_side * a.row, step);
    tiles.template load<6>(b, row);
    tiles.template dot<0, 4, 6>();
    if constexpr (Down == 2) tiles.template dot<2, 5, 6>();
    if constexpr (Right == 2) {
      tiles.template load<7>(b + (final ? last.step : block.step), row);
      tiles.template dot<1, 4, 7>();
      if constexpr (Down == 2) tiles.template dot<3, 5, 7>();
    }
  }
  end<0>(tiles, c0);
  if constexpr (Right == 2) end<1>(tiles, c1);
  if constexpr (Down == 2) end<2>(tiles, c2);
  if constexpr (Down == 2 && Right == 2) end<3>(tiles, c3);
}

}  // namespace detail

/// C[rows, columns ≤ 32] = start + A[rows, pairs] · block. Rows of A can be read up to a multiple of 16, and end in
/// zeros up to a multiple of 16 words.
template <class Tiles>
void multiply_tiles(Index rows, Index pairs, Strided<std::uint32_t> a, Block<std::uint32_t> block, Corner at) {
  alignas(64) float room[most_panels * panel_width];
  at = with_bias(at, room);
  const bool two = at.columns > panel_width;
  const Index steps = (pairs + tile_side - 1) / tile_side, whole = pairs / tile_side * tile_side;
  // What lies behind a panel must not be multiplied, not even by zero.
  alignas(64) std::uint32_t padded[most_panels * tile_side * panel_width] = {};
  Block<std::uint32_t> last{block.data + std::max<Index>(steps - 1, 0) * tile_side * panel_width, block.step};
  if (whole < pairs) {
    for (Index j = 0; j <= two; ++j)
      std::memcpy(padded + j * tile_side * panel_width, block.data + j * block.step + whole * panel_width,
                  static_cast<std::size_t>((pairs - whole) * panel_width) * sizeof(std::uint32_t));
    last = {padded, tile_side * panel_width};
  }
  Tiles tiles;
  for (Index i = 0; i < rows; i += 2 * tile_side) {
    const Index left = rows - i;
    const auto next = [&](auto tile) { tile(tiles, steps, a.at(i, 0), block, last, at.below(i), left); };
    using namespace detail;
    if (left > tile_side) next(two ? multiply_tile<2, 2, Tiles> : multiply_tile<2, 1, Tiles>);
    else next(two ? multiply_tile<1, 2, Tiles> : multiply_tile<1, 1, Tiles>);
  }
}

/// Operands as words of two, multiplied in tiles.
template <class Tiles>
struct Tiled : Paired {
  static constexpr Index tile_rows = 2 * tile_side;

  static Strided<std::uint32_t> left(Index rows, Index k, Index, Strided<float> a, std::uint32_t* to) {
    return rounded(rows, k, a, to, round_up((k + 1) / 2, tile_side));
  }
  static Strided<std::uint32_t> rounded_left(Index rows, Index k, Index, const bf16* a, Index row, std::uint32_t* to) {
    return copied(rows, k, a, row, to, round_up((k + 1) / 2, tile_side));
  }
  static void multiply(Index rows, Index k, const Strided<std::uint32_t>& left, Block<std::uint32_t> block,
                       const Corner& at, const Ahead&) {
    multiply_tiles<Tiles>(rows, (k + 1) / 2, left, block, at);
  }
};
#endif  // MEFT_X86

}  // namespace meft::cpu
