// Owns: elementwise functors over arrays, plain and broadcast: include/meft/backend/kernels/map.hpp. Bound by memory:
// 16 bytes a thread and access where the arrays allow it.
#include <array>
#include <cstdint>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/compose.hpp>
#include <meft/base/functor.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

template <class F, class T, class... In>
__global__ void map_elements(F f, Index begin, Index n, T* out, const In*... in) {
  for (Index i = begin + first(); i < n; i += stride()) out[i] = static_cast<T>(f(in[i]...));
}

/// As many elements as fill 16 bytes of what is written.
template <class F, class T, class... In>
__global__ void map_packs(F f, Index packs, Pack<T>* out, const Some<In, Pack<T>::width>*... in) {
  const auto apply = [&f](const Some<In, Pack<T>::width>... x) {  // by value: a pack is one access, or two
    Pack<T> y;
    for (int j = 0; j < Pack<T>::width; ++j) y.at[j] = static_cast<T>(f(x.at[j]...));
    return y;
  };
  for (Index i = first(); i < packs; i += stride()) out[i] = apply(in[i]...);
}

/// The axes of a broadcast: extents and each operand's steps, axes that go on alike in both merged.
template <class I>
struct Axes {
  int rank = 0;
  I extent[Shape::max_rank], step_a[Shape::max_rank], step_b[Shape::max_rank];
};

template <class I>
Axes<I> merged(const Shape& shape, const Shape& sa, const Shape& sb) {
  Axes<I> out;
  Index size_a = 1, size_b = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {  // the last axis first
    const int ia = i - (shape.rank() - sa.rank()), ib = i - (shape.rank() - sb.rank());
    const Index da = ia < 0 ? 1 : sa[ia], db = ib < 0 ? 1 : sb[ib];
    const Index step_a = da == 1 ? 0 : size_a, step_b = db == 1 ? 0 : size_b;
    size_a *= da;
    size_b *= db;
    if (shape[i] == 1) continue;
    const int last = out.rank - 1;
    if (out.rank && step_a == static_cast<Index>(out.step_a[last] * out.extent[last]) &&
        step_b == static_cast<Index>(out.step_b[last] * out.extent[last])) {
      out.extent[last] *= static_cast<I>(shape[i]);
      continue;
    }
    out.extent[out.rank] = static_cast<I>(shape[i]);
    out.step_a[out.rank] = static_cast<I>(step_a);
    out.step_b[out.rank++] = static_cast<I>(step_b);
  }
  return out;
}

template <class I, class F, class T, class A, class C>
__global__ void map_axes(F f, const __grid_constant__ Axes<I> axes, Index n, T* out, const A* a, const C* b) {
  for (Index i = first(); i < n; i += stride()) {
    I left = static_cast<I>(i), at_a = 0, at_b = 0;
    for (int k = 0; k < axes.rank; ++k) {
      const I place = left % axes.extent[k];
      left /= axes.extent[k];
      at_a += place * axes.step_a[k];
      at_b += place * axes.step_b[k];
    }
    out[i] = f(a[at_a], b[at_b]);
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, class F, class T, class... In>
void map(B, const F& f, Index n, T* out, const In*... in) {
  if (n == 0) return;
  Index begin = 0;
  if constexpr (((sizeof(In) >= sizeof(T)) && ...))
    if (cuda::aligned(out, in...)) {
      const Index packs = n / cuda::Pack<T>::width;
      begin = packs * cuda::Pack<T>::width;
      if (packs)
        cuda::launch(cuda::map_packs<F, T, In...>, cuda::blocks(packs), cuda::threads, 0, cuda::stream(), f, packs,
                     reinterpret_cast<cuda::Pack<T>*>(out),
                     reinterpret_cast<const cuda::Some<In, cuda::Pack<T>::width>*>(in)...);
    }
  if (begin < n)
    cuda::launch(cuda::map_elements<F, T, In...>, cuda::blocks(n - begin), cuda::threads, 0, cuda::stream(), f, begin,
                 n, out, in...);
}

template <Backend B, class F, class T, class A, class C>
void map_broadcast(B, const F& f, const Shape& shape, T* out, const Shape& sa, const A* a, const Shape& sb,
                   const C* b) {
  if (sa == shape && sb == shape) return map(Cuda{}, f, shape.size(), out, a, b);
  const Index n = shape.size();
  if (n == 0) return;
  const auto over = [&]<class I>(I) {
    cuda::launch(cuda::map_axes<I, F, T, A, C>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), f,
                 cuda::merged<I>(shape, sa, sb), n, out, a, b);
  };
  if (n <= INT32_MAX) over(std::uint32_t{});  // division by 32 bits is several times as fast
  else over(std::uint64_t{});
}

/// What ops call of each functor, in T. To ask for a function's address has it compiled, with its kernels.
template <class T>
class Every {
 public:
  Every() {
    functions(Functions{});
    functions(Activations{});
    gates(Activations{});
    if constexpr (sizeof(T) == 4) rounded(Activations{});
    operators(Operators{});
    of<T, T>(SquaredDifference{});
    of<T, T>(QuotientSlope<T>{});
    of<T, T>(NegatedQuotient{});
    of<T, T>(Mix<T>{});
    of<T, T, T>(DifferenceTimes{});
    broadcast(NegatedQuotient{});
    broadcast(First{});
  }

 private:
  template <class... In, class F>
  static void of(const F& f) {
    to<T, In...>(f);
  }
  template <class To, class... In, class F>
  static void to(const F&) {
    void (*volatile address)(Cuda, const F&, Index, To*, const In*...) = map<Cuda, F, To, In...>;
    static_cast<void>(address);
  }
  template <class F>
  static void broadcast(const F&) {
    void (*volatile address)(Cuda, const F&, const Shape&, T*, const Shape&, const T*, const Shape&, const T*) =
        map_broadcast<Cuda, F, T, T, T>;
    static_cast<void>(address);
  }
  template <class... F>
  static void functions(Functors<F...>) {
    (function(F{}), ...);
  }
  template <class F>
  static void function(F f) {
    of<T>(f);
    if constexpr (F::needs_x || F::needs_y) of<T, T>(Slope<F>{});
    else of<T>(Slope<F>{});
  }
  template <class... F>
  static void rounded(Functors<F...>) {
    (to<bf16, T>(F{}), ...);
    (to<bf16, T, T>(SlopeAt<F>{}), ...);
    (to<bf16, T, T>(Gate<F>{}), ...);
    (to<bf16, T, T, T>(GateSlope<F>{}), ...);
  }
  template <class... F>
  static void gates(Functors<F...>) {
    (of<T, T>(SlopeAt<F>{}), ...);
    (of<T, T>(Gate<F>{}), ...);
    (of<T, T, T>(GateSlope<F>{}), ...);
  }
  template <class... F>
  static void operators(Functors<F...>) {
    (of<T, T>(F{}), ...);
    (broadcast(F{}), ...);
    (of<T>(WithLeft<F, T>{}), ...);
    (of<T>(WithRight<F, T>{}), ...);
  }
};
template class Every<float>;
template class Every<double>;

}  // namespace meft
