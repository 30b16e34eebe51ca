// Owns: the interface of softmax over rows.
#pragma once

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// Rows of [rows, n]: y = exp(x − max) / Σ, or its logarithm. `y` may be `x`.
template <Backend B, Real T>
void softmax(B, Index rows, Index n, const T* x, T* y, bool logarithm);
/// dx = y ⊙ (dy − Σ y dy), or of the logarithm dx = dy − exp(y) Σ dy. `dx` may be `dy`.
template <Backend B, Real T>
void softmax_backward(B, Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm);

}  // namespace meft
