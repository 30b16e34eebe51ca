// Owns: the declaration of dropout on CUDA: the same mask as on the CPU.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// y[i] = x[i]/(1 − p) where element first + i is kept, else 0; 0 ≤ p < 1. `y` may be `x`.
template <Real T>
void dropout(Cuda, Index n, const T* x, T* y, double p, Key key, std::uint64_t first);

}  // namespace meft
