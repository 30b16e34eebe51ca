// Owns: the declarations of elementwise kernels on CUDA. kernels/map.cu has them for the functors that ops use.
#pragma once

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// out[i] = f(in[i]...): contiguous arrays of `n` elements, or of none at all (`out[i] = f()`). `out` may be an input.
template <class F, class T, class... In>
void map(Cuda, const F& f, Index n, T* out, const In*... in);

/// out = f(a, b) with NumPy broadcasting; `shape` is the broadcast shape.
template <class F, class T, class A, class C>
void map_broadcast(Cuda, const F& f, const Shape& shape, T* out, const Shape& sa, const A* a, const Shape& sb,
                   const C* b);

}  // namespace meft
