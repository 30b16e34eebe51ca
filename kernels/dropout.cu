// Owns: dropout with the masks of the CPU, alone, after a function and added: include/meft/backend/kernels/dropout.hpp.
// A thread takes the eight elements of one block of draws.
#include <dropped.cuh>
#include <type_traits>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/dropout.hpp>
#include <meft/base/compose.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

/// Element `start` + i of the draws belongs to out[i]; the first block may begin before it.
template <class F, class T, class U, class... In>
__global__ void drop(F f, Index n, Index count, Keep<U> keep, MovingKey moving, std::uint64_t start, T* out,
                     const In*... in) {
  const Key key = moving.now();
  constexpr Index size = dropout_block_size;
  const Index skip = static_cast<Index>(start % size);
  for (Index b = first(); b < count; b += stride()) {
    const auto block = dropout_block(key, start / size + static_cast<std::uint64_t>(b));
    for (unsigned k = 0; k < size; ++k) {
      const Index i = size * b + k - skip;
      if (0 <= i && i < n) out[i] = static_cast<T>(keep(f(in[i]...), dropout_bits(block, k)));
    }
  }
}

/// The same for whole blocks of aligned floats: two packs each.
template <class F, class T, class... In>
__global__ void drop_packs(F f, Index count, Keep<float> keep, MovingKey moving, std::uint64_t start, Some<T, 4>* out,
                           const Pack<In>*... in) {
  const auto apply = [&](const auto& block, unsigned half, const Pack<In>... x) {  // by value: a pack is one access
    Some<T, 4> y;
    for (unsigned k = 0; k < 4; ++k) y.at[k] = static_cast<T>(keep(f(x.at[k]...), dropout_bits(block, 4 * half + k)));
    return y;
  };
  const Key key = moving.now();
  for (Index b = first(); b < count; b += stride()) {
    const auto block = dropout_block(key, start + static_cast<std::uint64_t>(b));
    for (unsigned half = 0; half < 2; ++half) out[2 * b + half] = apply(block, half, in[2 * b + half]...);
  }
}

template <class T>
__global__ void add_drop(Index n, bool packed, Dropped<T> dropped, const T* x, const T* t, const T* also, T* y) {
  const Line line{n, packed};
  for (Index i = first() * Pack<T>::width; i < n; i += stride() * Pack<T>::width)
    line.write(y, i, dropped.add(line, x, t, also, 0, i));
}

}  // namespace

}  // namespace cuda

template <Backend B, class F, Scalar T, class... In>
void map_dropped(B, const F& f, Index n, T* out, double p, Key key, std::uint64_t first, const In*... in) {
  if (n == 0) return;
  using U = std::common_type_t<In...>;
  const Keep<U> keep(p);
  const cuda::MovingKey moving(key);
  constexpr Index size = dropout_block_size;
  if constexpr (sizeof(U) == 4)
    if (first % size == 0 && n % size == 0 && cuda::aligned(out, in...))
      return cuda::launch(cuda::drop_packs<F, T, In...>, cuda::blocks(n / size), cuda::threads, 0, cuda::stream(), f,
                          n / size, keep, moving, first / size, reinterpret_cast<cuda::Some<T, 4>*>(out),
                          reinterpret_cast<const cuda::Pack<In>*>(in)...);
  const Index count = (n + static_cast<Index>(first % size) + size - 1) / size;
  cuda::launch(cuda::drop<F, T, U, In...>, cuda::blocks(count), cuda::threads, 0, cuda::stream(), f, n, count, keep,
               moving, first, out, in...);
}

template <Backend B, Real T>
void add_dropped(B, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first, const T* also) {
  if (n == 0) return;
  constexpr Index width = cuda::Pack<T>::width;
  cuda::launch(cuda::add_drop<T>, cuda::blocks((n + width - 1) / width), cuda::threads, 0, cuda::stream(), n,
               n % width == 0 && cuda::aligned(x, t, also, y), cuda::Dropped<T>(p, key, first), x, t, also, y);
}

/// What ops call of each activation, in T. To ask for a function's address has it compiled, with its kernels.
template <class T>
class EveryDropped {
 public:
  EveryDropped() {
    of<T>(Identity{});
    if constexpr (sizeof(T) == 4) to<bf16, T>(Identity{});
    activations(Activations{});
  }

 private:
  template <class... In, class F>
  static void of(const F& f) {
    to<T, In...>(f);
  }
  template <class To, class... In, class F>
  static void to(const F&) {
    void (*volatile address)(Cuda, const F&, Index, To*, double, Key, std::uint64_t, const In*...) =
        map_dropped<Cuda, F, To, In...>;
    static_cast<void>(address);
  }
  template <class... F>
  static void activations(Functors<F...>) {
    (of<T>(F{}), ...);
    (of<T, T>(SlopeAt<F>{}), ...);
  }
};
template class EveryDropped<float>;
template class EveryDropped<double>;

template void add_dropped(Cuda, Index, const float*, const float*, float*, double, Key, std::uint64_t, const float*);
template void add_dropped(Cuda, Index, const double*, const double*, double*, double, Key, std::uint64_t,
                          const double*);

}  // namespace meft
