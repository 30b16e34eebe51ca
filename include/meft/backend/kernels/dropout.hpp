// Owns: the interface of dropout. Element e is kept when dropout_bits(key, e) ≥ p·2¹⁶, so the mask is replayed, never
// stored. p is rounded up to a multiple of 2⁻¹⁶.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/backend/keep.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// out[i] = f(in[i]...)/(1 − p) where element first + i is kept, else 0; 0 ≤ p < 1. `out` may be one of the inputs. A
/// device has it for the functors that kernels/dropout.cu lists; for Identity it also rounds to bf16.
template <Backend B, class F, Scalar T, class... In>
void map_dropped(B, const F& f, Index n, T* out, double p, Key key, std::uint64_t first, const In*... in);

/// y[i] = x[i] + dropout(t)[i], where element i of t is number first + i of the key; 0 ≤ p < 1. `y` may be x or t. Or,
/// with `also`, x[i] + (also[i] + dropout(t)[i]), and `y` may be none of them.
template <Backend B, Real T>
void add_dropped(B, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first,
                 const T* also = nullptr);

}  // namespace meft
