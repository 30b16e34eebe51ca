// Owns: the declarations of filling arrays with random numbers, and of adding them, on CUDA.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// out[i] = deviation · normal(key, i), made on the host, so that every backend starts from the same bits.
template <Real T>
void fill_normal(Cuda, Index n, T* out, Key key, double deviation);

/// y[i, :] = keep·x[i, :] + scale·z for i in [0, rows), z the normal_float of each element of row numbers[i] of a table
/// so wide, or of row first + i where there are no numbers. `y` may be x.
template <Real T>
void add_noise(Cuda, Index rows, Index width, const std::int32_t* numbers, Index first, Key key, double keep,
               double scale, const T* x, T* y);

}  // namespace meft
