// Owns: matrix products by cuBLASLt: include/meft/backend/kernels/gemm.hpp and gemm.cuh.
#include <algorithm>
#include <array>
#include <cstdint>
#include <gemm.cuh>
#include <map>
#include <optional>
#include <string>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/mutex.hpp>
#include <meft/memory/buffer.hpp>
#include <recorder.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr std::size_t most_workspace = std::size_t{32} << 20;

void check(cublasStatus_t status, const char* call, Where where = Where::current()) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  throw Error(std::string("cuda: ") + call + ": " + cublasLtGetStatusName(status) + " (" +
                  std::to_string(static_cast<int>(status)) + "): " + cublasLtGetStatusString(status),
              where);
}

/// A handle of cuBLASLt, destroyed with its owner.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() { destroy(handle_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
void set(const Description& to, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(to.get(), attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set(const Preference& to, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(to.get(), attribute, &value, sizeof value),
        "cublasLtMatmulPreferenceSetAttribute");
}

template <class T>
void set(const Layout& to, cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
  check(cublasLtMatrixLayoutSetAttribute(to.get(), attribute, &value, sizeof value),
        "cublasLtMatrixLayoutSetAttribute");
}

cublasLtHandle_t handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cublasLtCreate");
    return made;
  }();
  return handle;
}

/// A row-major operand [rows, columns] as cuBLASLt reads it: the matrix [columns, rows] by columns, or its transpose.
struct Operand {
  Operand(Index rows, Index columns, Strided<std::byte> x) : data(x.data) {
    if (x.column == 1 || columns == 1) {
      transposed = false;
      minor = columns, major = rows, step = x.row;
    } else if (x.row == 1 || rows == 1) {
      transposed = true;
      minor = rows, major = columns, step = x.column;
    } else fail("gemm: neither rows nor columns of an operand are contiguous", x.row, x.column);
    if (major == 1) step = std::max(step, minor);
    require(step >= minor, "gemm: rows of an operand overlap", step, minor);
  }
  const void* data;
  bool transposed;
  Index minor, major, step;
};

/// The largest power of two up to 16, the most that a kernel asks for, of which the address, and the bytes from one
/// matrix of a batch to the next, are multiples.
std::uint32_t alignment(const void* at, std::size_t apart) {
  std::uint32_t bytes = 16;
  while ((reinterpret_cast<std::uintptr_t>(at) | apart) % bytes) bytes /= 2;
  return bytes;
}

/// What decides the algorithm.
using Key = std::array<std::int64_t, 17>;

struct Chosen {
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace;
};

/// The epilogue's number; 0 for none.
std::uint32_t epilogue_of(const Multiplication& m) {
  const std::uint32_t bias = m.bias ? CUBLASLT_EPILOGUE_BIAS : 0;
  switch (m.epilogue) {
    case Epilogue::none: return bias;
    case Epilogue::relu: return bias | CUBLASLT_EPILOGUE_RELU;
    case Epilogue::gelu_tanh: return bias | CUBLASLT_EPILOGUE_GELU_AUX;
  }
  return bias;
}

void describe(Layout& layout, cudaDataType type, const Operand& x, Index batch) {
  check(cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<std::uint64_t>(x.minor),
                                   static_cast<std::uint64_t>(x.major), x.step),
        "cublasLtMatrixLayoutCreate");
  if (batch == 1) return;
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, std::int64_t{x.step * x.major});
}

