// Owns: the interface of a constant right operand of products, laid out once.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// A constant matrix W[out, in], in T or in bf16 (both operands are rounded, sums are in T): every backend has its
/// own, with
///   Panels(const T* w, Index out, Index in, Precision)      W is copied; default-made it is empty
///   precision(), bytes()                                    how it is kept, what it takes
///   forward(const Product<T>& p)                            C[rows, out] = start + A[rows, in]·Wᵀ
///   forward_activated(Activation f, const Product<T>& p, T* before)   C = f(start + A·Wᵀ), as gemm_activated
///   backward(const Product<T>& p)                           C[rows, in] = start + A[rows, out]·W
///   unpack(T* w)                                            the matrix as it is kept, row-major
///   rows(Index n, const std::int32_t* numbers, T* y)        rows of it by their numbers. y [n, in]
///   write(Index n, const std::int32_t* indices, const T* v)  its row-major element indices[m] becomes v[m], as it is
///                                                           kept; null: v is all of them. Copies see it too
///   Panels(Blocks, Precision)                               W stays in its blocks, which are decoded on the way and
///                                                           cannot be written to
/// and of a device, of A rounded and to C rounded, each false, with nothing done, where it has no kernel for it,
///   forward_rounded(const Product<T>& p)                    C = start + A·Wᵀ
///   activated(Activation f, const Product<T>& p, T* before) C = f(start + A·Wᵀ), and what f was given in `before`
///                                                           where its derivative reads that
///   slope(Activation f, const Product<T>& p, const void* kept)   C = (A·W)·f', from what f was given, in T, or from
///                                                           its result, rounded, as the derivative reads them
/// and of a host
///   blocks(), fuses()                                       the latter: whether p.rounded is taken, `gradient` takes B
///                                                           rounded, and there are the last two
///   gradient(Index rows, const T* a, const T* b, T* c)      C[out, in] = A[rows, out]ᵀ·B[rows, in], in W's arithmetic
///   forward_ended(const Product<T>& p, const E&... ends)    what C = start + A·Wᵀ becomes, each an Ended; p.c is null
///   backward_ended(const Product<T>& p, const E&... ends)   the same of C = A·W
/// Rows of A are contiguous.
template <Backend B, Real T>
class Panels;

}  // namespace meft
