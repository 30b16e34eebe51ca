// Owns: the interface of reductions over an axis. Every sum runs in an order that depends on the shape alone.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// out[o, j] = Σ_i x[o, i, j], x [outer, n, inner].
template <Backend B, Real T>
void sum(B, Index outer, Index n, Index inner, const T* x, T* out);
/// out[o, i, j] = x[o, j] for i in [0, n): what a sum's gradient does.
template <Backend B, Real T>
void repeat(B, Index outer, Index n, Index inner, const T* x, T* out);

/// out[o, j] = max_i x[o, i, j], at[o, j] the first i where it stands. n ≥ 1. A NaN wins.
template <Backend B, Real T>
void max(B, Index outer, Index n, Index inner, const T* x, T* out, std::int32_t* at);
/// dx[o, at[o, j], j] = dy[o, j], 0 elsewhere.
template <Backend B, Real T>
void max_backward(B, Index outer, Index n, Index inner, const T* dy, const std::int32_t* at, T* dx);

}  // namespace meft
