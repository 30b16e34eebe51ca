// Owns: elementwise loops over functors on the CPU, plain and broadcast. A loop runs in strides of 16; the tail goes
// through the same stride on a copy, so an element's bits do not depend on where it stands.
#pragma once

#include <array>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/shape.hpp>
#include <meft/base/target.hpp>

namespace meft {

namespace cpu {

inline constexpr Index map_grain = 1 << 14;

/// out[i] = f(in[i]...) for i in [0, n), on this thread. `out` may be one of the inputs.
template <class F, class T, class... In>
MEFT_INLINE inline void map_run(const F& f, Index n, T* out, const In*... in) {
  constexpr int width = 16;
  Index i = 0;
#ifdef __clang__
#pragma clang loop vectorize(disable)  // the inner loop is to become vectors, not the outer one by strides
#endif
  for (; i + width <= n; i += width) {
    // Where they are one array, an element is read before it is written. g++ would take a result through memory; clang
    // warns of a loop that it was told to vectorise and could not.
#ifdef __clang__
    T result[width];
    for (int j = 0; j < width; ++j) result[j] = f(in[i + j]...);
    for (int j = 0; j < width; ++j) out[i + j] = result[j];
#else
#pragma GCC ivdep
    MEFT_LANES (j, width) out[i + j] = f(in[i + j]...);
#endif
  }
  if (i == n) return;
  const Index rest = n - i;
  const auto padded = [&](const auto* from) MEFT_INLINE {
    std::array<std::remove_cv_t<std::remove_pointer_t<decltype(from)>>, width> copy;
    for (Index j = 0; j < width; ++j) copy[static_cast<std::size_t>(j)] = from[i + (j < rest ? j : 0)];
#if defined(__GNUC__) || defined(__clang__)
    // A product of these that was computed before would be taken from there, and no more contracted as in the loop.
    __asm__("" : "+m"(copy));
#endif
    return copy;
  };
  const auto stride = [&](const auto&... copies) MEFT_INLINE {
    T result[width];
    for (std::size_t j = 0; j < width; ++j) result[j] = f(copies[j]...);
    for (Index j = 0; j < rest; ++j) out[i + j] = result[j];
  };
  stride(padded(in)...);
}

/// What a loop over F is compiled for at most.
template <class F>
inline constexpr Isa map_isa = of_activation<F> ? Isa::avx512 : Isa::avx2;

/// The same for the best target the processor has.
template <class F, class T, class... In>
void map_here(const F& f, Index n, T* out, const In*... in) {
  vectorised<map_isa<F>>([&]() MEFT_INLINE { map_run(f, n, out, in...); });
}

}  // namespace cpu

template <class F, class T, class... In>
void map(Cpu, const F& f, Index n, T* out, const In*... in) {
  parallel_chunks(n, cpu::map_grain,
                  [&](Index begin, Index end) { cpu::map_here(f, end - begin, out + begin, in + begin...); });
}

template <class F, class T, class A, class C>
void map_broadcast(Cpu, const F& f, const Shape& shape, T* out, const Shape& sa, const A* a, const Shape& sb,
                   const C* b) {
  if (sa == shape && sb == shape) return map(Cpu{}, f, shape.size(), out, a, b);
  const int rank = shape.rank();
  std::array<Index, Shape::max_rank> step_a{}, step_b{};  // 0 where the operand is repeated
  Index size_a = 1, size_b = 1;
  for (int i = rank - 1; i >= 0; --i) {
    const auto u = static_cast<std::size_t>(i);
    const int ia = i - (rank - sa.rank()), ib = i - (rank - sb.rank());
    const Index da = ia < 0 ? 1 : sa[ia], db = ib < 0 ? 1 : sb[ib];
    step_a[u] = da == 1 ? 0 : size_a;
    step_b[u] = db == 1 ? 0 : size_b;
    size_a *= da;
    size_b *= db;
  }
  const Index inner = rank ? shape[-1] : 1, rows = inner ? shape.size() / inner : 0;
  const Index in_a = rank ? step_a[static_cast<std::size_t>(rank - 1)] : 0,
              in_b = rank ? step_b[static_cast<std::size_t>(rank - 1)] : 0;
  const Index grain = std::max<Index>(1, cpu::map_grain / std::max<Index>(inner, 1));
  parallel_chunks(rows, grain, [&](Index begin, Index end) {
    for (Index row = begin; row < end; ++row) {
      Index at_a = 0, at_b = 0;
      for (Index i = rank - 2, left = row; i >= 0; --i) {
        const auto u = static_cast<std::size_t>(i);
        const Index extent = shape[static_cast<int>(i)];
        at_a += left % extent * step_a[u];
        at_b += left % extent * step_b[u];
        left /= extent;
      }
      const A* pa = a + at_a;
      const C* pb = b + at_b;
      T* po = out + row * inner;
      vectorised([&]() MEFT_INLINE {
        if (in_a && in_b) cpu::map_run(f, inner, po, pa, pb);
        else if (in_a) cpu::map_run([&f, y = *pb](A x) MEFT_INLINE { return f(x, y); }, inner, po, pa);
        else if (in_b) cpu::map_run([&f, x = *pa](C y) MEFT_INLINE { return f(x, y); }, inner, po, pb);
        else cpu::map_run([&f, x = *pa, y = *pb](T) MEFT_INLINE { return f(x, y); }, inner, po, po);
      });
    }
  });
}

}  // namespace meft
