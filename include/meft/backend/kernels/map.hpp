// Owns: the interface of elementwise kernels.
#pragma once

#include <meft/backend/backend.hpp>

namespace meft {

/// out[i] = f(in[i]...): contiguous arrays of `n` elements, or of none at all (`out[i] = f()`). `out` may be an input.
/// A device has it for the functors that kernels/map.cu lists; for activations it also rounds to bf16.
template <Backend B, class F, class T, class... In>
void map(B, const F& f, Index n, T* out, const In*... in);

/// out = f(a, b) with NumPy broadcasting; `shape` is the broadcast shape.
template <Backend B, class F, class T, class A, class C>
void map_broadcast(B, const F& f, const Shape& shape, T* out, const Shape& sa, const A* a, const Shape& sb, const C* b);

}  // namespace meft
