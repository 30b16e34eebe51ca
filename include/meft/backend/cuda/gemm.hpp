// Owns: the declaration of the matrix product on CUDA (cuBLASLt).
#pragma once

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// C = start + A·B. TF32 is off; the algorithm of a shape is chosen once a process.
template <Real T>
void gemm(Cuda, const Product<T>& p, Strided<T> b);

/// C = f(start + A·B) in the product itself, what f was given in `before` [rows, columns] where its derivative reads
/// that. False, with nothing done, where cuBLASLt does not do it, which has ReLU and tanh's GELU, in float, or is not
/// asked to: before architecture 9.0.
template <Real T>
bool gemm_activated(Cuda, Activation f, const Product<T>& p, Strided<T> b, T* before);

}  // namespace meft
