// The cuBLASLt stand-in against plain loops over transposes, leading dimensions, orders, batches, types and epilogues;
// what it refuses; and that its algorithms differ in their bits, as those of the real one may.
#include <doctest/doctest.h>

#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cmath>
#include <cstring>
#include <emulate/emulate.hpp>
#include <string>
#include <type_traits>

#include "device_array.hpp"

namespace {

void ok(cublasStatus_t status) { REQUIRE(std::string(cublasLtGetStatusName(status)) == "CUBLAS_STATUS_SUCCESS"); }

struct Matrix {
  std::uint64_t rows, cols;
  std::int64_t ld;
  std::int32_t order = CUBLASLT_ORDER_COL, batch = 1;
  std::int64_t stride = 0;

  std::size_t at(std::size_t b, std::size_t i, std::size_t j) const {
    const auto step = static_cast<std::size_t>(ld);
    return b * static_cast<std::size_t>(stride) + (order == CUBLASLT_ORDER_COL ? i + j * step : i * step + j);
  }
  std::size_t size() const { return at(static_cast<std::size_t>(batch) - 1, rows - 1, cols - 1) + 1; }
};

template <class T>
constexpr cudaDataType type_of = std::is_same_v<T, double>  ? CUDA_R_64F
                                 : std::is_same_v<T, float> ? CUDA_R_32F
                                                            : CUDA_R_16BF;

template <class T>
std::vector<T> filled(std::size_t n, double phase) {
  std::vector<T> out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = T(static_cast<float>(std::sin(static_cast<double>(i) * 0.7 + phase)));
  return out;
}

/// The descriptors of one product, and their ends.
template <class In, class Out>
struct Product {
  using Scale = std::conditional_t<std::is_same_v<In, double>, double, float>;
  Matrix a, b, d;
  bool ta = false, tb = false;
  cublasComputeType_t compute = std::is_same_v<In, double> ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  Scale alpha = 1, beta = 0;
  std::int64_t aux_ld = 32;

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t la = nullptr, lb = nullptr, ld = nullptr;

  Product(Matrix a_, Matrix b_, Matrix d_, bool ta_, bool tb_) : a(a_), b(b_), d(d_), ta(ta_), tb(tb_) {}
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() {
    cublasLtMatrixLayoutDestroy(la);
    cublasLtMatrixLayoutDestroy(lb);
    cublasLtMatrixLayoutDestroy(ld);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
  }

  void make(const void* bias = nullptr, void* aux = nullptr) {
    ok(cublasLtCreate(&handle));
    ok(cublasLtMatmulDescCreate(&desc, compute, type_of<Scale>));
    const std::int32_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux));
    ok(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux_ld, sizeof aux_ld));
    layout(la, type_of<In>, a);
    layout(lb, type_of<In>, b);
    layout(ld, type_of<Out>, d);
  }
  static void layout(cublasLtMatrixLayout_t& to, cudaDataType type, const Matrix& m) {
    ok(cublasLtMatrixLayoutCreate(&to, type, m.rows, m.cols, m.ld));
    ok(cublasLtMatrixLayoutSetAttribute(to, CUBLASLT_MATRIX_LAYOUT_ORDER, &m.order, sizeof m.order));
    ok(cublasLtMatrixLayoutSetAttribute(to, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &m.batch, sizeof m.batch));
    ok(cublasLtMatrixLayoutSetAttribute(to, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m.stride, sizeof m.stride));
  }

  cublasStatus_t run(const void* pa, const void* pb, void* pd, const cublasLtMatmulAlgo_t* algo = nullptr,
                     void* workspace = nullptr, std::size_t bytes = 0) {
    return cublasLtMatmul(handle, desc, &alpha, pa, la, pb, lb, &beta, pd, ld, pd, ld, algo, workspace, bytes, nullptr);
  }

  /// The algorithms for a workspace of at most `bytes`.
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms(std::uint64_t bytes, std::uint32_t alignment = 256) {
    cublasLtMatmulPreference_t preference = nullptr;
    ok(cublasLtMatmulPreferenceCreate(&preference));
    ok(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                            sizeof bytes));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      ok(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment));
    std::vector<cublasLtMatmulHeuristicResult_t> out(8);
    int found = 0;
    ok(cublasLtMatmulAlgoGetHeuristic(handle, desc, la, lb, ld, ld, preference, 8, out.data(), &found));
    out.resize(static_cast<std::size_t>(found));
    ok(cublasLtMatmulPreferenceDestroy(preference));
    return out;
  }
};