/// A product as cuBLASLt is told of it.
struct Call {
  explicit Call(const Multiplication& m)
      : wide(m.result == CUDA_R_64F),
        first(m.depth, m.columns, m.b),  // Bᵀ, Aᵀ
        second(m.rows, m.depth, m.a),
        result(m.rows, m.columns, {static_cast<const std::byte*>(m.c), m.ldc, 1}),
        epilogue(epilogue_of(m)) {
    check(cublasLtMatmulDescCreate(product.out(), wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                   wide ? CUDA_R_64F : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set(product, CUBLASLT_MATMUL_DESC_TRANSA, static_cast<std::int32_t>(first.transposed ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(product, CUBLASLT_MATMUL_DESC_TRANSB, static_cast<std::int32_t>(second.transposed ? CUBLAS_OP_T : CUBLAS_OP_N));
    if (epilogue) set(product, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (m.bias) set(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, m.bias);
    if (m.epilogue == Epilogue::gelu_tanh) {
      set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, m.before);
      set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{m.ldc});
    }
    describe(layout_first, m.operands, first, m.batch);
    describe(layout_second, m.operands, second, m.batch);
    describe(layout_result, m.result, result, m.batch);
    const auto aligned_to = [&](const Operand& x, cudaDataType type) {
      const Index bytes = type == CUDA_R_16BF ? 2 : type == CUDA_R_32F ? 4 : 8;
      return alignment(x.data, m.batch == 1 ? 0 : static_cast<std::size_t>(x.step * x.major * bytes));
    };
    aligned = {aligned_to(first, m.operands), aligned_to(second, m.operands), aligned_to(result, m.result)};
    key = {m.operands,
           m.result,
           m.rows,
           m.columns,
           m.depth,
           m.batch,
           first.transposed,
           first.step,
           second.transposed,
           second.step,
           m.ldc,
           epilogue,
           aligned[0],
           aligned[1],
           aligned[2],
           alignment(m.bias, 0),
           alignment(m.before, 0)};
  }

  bool wide;
  Operand first, second, result;
  std::uint32_t epilogue;
  Description product;
  Layout layout_first, layout_second, layout_result;
  std::array<std::uint32_t, 3> aligned;
  Key key;
};

/// The algorithms that were chosen; none where a product that is not needed has none.
struct Algorithms {
  Mutex mutex;
  std::map<Key, std::optional<Chosen>> known{};

  const std::optional<Chosen>* find(const Key& key) {
    const Lock lock(mutex);
    const auto at = known.find(key);
    return at == known.end() ? nullptr : &at->second;
  }
  /// From the heuristic, which is not asked while work is recorded: in CUDA 13.3 it fails then
  /// (github.com/mudler/vllm.cpp/issues/1732).
  const std::optional<Chosen>& choose(const Call& c) {
    const Lock lock(mutex);
    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.out()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{most_workspace});
    // Parts of a sum may be kept apart in the workspace, but not be added in the order in which they arrive.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, c.aligned[0]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, c.aligned[1]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c.aligned[2]);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c.aligned[2]);
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const auto result = c.layout_result.get();
    auto status = cublasLtMatmulAlgoGetHeuristic(handle(), c.product.get(), c.layout_first.get(), c.layout_second.get(),
                                                 result, result, preference.get(), 1, &best, &found);
    if (status == CUBLAS_STATUS_SUCCESS) status = found ? best.state : CUBLAS_STATUS_NOT_SUPPORTED;
    if (c.epilogue && (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE))
      return known[c.key] = std::nullopt;
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    return known[c.key] = Chosen{best.algo, best.workspaceSize};
  }
};

/// C = bias, then C += A·B: where no product has the bias. False where more than a bias is wanted.
bool multiply_apart(const Multiplication& m) {
  if (m.epilogue != Epilogue::none) return false;
  copy_rows(Cuda{}, m.rows, m.columns, static_cast<const float*>(m.bias), 0, static_cast<float*>(m.c), m.ldc);
  auto plain = m;
  plain.bias = nullptr;
  plain.accumulate = true;
  return multiply(plain);
}

}  // namespace

Epilogue epilogue_for(Activation f) {
  if (architecture() < 90) return Epilogue::none;
  return f == Activation::relu ? Epilogue::relu : f == Activation::gelu_tanh ? Epilogue::gelu_tanh : Epilogue::none;
}

bool multiply(const Multiplication& m) {
  // How the bias is aligned the heuristic is to see by its address; yet kernels read 16 bytes of it at a time where
  // they may not (github.com/pytorch/pytorch/pull/194497).
  if (m.bias && alignment(m.bias, 0) < 16) return multiply_apart(m);
  if (m.epilogue == Epilogue::gelu_tanh && (m.ldc % 8 || alignment(m.before, 0) < 16)) return false;
  static Algorithms& algorithms = *new Algorithms;
  const Call call(m);
  const auto* chosen = algorithms.find(call.key);
  if (!chosen) {
    if (later([m] { algorithms.choose(Call(m)); })) return true;
    chosen = &algorithms.choose(call);
  }
  if (!*chosen) return multiply_apart(m);
  const UseScope use(Use::workspace);
  Buffer workspace;
  if ((*chosen)->workspace) workspace = Buffer(Cuda::pool(), (*chosen)->workspace);
  const float one = 1, beta = m.accumulate ? 1.0f : 0.0f;
  const double wide_one = 1, wide_beta = beta;
  const auto result = call.layout_result.get();
  check(cublasLtMatmul(handle(), call.product.get(), call.wide ? static_cast<const void*>(&wide_one) : &one,
                       call.first.data, call.layout_first.get(), call.second.data, call.layout_second.get(),
                       call.wide ? static_cast<const void*>(&wide_beta) : &beta, m.c, result, m.c, result,
                       &(*chosen)->algorithm, workspace.data(), (*chosen)->workspace, stream()),
        "cublasLtMatmul");
  return true;
}

}  // namespace cuda

