// Owns: the packed form of a constant right operand, in float or bf16, laid out once for both x·Wᵀ and dy·W; or in
// blocks as they are, decoded on the way.
#pragma once

#include <bit>

#include <meft/backend/cpu/ends.hpp>
#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/tile_amx.hpp>
#include <meft/backend/cpu/tile_blocks.hpp>
#include <meft/backend/cpu/weight_gradient.hpp>
#include <meft/backend/kernels/panels.hpp>

namespace meft {

/// A constant matrix W[n, k] (a linear layer's weight, [out, in]): in panels of 16 rows of W where the tiles run,
/// row-major where they do not (bf16 there: rounded, but kept in T).
template <Real T>
class Panels<Cpu, T> {
 public:
  Panels() = default;
  Panels(const T* w, Index out, Index in, Precision precision) : out_(out), in_(in), precision_(precision) {
    const UseScope use(Use::parameter);
    const Index elements = !tiled() ? out * in : padded(out) * (narrow() ? pairs() : in);
    buffer_ = Buffer(Cpu::pool(), static_cast<std::size_t>(elements) * (tiled() ? sizeof(float) : sizeof(T)));
    pack(w);
  }
  /// W stays in its blocks.
  Panels(Blocks blocks, Precision precision)
      : blocks_(std::move(blocks)), out_(blocks_.out), in_(blocks_.in), precision_(precision) {}

  Index out() const { return out_; }
  Index in() const { return in_; }
  Precision precision() const { return precision_; }
  std::size_t bytes() const { return blocks_ ? blocks_.buffer.capacity() : buffer_.capacity(); }
  const Blocks& blocks() const { return blocks_; }

  /// The weight in its original layout.
  void unpack(T* w) const {
    parallel_for(out_, [&](Index i) { row(i, w + i * in_); });
  }
  /// Rows of it by their numbers. y [n, in]
  void rows(Index n, const std::int32_t* numbers, T* y) const {
    parallel_for(n, [&](Index i) { row(numbers[i], y + i * in_); });
  }

  /// Element indices[m] becomes v[m]; without indices v is the whole matrix.
  void write(Index n, const std::int32_t* indices, const T* v) const {
    require(!blocks_, "a weight is written to that is kept in blocks, expected f32 or bf16, found", blocks_dtype());
    if (!indices) return pack(v);
    for (Index m = 0; m < n; ++m) {
      const Index at = indices[m], i = at / in_, j = at % in_, panel = i / 16 * 16, row = i % 16;
      if (!tiled()) data()[at] = narrow() ? Rounded{}(v[m]) : v[m];
      else if (!narrow()) data()[panel * in_ + j * 16 + row] = v[m];
      else {
        std::uint32_t& word = words()[panel * pairs() + j / 2 * 16 + row];
        const std::uint32_t half = std::bit_cast<std::uint32_t>(cpu::RoundToBf16{}(static_cast<float>(v[m])));
        word = j % 2 ? (half & 0xffff0000u) | (word & 0xffffu) : half >> 16 | (word & 0xffff0000u);
      }
    }
  }

  /// C[m, out] = start + A[m, in] · Wᵀ. Rows of A are contiguous.
  void forward(const Product<T>& p) const {
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>) {
      if (tiled() && narrow()) return in_words([&](auto operands) { forward_as<decltype(operands)>(p); });
      if (tiled())
        return cpu::multiply<cpu::Floats>(
            p,
            [&](Index j, Index, Index k0, Index, float*) {
              return cpu::Block<float>{data() + j * in_ + k0 * cpu::panel_width, in_ * cpu::panel_width};
            },
            [&](Index j, Index columns, Index k0, Index k) { return ahead(j, columns, k0, k, in_); });
    }
#endif
    if (blocks_) return decoded(p, false);
    narrowed(p, {data(), 1, in_});
  }

  /// As gemm_activated.
  bool forward_activated(Activation, const Product<T>&, T*) const { return false; }

