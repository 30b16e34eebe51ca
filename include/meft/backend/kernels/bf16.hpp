// Owns: the interface of rounding arrays to bf16 and widening them.
#pragma once

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// y[i] = x[i], rounded.
template <Backend B>
void to_bf16(B, Index n, const float* x, bf16* y);
/// y[i] = x[i].
template <Backend B>
void from_bf16(B, Index n, const bf16* x, float* y);

}  // namespace meft