template <Backend B, Real T>
void gemm(B, const Product<T>& p, Strided<T> b) {
  if (p.rows == 0 || p.columns == 0 || p.batch == 0) return;
  require(p.batch == 1 || (p.start != Start::bias && p.ldc == p.columns), "gemm: a batch has no bias and no gaps",
          p.batch);
  constexpr bool wide = sizeof(T) == 8;
  const bool fill = p.start == Start::bias && (wide || p.depth == 0);  // no epilogue in double
  if (fill) copy_rows(Cuda{}, p.rows, p.columns, p.bias, 0, p.c, p.ldc);
  if (p.depth == 0) {
    if (p.start == Start::zero)
      for (Index i = 0; i < p.batch * p.rows; ++i)
        Cuda::zero(p.c + i * p.ldc, static_cast<std::size_t>(p.columns) * sizeof(T));
    return;
  }
  const cudaDataType type = wide ? CUDA_R_64F : CUDA_R_32F;
  cuda::multiply(cuda::Multiplication{type, type, p.rows, p.columns, p.depth, cuda::bytes_of(p.a), cuda::bytes_of(b),
                                      p.c, p.ldc, fill || p.start == Start::accumulate,
                                      p.start == Start::bias && !fill ? p.bias : nullptr, p.batch});
}

template <Backend B, Real T>
bool gemm_activated(B, Activation f, const Product<T>& p, Strided<T> b, T* before) {
  const auto epilogue = cuda::epilogue_for(f);
  if (sizeof(T) == 8 || epilogue == cuda::Epilogue::none || p.start == Start::accumulate || p.batch != 1 ||
      p.rows == 0 || p.columns == 0 || p.depth == 0)
    return false;
  return cuda::multiply(cuda::Multiplication{CUDA_R_32F, CUDA_R_32F, p.rows, p.columns, p.depth, cuda::bytes_of(p.a),
                                             cuda::bytes_of(b), p.c, p.ldc, false, p.bias, 1, epilogue, before});
}

template void gemm(Cuda, const Product<float>&, Strided<float>);
template void gemm(Cuda, const Product<double>&, Strided<double>);
template bool gemm_activated(Cuda, Activation, const Product<float>&, Strided<float>, float*);
template bool gemm_activated(Cuda, Activation, const Product<double>&, Strided<double>, double*);

}  // namespace meft
