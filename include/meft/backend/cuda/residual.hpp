// Owns: the declarations of a residual's sums on CUDA, with dropout and layer norm in the same pass.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// y[i] = x[i] + dropout(t)[i], where element i of t is number first + i of the key; 0 ≤ p < 1. `y` may be x or t.
template <Real T>
void add_dropped(Cuda, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first);
/// s = x + dropout(t), y = its layer norm over rows of n elements.
template <Real T>
void residual_norm(Cuda, Index rows, Index n, const T* x, const T* t, double p, Key key, std::uint64_t first,
                   const T* gamma, const T* beta, T epsilon, T* s, T* y, T* mean, T* rstd);

}  // namespace meft
