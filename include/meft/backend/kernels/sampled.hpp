// Owns: the interface of products of which chosen elements are wanted alone.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// z[m] = Σ_t a[t, i]·b[t, j], t ascending, with indices[m] = i·columns + j: n elements of aᵀ·b, a [depth, rows] and
/// b [depth, columns].
template <Backend B, Real T>
void sampled_product(B, Index depth, Index rows, Index columns, const T* a, const T* b, Index n,
                     const std::int32_t* indices, T* z);

}  // namespace meft