/// The greatest difference to plain loops in double, relative to the sum of absolute terms.
template <class In, class Out>
double error_of(Product<In, Out>& p) {
  const auto a = filled<In>(p.a.size(), 0.1), b = filled<In>(p.b.size(), 1.2);
  const auto before = filled<Out>(p.d.size(), 2.3);
  const auto bias = filled<Out>(p.d.rows, 3.4);
  const DeviceArray<In> da(a), db(b);
  const bool with_aux = p.epilogue & 128;
  const auto aux_ld = static_cast<std::size_t>(p.aux_ld);
  const DeviceArray<Out> dd(before), dbias(bias), daux(with_aux ? aux_ld * p.d.cols : 1);
  p.make(p.epilogue & CUBLASLT_EPILOGUE_BIAS ? dbias.data() : nullptr, daux.data());
  ok(p.run(da.data(), db.data(), dd.data()));
  const auto got = dd.host(), aux = daux.host();
  const std::size_t k = p.ta ? p.a.rows : p.a.cols;
  std::vector<bool> written(got.size(), false);
  double worst = 0;
  for (std::size_t batch = 0; batch < static_cast<std::size_t>(p.d.batch); ++batch)
    for (std::size_t i = 0; i < p.d.rows; ++i)
      for (std::size_t j = 0; j < p.d.cols; ++j) {
        double y = 0, scale = 1;
        for (std::size_t l = 0; l < k; ++l) {
          const double x = static_cast<double>(static_cast<float>(a[p.ta ? p.a.at(batch, l, i) : p.a.at(batch, i, l)]));
          const double w = static_cast<double>(static_cast<float>(b[p.tb ? p.b.at(batch, j, l) : p.b.at(batch, l, j)]));
          y += x * w;
          scale += std::abs(x * w);
        }
        const std::size_t at = p.d.at(batch, i, j);
        y = static_cast<double>(p.alpha) * y +
            static_cast<double>(p.beta) * static_cast<double>(static_cast<float>(before[at]));
        if (p.epilogue & CUBLASLT_EPILOGUE_BIAS) y += static_cast<double>(static_cast<float>(bias[i]));
        if (p.epilogue & CUBLASLT_EPILOGUE_RELU) y = std::fmax(y, 0.0);
        const auto compare = [&](Out found) {
          worst = std::fmax(worst, std::abs(static_cast<double>(static_cast<float>(found)) - y) / scale);
        };
        if (with_aux) compare(aux[i + j * aux_ld]);
        if (p.epilogue & CUBLASLT_EPILOGUE_GELU)
          y = 0.5 * y * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (y + 0.044715 * y * y * y)));
        written[at] = true;
        compare(got[at]);
      }
  // What lies between the columns stays.
  std::size_t changed = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    changed += !written[i] && std::memcmp(&got[i], &before[i], sizeof(Out)) != 0;
  CHECK(changed == 0);
  return worst;
}

/// Checks all transposes, orders and batches of m × k by k × n.
template <class In, class Out>
void sweep(std::uint64_t m, std::uint64_t n, std::uint64_t k, double tolerance) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const std::int32_t order : {CUBLASLT_ORDER_COL, CUBLASLT_ORDER_ROW})
        for (const std::int32_t batch : {1, 3}) {
          const auto matrix = [&](std::uint64_t rows, std::uint64_t cols, std::int64_t gap) {
            const auto minors = static_cast<std::int64_t>(order == CUBLASLT_ORDER_COL ? rows : cols);
            const auto majors = static_cast<std::int64_t>(order == CUBLASLT_ORDER_COL ? cols : rows);
            return Matrix{rows, cols, minors + gap, order, batch, (minors + gap) * majors + 5};
          };
          Product<In, Out> p(ta ? matrix(k, m, 1) : matrix(m, k, 2), tb ? matrix(n, k, 3) : matrix(k, n, 0),
                             matrix(m, n, 4), ta, tb);
          p.alpha = 1.5;
          p.beta = batch == 1 ? 0 : 0.5;
          CAPTURE(ta);
          CAPTURE(tb);
          CAPTURE(order);
          CHECK(error_of(p) < tolerance);
        }
}

}  // namespace

TEST_CASE("products: transposes, leading dimensions, orders, batches") {
  sweep<float, float>(37, 21, 50, 1e-6);
  sweep<float, float>(1, 65, 3, 1e-6);
  sweep<double, double>(16, 4, 17, 1e-7);                 // the loops round their terms to float
  sweep<__nv_bfloat16, float>(33, 18, 40, 5e-6);          // sums of bf16 products are cut off
  sweep<__nv_bfloat16, __nv_bfloat16>(20, 30, 25, 6e-3);  // alpha · 2⁻⁸
}

