// Owns: the interface of attention by positive products of rows. Weights never exist whole.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// y = (A + I)·t for each sequence [starts[s], starts[s + 1]) of rows so wide, A = relu(a·tᵀ) with rows divided by
/// their sums, which are kept: sums [rows]. A row without a positive product has zeros. `causal`: row i sees rows up to
/// its own. `starts` lies on the host.
template <Backend B, Real T>
void relu_attention(B, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a, const T* t,
                    T* y, T* sums);
/// Gradients of the above from dy.
template <Backend B, Real T>
void relu_attention_backward(B, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a,
                             const T* t, const T* y, const T* sums, const T* dy, T* da, T* dt);

}  // namespace meft
