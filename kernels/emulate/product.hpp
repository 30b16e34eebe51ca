// Owns: what a matrix product of the cuBLASLt stand-in is, once its arguments were found to hold together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "include/cublasLt.h"

struct cublasLtMatrixLayoutOpaque_t {
  std::uint32_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;
  std::int32_t order = CUBLASLT_ORDER_COL, batch = 1;
  std::int64_t batch_stride = 0;

  bool operator==(const cublasLtMatrixLayoutOpaque_t&) const = default;
  std::uint64_t minors() const { return order == CUBLASLT_ORDER_COL ? rows : cols; }
  std::uint64_t majors() const { return order == CUBLASLT_ORDER_COL ? cols : rows; }
};
struct cublasLtMatmulDescOpaque_t {
  std::int32_t compute, scale;
  std::int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  std::int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N, trans_c = CUBLAS_OP_N;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  std::int64_t bias_stride = 0;
  void* aux = nullptr;
  std::int64_t aux_ld = 0;
  std::int32_t bias_type = -1;  // as the documentation's table has it
};

namespace emulate {

using Layout = cublasLtMatrixLayoutOpaque_t;
using Desc = cublasLtMatmulDescOpaque_t;

/// Bytes of an element; 0 for a type that is not served.
inline std::size_t size_of(std::uint32_t type) {
  switch (type) {
    case CUDA_R_64F: return 8;
    case CUDA_R_32F: return 4;
    case CUDA_R_16BF:
    case CUDA_R_16F: return 2;
    default: return 0;
  }
}

/// A product whose arguments hold together.
struct Problem {
  Desc desc;
  Layout a, b, c, d;
  std::uint64_t m, n, k;
  std::uint32_t bias_type;

  bool with_bias() const { return (desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
  /// Whether GELU's argument is written to the auxiliary matrix, of D's type.
  bool with_aux() const { return (desc.epilogue & 128) != 0; }
  bool wide() const { return desc.scale == CUDA_R_64F; }
  /// Of a sum that is kept in the workspace.
  std::size_t partial_bytes() const { return m * n * static_cast<std::uint64_t>(d.batch) * (wide() ? 8 : 4); }
};

/// Enqueues D = epilogue(alpha · op(A) · op(B) + beta · C), k summed in so many parts; more than one are kept in the
/// workspace, of partial_bytes.
void multiply(const Problem& problem, const void* alpha, const void* beta, const void* a, const void* b, const void* c,
              void* d, int parts, void* workspace, cudaStream_t stream);

}  // namespace emulate
