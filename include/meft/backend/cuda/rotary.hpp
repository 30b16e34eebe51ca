// Owns: the declaration of rotary position on CUDA.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/rotary_spec.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// y = x [rows, heads · width] with each head's pairs turned by their angles at the row's position, or turned back. `y`
/// may be `x`.
template <Real T>
void rotate_pairs(Cuda, Index rows, Index heads, Index width, const RotarySpec& spec, bool back,
                  const std::int32_t* position, const T* x, T* y);

}  // namespace meft