  /// C[m, in] = start + A[m, out] · W. The blocks of W are transposed on the way, once for many rows.
  void backward(const Product<T>& p) const {
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>) {
      if (tiled() && narrow()) return in_words([&](auto operands) { backward_as<decltype(operands)>(p); });
      if (tiled())
        return cpu::multiply<cpu::Floats>(
            p,
            [&](Index j, Index columns, Index k0, Index k, float* scratch) {
              return cpu::fill_panels(columns, k * cpu::panel_width, scratch, [&](Index at, Index width, float* panel) {
                for (Index done = 0; done < k; done += 16)  // k runs over rows of W; 16 of them share a panel
                  cpu::pack_panel(std::min<Index>(16, k - done), {data() + (k0 + done) * in_ + (j + at) * 16, 1, 16},
                                  width, panel + done * 16);
              });
            },
            [&](Index j, Index columns, Index k0, Index k) { return ahead(k0, k, j, columns, in_); });
    }
#endif
    if (blocks_) return decoded(p, true);
    narrowed(p, {data(), in_, 1});
  }

  /// Whether products take A rounded, and end in what their result becomes.
  bool fuses() const { return tiled() && narrow(); }
  /// start + A[m, in] · Wᵀ becomes what the ends say, in their order.
  template <class... E>
  void forward_ended([[maybe_unused]] const Product<T>& p, [[maybe_unused]] const E&... ends) const {
#if MEFT_X86
    const auto end = [&](Index i, Index rows, Index j, Index columns, const float* c, Index ldc) {
      (cpu::end_block(ends, rows, columns, c, ldc, i * out_ + j, out_), ...);
    };
    const cpu::End each(end);
    in_words([&](auto operands) { forward_as<decltype(operands)>(p, &each); });
#endif
  }
  /// The same of A[m, out] · W.
  template <class... E>
  void backward_ended([[maybe_unused]] const Product<T>& p, [[maybe_unused]] const E&... ends) const {
#if MEFT_X86
    const auto end = [&](Index i, Index rows, Index j, Index columns, const float* c, Index ldc) {
      (cpu::end_block(ends, rows, columns, c, ldc, i * in_ + j, in_), ...);
    };
    const cpu::End each(end);
    in_words([&](auto operands) { backward_as<decltype(operands)>(p, &each); });
#endif
  }

  /// C[out, in] = A[m, out]ᵀ · B[m, in] with B rounded, where it fuses.
  void gradient([[maybe_unused]] Index rows, [[maybe_unused]] const T* a, [[maybe_unused]] const bf16* b,
                [[maybe_unused]] T* c) const {
#if MEFT_X86
    in_words([&](auto operands) { cpu::weight_gradient<decltype(operands)>(rows, out_, in_, a, b, c); });
#endif
  }
  /// C[out, in] = A[m, out]ᵀ · B[m, in], in the arithmetic of W, which it does not read. Rows of both are contiguous.
  void gradient(Index rows, const T* a, const T* b, T* c) const {
    const Product<T> p{out_, in_, rows, {a, 1, out_}, c, in_};
    if (!narrow()) return gemm(Cpu{}, p, {b, in_, 1});
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>)
      if (tiled())
        return in_words([&](auto operands) { cpu::weight_gradient<decltype(operands)>(rows, out_, in_, a, b, c); });
#endif
    const UseScope use(Use::workspace);
    const auto rounded = [&](const T* x, Index width) {
      Buffer out(Cpu::pool(), static_cast<std::size_t>(rows * width) * sizeof(T));
      map(Cpu{}, Rounded{}, rows * width, static_cast<T*>(out.data()), x);
      return out;
    };
    const Buffer left = rounded(a, out_), right = rounded(b, in_);
    auto of_rounded = p;
    of_rounded.a.data = static_cast<const T*>(left.data());
    gemm(Cpu{}, of_rounded, {static_cast<const T*>(right.data()), in_, 1});
  }

#if MEFT_X86
  /// The products of a tiled bf16 weight, with operands as cpu::Widened, cpu::Paired or cpu::Tiled.
  template <class Operands>
  void forward_as(const Product<float>& p, const cpu::End* end = nullptr) const {
    if (blocks_) return cpu::multiply_blocks<Operands>(p, blocks_, false, end);
    cpu::multiply<Operands>(
        p,
        [&](Index j, Index columns, Index k0, Index k, auto* scratch) {
          return Operands::right(
              k, columns, {words() + j * pairs() + k0 / 2 * cpu::panel_width, pairs() * cpu::panel_width}, scratch);
        },
        [&](Index j, Index columns, Index k0, Index k) { return ahead(j, columns, k0 / 2, (k + 1) / 2, pairs()); },
        end);
  }
  template <class Operands>
  void backward_as(const Product<float>& p, const cpu::End* end = nullptr) const {
    if (blocks_) return cpu::multiply_blocks<Operands>(p, blocks_, true, end);
    cpu::multiply<Operands>(
        p,
        [&](Index j, Index columns, Index k0, Index k, auto* scratch) {
          const Index elements = (k + 15) / 16 * 16 * cpu::panel_width / Operands::pack;
          return cpu::fill_panels(columns, elements, scratch, [&](Index at, Index, auto* panel) {
            for (Index done = 0; done < k; done += 16)
              Operands::transposed(pairs() - (j + at) / 2,
                                   words() + (k0 + done) * pairs() + (j + at) / 2 * cpu::panel_width,
                                   panel + done * cpu::panel_width / Operands::pack);
          });
        },
        [&](Index j, Index columns, Index k0, Index k) { return ahead(k0, k, j / 2, (columns + 1) / 2, pairs()); },
        end);
  }
