// Owns: the interface of matrix products.
#pragma once

#include <meft/backend/backend.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// C[m, n] = start + A[m, k] · B[k, n]. One stride of A and of B is 1. Errors: none; shapes are the caller's.
template <Backend B, Real T>
void gemm(B, const Product<T>& p, Strided<T> b);

/// C = f(start + A·B) in the product itself, what f was given in `before` [rows, columns] where its derivative reads
/// that. False, with nothing done, where the backend leaves f to a map after the product.
template <Backend B, Real T>
bool gemm_activated(B, Activation f, const Product<T>& p, Strided<T> b, T* before);

}  // namespace meft
