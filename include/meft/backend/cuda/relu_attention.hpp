// Owns: the declarations of attention by positive products of rows on CUDA; weights never exist whole.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// `starts` lies on the host; everything else on the device.
template <Real T>
void relu_attention(Cuda, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a, const T* t,
                    T* y, T* sums);
template <Real T>
void relu_attention_backward(Cuda, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a,
                             const T* t, const T* y, const T* sums, const T* dy, T* da, T* dt);

}  // namespace meft