TEST_CASE("epilogues") {
  for (const std::uint32_t epilogue :
       {CUBLASLT_EPILOGUE_RELU, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU,
        CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS}) {
    CAPTURE(epilogue);
    Product<float, float> p({30, 20, 30}, {20, 10, 20}, {30, 10, 32}, false, false);
    p.epilogue = epilogue;
    CHECK(error_of(p) < (epilogue & CUBLASLT_EPILOGUE_GELU ? 1e-3 : 1e-6));  // a tanh of 11 bits
    Product<__nv_bfloat16, __nv_bfloat16> q({30, 20, 30}, {20, 10, 20}, {30, 10, 32}, false, false);
    q.epilogue = epilogue;
    CHECK(error_of(q) < 5e-3);
  }
}

TEST_CASE("the auxiliary matrix of GELU: its leading dimension is a multiple of 8 and holds a column") {
  for (const std::int64_t aux_ld : {0, 24, 30}) {
    CAPTURE(aux_ld);
    Product<float, float> p({30, 20, 30}, {20, 10, 20}, {30, 10, 32}, false, false);
    p.epilogue = CUBLASLT_EPILOGUE_GELU_AUX;
    p.aux_ld = aux_ld;
    const DeviceArray<float> a(p.a.size()), b(p.b.size()), d(p.d.size()), aux(320);
    p.make(nullptr, aux.data());
    CHECK(p.run(a.data(), b.data(), d.data()) == CUBLAS_STATUS_INVALID_VALUE);
  }
}

TEST_CASE("TF32 and bf16 arithmetic lose digits only where they are asked for") {
  const auto error = [](cublasComputeType_t compute) {
    Product<float, float> p({64, 64, 64}, {64, 64, 64}, {64, 64, 64}, false, false);
    p.compute = compute;
    return error_of(p);
  };
  CHECK(error(CUBLAS_COMPUTE_32F) < 1e-6);
  CHECK(error(CUBLAS_COMPUTE_32F_FAST_TF32) > 1e-6);
  CHECK(error(CUBLAS_COMPUTE_32F_FAST_TF32) < 1e-3);
  CHECK(error(CUBLAS_COMPUTE_32F_FAST_16BF) > 1e-4);
  CHECK(error(CUBLAS_COMPUTE_32F_FAST_16BF) < 1e-2);
}

