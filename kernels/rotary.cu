// Owns: rotary position: include/meft/backend/kernels/rotary.hpp. A thread turns one pair of a row in every head.
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/rotary.hpp>
#include <meft/base/vector_math.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

template <class T>
__global__ void rotate(Index rows, Index heads, Index width, RotarySpec spec, bool back, const std::int32_t* position,
                       const T* x, T* y) {
  const Index pairs = spec.pairs(), total = rows * pairs;
  const Index step = spec.interleaved ? 2 : 1, other = spec.interleaved ? 1 : pairs;
  for (Index task = first(); task < total; task += stride()) {
    const Index r = task / pairs, i = task % pairs;
    const double angle = position[r] * spec.frequency(i);
    const T c = static_cast<T>(spec.magnitude * cos(angle)),
            s = static_cast<T>(spec.magnitude * (back ? -sin(angle) : sin(angle)));
    for (Index h = 0; h < heads; ++h) {
      const Index at = (r * heads + h) * width, place = at + i * step;
      const T a = x[place], b = x[place + other];
      y[place] = multiply_add(a, c, -product(b, s));
      y[place + other] = multiply_add(b, c, product(a, s));
      for (Index k = spec.rotated + i; k < width; k += pairs) y[at + k] = x[at + k];
    }
  }
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void rotate_pairs(B, Index rows, Index heads, Index width, const RotarySpec& spec, bool back,
                  const std::int32_t* position, const T* x, T* y) {
  if (const Index total = rows * spec.pairs())
    cuda::launch(cuda::rotate<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), rows, heads, width, spec, back,
                 position, x, y);
}

template void rotate_pairs(Cuda, Index, Index, Index, const RotarySpec&, bool, const std::int32_t*, const float*,
                           float*);
template void rotate_pairs(Cuda, Index, Index, Index, const RotarySpec&, bool, const std::int32_t*, const double*,
                           double*);

}  // namespace meft
