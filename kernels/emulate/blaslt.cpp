// Owns: the calls of the cuBLASLt stand-in, written from cuBLASLt's documentation: attributes, addresses and bounds.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstring>
#include <vector>

#include "algorithms.hpp"
#include "memory.hpp"
#include "runtime.hpp"

struct cublasLtContext {};

namespace emulate {
namespace {

/// Elements from the first to one past the last, over all batches.
std::uint64_t extent(const Layout& x) {
  return static_cast<std::uint64_t>(x.batch - 1) * static_cast<std::uint64_t>(x.batch_stride) +
         (x.majors() - 1) * static_cast<std::uint64_t>(x.ld) + x.minors();
}

// --- attributes ---

template <class T>
cublasStatus_t put(T& to, const void* value, std::size_t bytes) {
  if (!value || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, sizeof to);
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t get(const T& from, void* value, std::size_t bytes, std::size_t* written) {
  if (!bytes) {
    if (!written) return CUBLAS_STATUS_INVALID_VALUE;
    *written = sizeof from;
    return CUBLAS_STATUS_SUCCESS;
  }
  if (!value || bytes != sizeof from) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, &from, sizeof from);
  if (written) *written = sizeof from;
  return CUBLAS_STATUS_SUCCESS;
}

/// Calls visit(member) for the attribute's member.
template <class X, class Visit>
cublasStatus_t with(X& x, cublasLtMatrixLayoutAttribute_t attribute, const Visit& visit) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return visit(x.type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return visit(x.order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return visit(x.rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return visit(x.cols);
    case CUBLASLT_MATRIX_LAYOUT_LD: return visit(x.ld);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return visit(x.batch);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return visit(x.batch_stride);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
template <class X, class Visit>
cublasStatus_t with(X& x, cublasLtMatmulDescAttributes_t attribute, const Visit& visit) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return visit(x.compute);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return visit(x.scale);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return visit(x.pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA: return visit(x.trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return visit(x.trans_b);
    case CUBLASLT_MATMUL_DESC_TRANSC: return visit(x.trans_c);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return visit(x.epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return visit(x.bias);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return visit(x.bias_stride);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return visit(x.aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return visit(x.aux_ld);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return visit(x.bias_type);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
template <class X, class Visit>
cublasStatus_t with(X& x, cublasLtMatmulPreferenceAttributes_t attribute, const Visit& visit) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE: return visit(x.search);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return visit(x.workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return visit(x.reductions);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return visit(x.alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return visit(x.alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return visit(x.alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return visit(x.alignment[3]);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

template <class X, class Attribute>
cublasStatus_t set(X* x, Attribute attribute, const void* value, std::size_t bytes) {
  if (!x) return CUBLAS_STATUS_INVALID_VALUE;
  return with(*x, attribute, [&](auto& member) { return put(member, value, bytes); });
}
template <class X, class Attribute>
cublasStatus_t read(const X* x, Attribute attribute, void* value, std::size_t bytes, std::size_t* written) {
  if (!x) return CUBLAS_STATUS_INVALID_VALUE;
  return with(*x, attribute, [&](const auto& member) { return get(member, value, bytes, written); });
}

std::atomic<std::uint64_t> asked{0};

bool aligned(const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

/// Whether [data, data + bytes) is device memory; if not, what a device would run into.
bool in_device(const char* name, const void* data, std::size_t bytes) {
  if (is_device_range(data, bytes)) return true;
  char text[512], where[384];
  const char* last = static_cast<const char*>(data) + (bytes ? bytes - 1 : 0);
  describe_address(is_device_range(data, 1) ? last : data, where, sizeof where);
  std::snprintf(text, sizeof text, "cublasLtMatmul: %s of %zu bytes is out of bounds: %s", name, bytes, where);
  raise_fault(cudaErrorIllegalAddress, text);
  return false;
}

}  // namespace

std::uint64_t heuristics_asked() { return asked; }

}  // namespace emulate

using namespace emulate;

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "the GPU program failed to execute";
    default: return cublasLtGetStatusName(status);
  }
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t ld) {
  if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = new Layout{static_cast<std::uint32_t>(type), rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                std::size_t bytes) {
  return set(layout, attribute, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, void* value,
                                                std::size_t bytes, std::size_t* written) {
  return read(layout, attribute, value, bytes, written);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  if (!desc) return CUBLAS_STATUS_INVALID_VALUE;
  *desc = new Desc{compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  return set(desc, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
  return set(preference, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* returned) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!preference || requested < 1 || !results || !returned) return CUBLAS_STATUS_INVALID_VALUE;
  ++asked;
  if (capturing()) return CUBLAS_STATUS_INTERNAL_ERROR;  // seen of CUDA 13.3
  *returned = 0;
  Problem problem;
  if (const cublasStatus_t status = examine(desc, a, b, c, d, problem); status != CUBLAS_STATUS_SUCCESS) return status;
  const auto found = algorithms(problem, *preference);
  for (; *returned < requested && *returned < static_cast<int>(found.size()); ++*returned)
    results[*returned] = found[static_cast<std::size_t>(*returned)];
  return *returned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!algo || !result) return CUBLAS_STATUS_INVALID_VALUE;
  Problem problem;
  if (const cublasStatus_t status = examine(desc, a, b, c, d, problem); status != CUBLAS_STATUS_SUCCESS) return status;
  *result = {*algo, 0, CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  return result->state = check_algorithm(problem, unpack(*algo), result->workspaceSize);
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    std::size_t bytes, std::size_t* written) {
  if (!algo) return CUBLAS_STATUS_INVALID_VALUE;
  const Algorithm x = unpack(*algo);
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID: return get(x.id, value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_TILE_ID: return get(x.tile, value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM: return get(x.parts, value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME: return get(x.reduction, value, bytes, written);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!alpha || !beta || !a || !b || !c || !d || is_device_address(alpha) || is_device_address(beta))
    return CUBLAS_STATUS_INVALID_VALUE;
  Problem p;
  if (const cublasStatus_t status = examine(desc, a_layout, b_layout, c_layout, d_layout, p);
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  if (p.with_bias() && !p.desc.bias) return CUBLAS_STATUS_INVALID_VALUE;
  if (p.with_aux() && (!p.desc.aux || !aligned(p.desc.aux, 16))) return CUBLAS_STATUS_INVALID_VALUE;
  if (c == d && p.c != p.d) return CUBLAS_STATUS_INVALID_VALUE;  // in place only with one layout
  if (workspace_bytes && (!workspace || !aligned(workspace, 256))) return CUBLAS_STATUS_INVALID_VALUE;

  const void* addresses[] = {a, b, c, d};
  const Layout* layouts[] = {&p.a, &p.b, &p.c, &p.d};
  const char* names[] = {"A", "B", "C", "D"};
  Algorithm chosen{};
  if (algo) {
    chosen = unpack(*algo);
  } else {
    cublasLtMatmulPreferenceOpaque_t preference;
    preference.workspace = workspace_bytes;
    for (int i = 0; i < 4; ++i)
      preference.alignment[i] = static_cast<std::uint32_t>(std::min<std::uintptr_t>(
          256, std::uintptr_t{1} << std::countr_zero(reinterpret_cast<std::uintptr_t>(addresses[i]) | 256)));
    const auto found = algorithms(p, preference);
    if (found.empty()) return CUBLAS_STATUS_NOT_SUPPORTED;
    chosen = unpack(found.front().algo);
  }
  std::size_t needed = 0;
  if (const cublasStatus_t status = check_algorithm(p, chosen, needed); status != CUBLAS_STATUS_SUCCESS) return status;
  if (needed > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  for (int i = 0; i < 4; ++i) {
    if (!aligned(addresses[i], size_of(layouts[i]->type))) return CUBLAS_STATUS_INVALID_VALUE;
    if (!aligned(addresses[i], chosen.alignment[i])) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  // Nobody asks for the alignment of the bias, and a device's kernels fault: "misaligned address".
  if (p.with_bias() && !aligned(p.desc.bias, 16)) return CUBLAS_STATUS_INVALID_VALUE;

  bool in_bounds = true;
  const bool reads_c = p.wide() ? *static_cast<const double*>(beta) != 0 : *static_cast<const float*>(beta) != 0;
  for (int i = 0; i < 4 && in_bounds; ++i)
    if (i != 2 || reads_c)
      in_bounds = in_device(names[i], addresses[i], extent(*layouts[i]) * size_of(layouts[i]->type));
  if (in_bounds && p.with_bias())
    in_bounds =
        in_device("the bias", p.desc.bias,
                  (static_cast<std::uint64_t>(p.d.batch - 1) * static_cast<std::uint64_t>(p.desc.bias_stride) + p.m) *
                      size_of(p.bias_type));
  if (in_bounds && p.with_aux())
    in_bounds = in_device("the auxiliary matrix", p.desc.aux,
                          ((p.n - 1) * static_cast<std::uint64_t>(p.desc.aux_ld) + p.m) * size_of(p.d.type));
  if (in_bounds && needed) in_bounds = in_device("the workspace", workspace, workspace_bytes);
  if (!in_bounds) return CUBLAS_STATUS_EXECUTION_FAILED;

  multiply(p, alpha, beta, a, b, c, d, chosen.parts, workspace, stream);
  return cudaPeekAtLastError() == cudaErrorIllegalAddress ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