TEST_CASE("algorithms: the workspace decides which there are, each repeats its bits, and two differ") {
  Product<float, float> p({24, 3000, 24}, {3000, 8, 3000}, {24, 8, 24}, false, false);
  p.make();
  const DeviceArray<float> a(filled<float>(p.a.size(), 0.1)), b(filled<float>(p.b.size(), 0.2)), d(p.d.size());
  const std::size_t bytes = 1 << 20;
  const DeviceArray<char> workspace(bytes);
  CHECK(p.algorithms(0).size() == 1);
  const auto found = p.algorithms(bytes);
  REQUIRE(found.size() == 2);
  CHECK(found[0].workspaceSize == 24 * 8 * sizeof(float));
  CHECK(found[1].workspaceSize == 0);
  CHECK(p.algorithms(found[0].workspaceSize - 1).size() == 1);
  std::int32_t parts = 0;
  ok(cublasLtMatmulAlgoConfigGetAttribute(&found[0].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts,
                                          nullptr));
  CHECK(parts == 8);

  std::vector<std::vector<float>> results;
  for (const auto& result : found)
    for (const unsigned workers : {1u, 2u, 3u}) {
      emulate::set_workers(workers);
      ok(p.run(a.data(), b.data(), d.data(), &result.algo, workspace.data(), bytes));
      results.push_back(d.host());
    }
  emulate::set_workers(0);
  const auto same = [&](std::size_t i, std::size_t j) {
    return std::memcmp(results[i].data(), results[j].data(), results[i].size() * sizeof(float)) == 0;
  };
  CHECK(same(0, 1));
  CHECK(same(0, 2));
  CHECK(same(3, 4));
  CHECK(same(3, 5));
  CHECK(!same(0, 3));
  CHECK(p.run(a.data(), b.data(), d.data(), &found[0].algo, nullptr, 0) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(p.run(a.data(), b.data(), d.data(), &found[0].algo, workspace.data() + 1, bytes - 1) ==
        CUBLAS_STATUS_INVALID_VALUE);
  cublasLtMatmulHeuristicResult_t checked{};
  ok(cublasLtMatmulAlgoCheck(p.handle, p.desc, p.la, p.lb, p.ld, p.ld, &found[0].algo, &checked));
  CHECK(checked.workspaceSize == found[0].workspaceSize);
  const cublasLtMatmulAlgo_t nothing{};
  CHECK(p.run(a.data(), b.data(), d.data(), &nothing) == CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("what is refused") {
  using P = Product<float, float>;
  const DeviceArray<float> x(std::vector<float>(4096, 1.0f)), y(4096);
  const auto status = [&](Matrix a, Matrix b, Matrix d, const auto& change) {
    P p(a, b, d, false, false);
    change(p);
    p.make(p.epilogue & CUBLASLT_EPILOGUE_BIAS ? x.data() : nullptr);
    return p.run(x.data(), x.data(), y.data());
  };
  const auto none = [](P&) {};
  const Matrix square{8, 8, 8};
  CHECK(status(square, square, square, none) == CUBLAS_STATUS_SUCCESS);
  CHECK(status({8, 7, 8}, square, square, none) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(status(square, square, {8, 9, 8}, none) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(status({8, 8, 7}, square, square, none) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(status({8, 8, 8, CUBLASLT_ORDER_COL, 2, 64}, square, square, none) == CUBLAS_STATUS_INVALID_VALUE);
  const Matrix pair{8, 8, 8, CUBLASLT_ORDER_COL, 2, 64}, overlapping{8, 8, 8, CUBLASLT_ORDER_COL, 2, 63};
  CHECK(status(pair, pair, pair, none) == CUBLAS_STATUS_SUCCESS);
  CHECK(status(pair, pair, overlapping, none) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(status(square, square, {8, 8, 8, CUBLASLT_ORDER_ROW}, [](P& p) { p.epilogue = CUBLASLT_EPILOGUE_BIAS; }) ==
        CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(status(square, square, square, [](P& p) { p.epilogue = CUBLASLT_EPILOGUE_BGRADB; }) ==
        CUBLAS_STATUS_NOT_SUPPORTED);

  P p(square, square, square, false, false);
  p.make();
  // Sizes of attributes.
  const std::int64_t wide = 0;
  CHECK(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &wide, sizeof wide) ==
        CUBLAS_STATUS_INVALID_VALUE);
  CHECK(cublasLtMatrixLayoutSetAttribute(p.la, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &wide, sizeof wide) ==
        CUBLAS_STATUS_INVALID_VALUE);
  std::size_t needed = 0;
  ok(cublasLtMatrixLayoutGetAttribute(p.la, CUBLASLT_MATRIX_LAYOUT_LD, nullptr, 0, &needed));
  CHECK(needed == 8);
  // An algorithm that was promised aligned addresses, and one that was not.
  const auto promised = p.algorithms(0, 16), free = p.algorithms(0, 4);
  CHECK(p.run(x.data() + 1, x.data(), y.data(), &promised[0].algo) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(p.run(x.data() + 1, x.data(), y.data(), &free[0].algo) == CUBLAS_STATUS_SUCCESS);
  CHECK(p.run(reinterpret_cast<char*>(x.data()) + 2, x.data(), y.data()) == CUBLAS_STATUS_INVALID_VALUE);
  // Types that do not go together.
  Product<__nv_bfloat16, double> mixed(square, square, square, false, false);
  mixed.make();
  CHECK(mixed.run(x.data(), x.data(), y.data()) == CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_CASE("a product that leaves its memory") {
  {
    const DeviceArray<float> x(std::vector<float>(64, 1.0f)), y(63);
    Product<float, float> p({8, 8, 8}, {8, 8, 8}, {8, 8, 8}, false, false);
    p.make();
    CHECK(p.run(x.data(), x.data(), y.data()) == CUBLAS_STATUS_EXECUTION_FAILED);
    CHECK(std::string(cudaGetErrorString(cudaPeekAtLastError())).find("D of 256 bytes is out of bounds") !=
          std::string::npos);
  }
  cudaDeviceReset();
  const DeviceArray<float> y(64);
  std::vector<float> host(64, 1.0f);
  Product<float, float> p({8, 8, 8}, {8, 8, 8}, {8, 8, 8}, false, false);
  p.make();
  CHECK(p.run(host.data(), host.data(), y.data()) == CUBLAS_STATUS_EXECUTION_FAILED);
  CHECK(std::string(emulate::fault()).find("is not device memory") != std::string::npos);
  cudaDeviceReset();
}
