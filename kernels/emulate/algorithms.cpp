// Owns: the checks of a product's arguments, written from cuBLASLt's documentation and stricter where that is silent
// (empty matrices, epilogues on D by rows), and the algorithms.
#include "algorithms.hpp"

#include <algorithm>
#include <cstring>

namespace emulate {
namespace {

constexpr std::uint64_t algorithm_magic = 0x6d65667400000000ull;

int split(const Problem& p) { return p.k >= 2048 ? 8 : p.k >= 256 ? 4 : p.k >= 16 ? 2 : 1; }

}  // namespace

Algorithm unpack(const cublasLtMatmulAlgo_t& algo) {
  Algorithm out{};
  std::memcpy(&out, algo.data, sizeof out);
  return out;
}
cublasLtMatmulAlgo_t pack(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t out{};
  std::memcpy(out.data, &algorithm, sizeof algorithm);
  return out;
}

cublasStatus_t examine(const Desc* desc, const Layout* a, const Layout* b, const Layout* c, const Layout* d,
                       Problem& out) {
  if (!desc || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
  for (const Layout* x : {a, b, c, d}) {
    if (!size_of(x->type) || !x->rows || !x->cols || x->batch < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (x->order != CUBLASLT_ORDER_COL && x->order != CUBLASLT_ORDER_ROW) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (x->ld < static_cast<std::int64_t>(x->minors())) return CUBLAS_STATUS_INVALID_VALUE;
    if (x->batch != d->batch || x->batch_stride < 0) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool ta = desc->trans_a != CUBLAS_OP_N, tb = desc->trans_b != CUBLAS_OP_N;
  const std::uint64_t m = ta ? a->cols : a->rows, k = ta ? a->rows : a->cols;
  const std::uint64_t k2 = tb ? b->cols : b->rows, n = tb ? b->rows : b->cols;
  if (k != k2 || d->rows != m || d->cols != n || c->rows != m || c->cols != n) return CUBLAS_STATUS_INVALID_VALUE;
  // Results of two batches must not overlap.
  if (d->batch > 1 &&
      d->batch_stride < static_cast<std::int64_t>((d->majors() - 1) * static_cast<std::uint64_t>(d->ld) + d->minors()))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (desc->trans_c != CUBLAS_OP_N || desc->pointer_mode != CUBLASLT_POINTER_MODE_HOST)
    return CUBLAS_STATUS_NOT_SUPPORTED;

  // The table of types under cublasLtMatmul().
  std::uint32_t bias_type = 0;
  switch (desc->compute) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
      if (desc->scale != CUDA_R_32F || a->type != b->type || c->type != d->type) return CUBLAS_STATUS_NOT_SUPPORTED;
      if (a->type == CUDA_R_16BF && (d->type == CUDA_R_16BF || d->type == CUDA_R_32F)) bias_type = d->type;
      else if (a->type == CUDA_R_32F && d->type == CUDA_R_32F) bias_type = CUDA_R_32F;
      else return CUBLAS_STATUS_NOT_SUPPORTED;
      break;
    case CUBLAS_COMPUTE_32F_FAST_16BF:
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      for (const Layout* x : {a, b, c, d})
        if (x->type != CUDA_R_32F || desc->scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
      bias_type = CUDA_R_32F;
      break;
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC:
      for (const Layout* x : {a, b, c, d})
        if (x->type != CUDA_R_64F || desc->scale != CUDA_R_64F) return CUBLAS_STATUS_NOT_SUPPORTED;
      bias_type = CUDA_R_64F;
      break;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  switch (desc->epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT: break;
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
      if (bias_type == CUDA_R_64F) return CUBLAS_STATUS_NOT_SUPPORTED;
      [[fallthrough]];
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_BIAS:
      if (d->order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
      break;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (c->order != d->order) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (desc->bias_type != -1 && (desc->epilogue & CUBLASLT_EPILOGUE_BIAS) &&
      desc->bias_type != static_cast<std::int32_t>(bias_type))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  out = {*desc, *a, *b, *c, *d, m, n, k, bias_type};
  if (out.with_aux() && (d->batch != 1 || desc->aux_ld % 8 || desc->aux_ld < static_cast<std::int64_t>(m)))
    return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_algorithm(const Problem& p, const Algorithm& x, std::size_t& workspace) {
  if (x.magic != algorithm_magic || (x.id != 1 && x.id != 2) || x.parts < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (x.id == 1 && x.parts != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (static_cast<std::uint64_t>(x.parts) > p.k) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (x.parts > 1 && x.reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return CUBLAS_STATUS_NOT_SUPPORTED;
  workspace = x.parts > 1 ? p.partial_bytes() : 0;
  return CUBLAS_STATUS_SUCCESS;
}

std::vector<cublasLtMatmulHeuristicResult_t> algorithms(const Problem& p,
                                                        const cublasLtMatmulPreferenceOpaque_t& preference) {
  std::vector<cublasLtMatmulHeuristicResult_t> out;
  if (p.with_bias() && p.m % 2) return out;  // an odd shape has no algorithm with a bias: a device may have none either
  Algorithm plain{algorithm_magic, 1, 1, 0, CUBLASLT_REDUCTION_SCHEME_NONE, {}};
  // What an algorithm asks of its addresses is at most 16 bytes, or less where the caller promises less.
  for (int i = 0; i < 4; ++i) plain.alignment[i] = std::min<std::uint32_t>(preference.alignment[i], 16);
  const auto add = [&](const Algorithm& x) {
    std::size_t workspace = 0;
    if (check_algorithm(p, x, workspace) != CUBLAS_STATUS_SUCCESS || workspace > preference.workspace) return;
    out.push_back({pack(x), workspace, CUBLAS_STATUS_SUCCESS, 1.0f, {}});
  };
  Algorithm parts = plain;
  parts.id = 2;
  parts.parts = split(p);
  parts.reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const bool may_split = parts.parts > 1 && (preference.reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  // Few results and a long sum are what splitting is for. An activation, addresses that are aligned to less than 16
  // bytes, and half of all shapes turn it round: a device's heuristic goes by them too, so nothing may rely on equal
  // bits beside them, or of a part of the rows or columns.
  const bool narrow = std::any_of(plain.alignment, plain.alignment + 4, [](std::uint32_t bytes) { return bytes < 16; });
  const bool activates = p.desc.epilogue & (CUBLASLT_EPILOGUE_RELU | CUBLASLT_EPILOGUE_GELU);
  const bool turned = ((p.m / 8) ^ (p.n / 8)) & 1;
  const bool split_first = may_split && (p.k > p.m && p.k > p.n) != ((activates != narrow) != turned);
  if (split_first) add(parts);
  add(plain);
  if (may_split && !split_first) add(parts);
  return out;
}

}  // namespace emulate
