// Owns: the packed form of a constant right operand, in float or bf16, laid out once for both x·Wᵀ and dy·W.
#pragma once

#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/tile_bf16.hpp>

namespace meft {

namespace cpu {

#if MEFT_X86
constexpr Index bf16_depth = 384;  // a multiple of 16, so that blocks of transposed panels begin at one

/// C = start + bf16(A)·B, operands as Widened or Paired. `panel(first_column, k0, depth, scratch)` gives B's block.
template <class Operands, class Panel>
void multiply_bf16(const Product<float>& p, const Panel& panel) {
  const Index block = balanced_rows(p.rows), row_tasks = (p.rows + block - 1) / block;
  const Index column_tasks = (p.columns + column_block - 1) / column_block;
  parallel_for(row_tasks * column_tasks, [&](Index task) {
    const Index i0 = task % row_tasks * block, rows = std::min(block, p.rows - i0);
    const Index j0 = task / row_tasks * column_block, j1 = std::min(j0 + column_block, p.columns);
    alignas(64) typename Operands::Element right[bf16_depth * panel_width / Operands::pack];
    alignas(64) typename Operands::Element left[row_block * bf16_depth / Operands::pack];
    for (Index k0 = 0; k0 < std::max<Index>(p.depth, 1); k0 += bf16_depth) {
      const Index k = std::min(bf16_depth, p.depth - k0);
      Operands::left(rows, k, p.a.at(i0, k0), left);
      for (Index j = j0; j < j1; j += panel_width)
        Operands::multiply(rows, k, left, panel(j, k0, k, right),
                           {p.c + i0 * p.ldc + j, p.ldc, std::min(panel_width, j1 - j),
                            k0 ? Start::accumulate : p.start, p.bias ? p.bias + j : nullptr});
    }
  });
}
#endif

}  // namespace cpu

/// A constant matrix W[n, k] (a linear layer's weight, [out, in]): in panels of 16 rows of W where the tiles run,
/// row-major where Eigen does (bf16 there: rounded, but kept in T).
template <Real T>
class Panels {
 public:
  Panels() = default;
  Panels(const T* w, Index out, Index in, Precision precision) : out_(out), in_(in), precision_(precision) {
    const UseScope use(Use::parameter);
    const Index elements = !tiled() ? out * in : padded(out) * (narrow() ? pairs() : in);
    buffer_ = Buffer(Cpu::pool(), static_cast<std::size_t>(elements) * (tiled() ? sizeof(float) : sizeof(T)));
    if (!tiled()) {
      Cpu::copy(buffer_.data(), w, static_cast<std::size_t>(out * in) * sizeof(T));
      if (narrow()) map(Cpu{}, Rounded{}, out * in, data(), static_cast<const T*>(data()));
      return;
    }
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>)
      parallel_for(padded(out) / cpu::panel_width, [&](Index panel) {
        const Index j = panel * cpu::panel_width, columns = std::min(cpu::panel_width, out - j);
        if (!narrow()) return cpu::pack_panel(in, {w + j * in, 1, in}, columns, data() + j * in);
        for (Index q = 0; q < pairs(); ++q)
          for (Index r = 0; r < cpu::panel_width; ++r) {
            const T* from = w + (r < columns ? (j + r) * in + 2 * q : 0);
            words()[j * pairs() + q * 16 + r] = r < columns ? cpu::bf16_pair(from[0], 2 * q + 1 < in ? from[1] : 0) : 0;
          }
      });
#endif
  }

  Index out() const { return out_; }
  Index in() const { return in_; }
  Precision precision() const { return precision_; }
  std::size_t bytes() const { return buffer_.capacity(); }

  /// The weight in its original layout.
  void unpack(T* w) const {
    for (Index i = 0; i < out_; ++i)
      for (Index j = 0; j < in_; ++j) {
        const Index panel = i / 16 * 16, row = i % 16;
        if (!tiled()) w[i * in_ + j] = data()[i * in_ + j];
        else if (!narrow()) w[i * in_ + j] = data()[panel * in_ + j * 16 + row];
        else {
          const std::uint32_t word = words()[panel * pairs() + j / 2 * 16 + row];
          w[i * in_ + j] = static_cast<T>(std::bit_cast<float>(j % 2 ? word & 0xffff0000u : word << 16));
        }
      }
  }