#endif

 private:
  /// Lays W out.
  void pack(const T* w) const {
    if (!tiled()) {
      Cpu::copy(buffer_.data(), w, static_cast<std::size_t>(out_ * in_) * sizeof(T));
      if (narrow()) map(Cpu{}, Rounded{}, out_ * in_, data(), static_cast<const T*>(data()));
      return;
    }
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>)
      parallel_for(padded(out_) / cpu::panel_width, [&](Index panel) {
        const Index j = panel * cpu::panel_width, columns = std::min(cpu::panel_width, out_ - j);
        if (narrow()) cpu::pack_words(columns, in_, w + j * in_, words() + j * pairs());
        else cpu::pack_panel(in_, {w + j * in_, 1, in_}, columns, data() + j * in_);
      });
#endif
  }

#if MEFT_X86
  /// f(operands) with those that the processor multiplies fastest.
  template <class F>
  static void in_words(const F& f) {
    if (isa() >= Isa::amx) f(cpu::Tiled<cpu::Amx>{});
    else if (isa() >= Isa::avx512_bf16) f(cpu::Paired{});
    else f(cpu::Widened{});
  }
#endif

  /// to[in] ← row i.
  void row(Index i, T* to) const {
    if (blocks_) return blocks_.decode(i, 1, to);
    const Index panel = i / 16 * 16, at = i % 16;
    for (Index j = 0; j < in_; ++j) {
      if (!tiled()) to[j] = data()[i * in_ + j];
      else if (!narrow()) to[j] = data()[panel * in_ + j * 16 + at];
      else {
        const std::uint32_t word = words()[panel * pairs() + j / 2 * 16 + at];
        to[j] = static_cast<T>(std::bit_cast<float>(j % 2 ? word & 0xffff0000u : word << 16));
      }
    }
  }

#if MEFT_X86
  /// Of the panels of `rows` rows of W from `row` on, `count` places from `first` on, 64 bytes each; a panel has `all`.
  cpu::Ahead ahead(Index row, Index rows, Index first, Index count, Index all) const {
    return {static_cast<const char*>(buffer_.data()) + 4 * (row * all + first * 16), (rows + 15) / 16, 64 * count,
            64 * all};
  }
#endif

  struct Rounded {
    MEFT_INLINE T operator()(T x) const { return static_cast<T>(cpu::RoundToBf16{}(static_cast<float>(x))); }
  };

  /// The product of row-major weights, A rounded first where the weight is.
  void narrowed(Product<T> p, Strided<T> w) const {
    if (!narrow()) return gemm(Cpu{}, p, w);
    const auto left = rounded(p);
    gemm(Cpu{}, p, w);
  }
  /// p.a ← itself, rounded to bf16, in what is given.
  static Buffer rounded(Product<T>& p) {
    Buffer left(Cpu::pool(), static_cast<std::size_t>(p.rows * p.depth) * sizeof(T));
    T* const to = static_cast<T*>(left.data());
    for (Index i = 0; i < p.rows; ++i) map(Cpu{}, Rounded{}, p.depth, to + i * p.depth, p.a.data + i * p.a.row);
    p.a = {to, p.depth, 1};
    return left;
  }
  /// The product with W in blocks, of which 64 rows are decoded at a time.
  void decoded(Product<T> p, bool transposed) const {
    constexpr Index most = 64;
    const auto left = rounded(p);
    const Buffer rows(Cpu::pool(), static_cast<std::size_t>(std::min(out_, most) * in_) * sizeof(T));
    T* const w = static_cast<T*>(rows.data());
    for (Index i = 0; i < out_; i += most) {
      const Index count = std::min(most, out_ - i);
      blocks_.decode(i, count, w);
      Product<T> one = p;
      if (transposed) {
        one.depth = count, one.a = p.a.at(0, i);
        if (i) one.start = Start::accumulate;
        gemm(Cpu{}, one, Strided<T>{w, in_, 1});
      } else {
        one.columns = count, one.c = p.c + i;
        if (p.bias) one.bias = p.bias + i;
        gemm(Cpu{}, one, Strided<T>{w, 1, in_});
      }
    }
  }

  static bool tiled() { return std::is_same_v<T, float> && has_avx2(); }
  bool narrow() const { return arithmetic(precision_) == Precision::bf16; }
  std::string_view blocks_dtype() const { return blocks_ ? blocks_.format->dtype : std::string_view(); }
  Index pairs() const { return (in_ + 1) / 2; }
  static Index padded(Index n) { return (n + 15) / 16 * 16; }
  T* data() const { return static_cast<T*>(buffer_.data()); }
  std::uint32_t* words() const { return static_cast<std::uint32_t*>(buffer_.data()); }

  Buffer buffer_;
  Blocks blocks_;  // in place of it
  Index out_ = 0, in_ = 0;
  Precision precision_ = Precision::f32;
};

}  // namespace meft
