// Owns: the declaration of the matrix product on CUDA (cuBLASLt).
#pragma once

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// C = start + A·B. TF32 is off; the algorithm of a shape is chosen once a process.
template <Real T>
void gemm(Cuda, const Product<T>& p, Strided<T> b);

}  // namespace meft
