// Owns: the declaration of filling arrays with random numbers on CUDA.
#pragma once

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// out[i] = deviation · normal(key, i), made on the host, so that every backend starts from the same bits.
template <Real T>
void fill_normal(Cuda, Index n, T* out, Key key, double deviation);

}  // namespace meft
