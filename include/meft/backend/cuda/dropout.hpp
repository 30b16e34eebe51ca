// Owns: the declaration of dropout on CUDA, alone and after a function: the same mask as on the CPU.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// out[i] = f(in[i]...)/(1 − p) where element first + i is kept, else 0; 0 ≤ p < 1. `out` may be one of the inputs.
/// kernels/dropout.cu has it for the functors that ops use.
template <class F, Real T, class... In>
void map_dropped(Cuda, const F& f, Index n, T* out, double p, Key key, std::uint64_t first, const In*... in);

}  // namespace meft