  /// C[m, out] = start + A[m, in] · Wᵀ. Rows of A are contiguous.
  void forward(const Product<T>& p) const {
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>) {
      if (tiled() && narrow())
        return isa() >= Isa::avx512_bf16 ? forward_as<cpu::Paired>(p) : forward_as<cpu::Widened>(p);
      if (tiled())
        return cpu::multiply(p, [&](Index j, Index, Index k0, Index, float*) {
          return static_cast<const float*>(data() + j * in_ + k0 * cpu::panel_width);
        });
    }
#endif
    narrowed(p, {data(), 1, in_});
  }

  /// C[m, in] = start + A[m, out] · W. The blocks of W are transposed on the way, once for all rows.
  void backward(const Product<T>& p) const {
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>) {
      if (tiled() && narrow())
        return isa() >= Isa::avx512_bf16 ? backward_as<cpu::Paired>(p) : backward_as<cpu::Widened>(p);
      if (tiled())
        return cpu::multiply(p, [&](Index j, Index columns, Index k0, Index k, float* scratch) {
          for (Index done = 0; done < k;) {  // k runs over rows of W; 16 of them share a panel
            const Index row = k0 + done, first = row % 16, count = std::min(16 - first, k - done);
            cpu::pack_panel(count, {data() + (row - first) * in_ + j * 16 + first, 1, 16}, columns,
                            scratch + done * 16);
            done += count;
          }
          return static_cast<const float*>(scratch);
        });
    }
#endif
    narrowed(p, {data(), in_, 1});
  }

#if MEFT_X86
  /// The products of a tiled bf16 weight, with operands as cpu::Widened or cpu::Paired.
  template <class Operands>
  void forward_as(const Product<float>& p) const {
    cpu::multiply_bf16<Operands>(p, [&](Index j, Index k0, Index k, auto* scratch) {
      return Operands::right(k, words() + j * pairs() + k0 / 2 * cpu::panel_width, scratch);
    });
  }
  template <class Operands>
  void backward_as(const Product<float>& p) const {
    cpu::multiply_bf16<Operands>(p, [&](Index j, Index k0, Index k, auto* scratch) {
      for (Index done = 0; done < k; done += 16)  // k runs over rows of W; 16 of them share a panel
        Operands::transposed(pairs() - j / 2, words() + (k0 + done) * pairs() + j / 2 * cpu::panel_width,
                             scratch + done * cpu::panel_width / Operands::pack);
      return static_cast<const typename Operands::Element*>(scratch);
    });
  }
#endif

 private:
  struct Rounded {
    MEFT_INLINE T operator()(T x) const { return static_cast<T>(cpu::RoundToBf16{}(static_cast<float>(x))); }
  };

  /// The product on Eigen, A rounded first where the weight is.
  void narrowed(Product<T> p, Strided<T> w) const {
    if (!narrow()) return gemm(Cpu{}, p, w);
    const Buffer left(Cpu::pool(), static_cast<std::size_t>(p.rows * p.depth) * sizeof(T));
    T* const to = static_cast<T*>(left.data());
    for (Index i = 0; i < p.rows; ++i) map(Cpu{}, Rounded{}, p.depth, to + i * p.depth, p.a.data + i * p.a.row);
    p.a = {to, p.depth, 1};
    gemm(Cpu{}, p, w);
  }

  static bool tiled() { return std::is_same_v<T, float> && has_avx2(); }
  bool narrow() const { return precision_ == Precision::bf16; }
  Index pairs() const { return (in_ + 1) / 2; }
  static Index padded(Index n) { return (n + 15) / 16 * 16; }
  T* data() const { return static_cast<T*>(buffer_.data()); }
  std::uint32_t* words() const { return static_cast<std::uint32_t*>(buffer_.data()); }

  Buffer buffer_;
  Index out_ = 0, in_ = 0;
  Precision precision_ = Precision::f32;
};

/// Lays out a constant weight W[out, in].
template <Real T>
Panels<T> pack(Cpu, const T* w, Index out, Index in, Precision precision) {
  return Panels<T>(w, out, in, precision);
}

}  // namespace meft
