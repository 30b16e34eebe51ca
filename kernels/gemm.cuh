// Owns: how a product is given to cuBLASLt. It thinks by columns, so a row-major C = A·B is handed over as Cᵀ = Bᵀ·Aᵀ.
#pragma once

#include <cublasLt.h>

#include <meft/backend/product.hpp>

namespace meft::cuda {

/// What is done to a sum before it is written.
enum class Epilogue { none, relu, gelu_tanh };

/// C[rows, columns] = A·B + start, row-major, operands of one type.
struct Multiplication {
  cudaDataType operands, result;  // a result in bf16 has no bias and starts at zero
  Index rows, columns, depth;
  Strided<std::byte> a, b;  // steps in elements
  void* c;
  Index ldc;
  bool accumulate;
  const void* bias;  // one element a column, or null; not with double
  Index batch = 1;   // so many A, B and C follow each other
  Epilogue epilogue = Epilogue::none;
  void* before = nullptr;  // with gelu_tanh: its argument, as C
};

/// Enqueues it. Sums are in double where the result is, else in float. The algorithm of a shape is chosen once and
/// kept, so that the same product has the same bits whenever it is run on addresses that are aligned alike, up to 16
/// bytes. Another epilogue or type of the result may have other bits. False, with nothing done, where no algorithm has
/// the epilogue.
bool multiply(const Multiplication& m);

/// The epilogue for f, where this device is to use it. Before architecture 9.0 NVIDIA's kernels are slower with it than
/// a kernel of its own (measured for llm.c, github.com/karpathy/llm.c/pull/338, which fuses from 9.0 on).
Epilogue epilogue_for(Activation f);

/// The elements of a matrix of another type.
template <class T>
Strided<std::byte> bytes_of(const Strided<T>& x) {
  return {reinterpret_cast<const std::byte*>(x.data), x.row, x.column};
}

}  // namespace meft::cuda
