// Owns: the interface of filling arrays with random numbers, and of adding them.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// out[i] = deviation · normal(key, i), the same bits on every backend.
template <Backend B, Real T>
void fill_normal(B, Index n, T* out, Key key, double deviation);

/// y[i, :] = keep·x[i, :] + scale·z for i in [0, rows), z the normal_float of each element of row numbers[i] of a table
/// so wide, or of row first + i where there are no numbers. `y` may be x.
template <Backend B, Real T>
void add_noise(B, Index rows, Index width, const std::int32_t* numbers, Index first, Key key, double keep, double scale,
               const T* x, T* y);

}  // namespace meft
