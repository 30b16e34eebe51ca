// Owns: the declarations of reductions and of what works row by row on CUDA: sums, softmax, layer norm. Elements are
// added in a fixed order.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// x [outer, n, inner] → out [outer, inner].
template <Real T>
void sum(Cuda, Index outer, Index n, Index inner, const T* x, T* out);
/// out[o, i, j] = x[o, j].
template <Real T>
void repeat(Cuda, Index outer, Index n, Index inner, const T* x, T* out);
/// The largest of [outer, n, inner] over n and where it first stands; a NaN wins.
template <Real T>
void max(Cuda, Index outer, Index n, Index inner, const T* x, T* out, std::int32_t* at);
template <Real T>
void max_backward(Cuda, Index outer, Index n, Index inner, const T* dy, const std::int32_t* at, T* dx);

/// Over rows of n elements; y and dx may be the input.
template <Real T>
void softmax(Cuda, Index rows, Index n, const T* x, T* y, bool logarithm);
template <Real T>
void softmax_backward(Cuda, Index rows, Index n, const T* y, const T* dy, T* dx, bool logarithm);

/// Without `mean` RMS norm; `beta` may be null.
template <Real T>
void layer_norm(Cuda, Index rows, Index n, const T* x, const T* gamma, const T* beta, T epsilon, T* y, T* mean,
                T* rstd);
template <Real T>
void layer_norm_backward(Cuda, Index rows, Index n, const T* x, const T* gamma, const T* mean, const T* rstd,
                         const T* dy, T* dx);
/// Either of dgamma and dbeta may be null.
template <Real T>
void layer_norm_weights(Cuda, Index rows, Index n, const T* x, const T* mean, const T* rstd, const T* dy, T* dgamma,
                        T* dbeta);

}  // namespace meft
