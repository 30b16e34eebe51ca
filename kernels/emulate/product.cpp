// Owns: the matrix product behind the cuBLASLt stand-in.
#include "product.hpp"

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "engine.hpp"
#include "include/cuda_bf16.h"
#include "memory.hpp"
#include "runtime.hpp"

namespace emulate {
namespace {

float to_tf32(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7F800000u) == 0x7F800000u) return x;
  return std::bit_cast<float>((u + 0xFFFu + (u >> 13 & 1u)) & ~0x1FFFu);  // 10 bits of mantissa, half to even
}

template <class S>
S load(std::uint32_t type, const void* from, std::uint64_t i) {
  if (type == CUDA_R_16BF) return static_cast<S>(static_cast<float>(static_cast<const __nv_bfloat16*>(from)[i]));
  if (type == CUDA_R_32F) return static_cast<S>(static_cast<const float*>(from)[i]);
  return static_cast<S>(static_cast<const double*>(from)[i]);
}
template <class S>
void store(std::uint32_t type, void* to, std::uint64_t i, S value) {
  if (type == CUDA_R_16BF) static_cast<__nv_bfloat16*>(to)[i] = __nv_bfloat16(static_cast<float>(value));
  else if (type == CUDA_R_32F) static_cast<float*>(to)[i] = static_cast<float>(value);
  else static_cast<double*>(to)[i] = static_cast<double>(value);
}

/// tanh as the device's instruction gives it, to 11 bits (PTX ISA, tanh.approx.f32).
float short_tanh(float x) {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::tanh(x)) & ~std::uint32_t{0xFFF});
}
double short_tanh(double x) { return std::tanh(x); }

/// While it lives, sums are cut off, not rounded, as those of bf16 products are on tensor cores.
class CutOff {
 public:
  explicit CutOff(bool on) : before_(std::fegetround()) {
    if (on) std::fesetround(FE_TOWARDZERO);
  }
  ~CutOff() { std::fesetround(before_); }
  CutOff(const CutOff&) = delete;
  CutOff& operator=(const CutOff&) = delete;

 private:
  int before_;
};

/// Where element (row, col) of batch 0 lies.
std::uint64_t at(const Layout& x, std::uint64_t row, std::uint64_t col) {
  const auto ld = static_cast<std::uint64_t>(x.ld);
  return x.order == CUBLASLT_ORDER_COL ? row + col * ld : row * ld + col;
}

constexpr std::uint64_t tile_rows = 16, tile_cols = 4;

template <class S>
struct Call {
  Problem problem;
  S alpha, beta;
  const void *a, *b, *c;
  void* d;
  int parts;
  S* partial;

  S element(std::uint32_t type, const void* from, std::uint64_t i) const {
    const S x = load<S>(type, from, i);
    if constexpr (std::is_same_v<S, float>) {
      if (problem.desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32) return to_tf32(x);
      if (problem.desc.compute == CUBLAS_COMPUTE_32F_FAST_16BF) return static_cast<float>(__nv_bfloat16(x));
    }
    return x;
  }

  void finish(std::uint64_t batch, std::uint64_t row, std::uint64_t col, S sum) const {
    const Problem& p = problem;
    S y = alpha * sum;
    if (beta != S(0)) {
      const std::uint64_t i = batch * static_cast<std::uint64_t>(p.c.batch_stride) + at(p.c, row, col);
      y += beta * load<S>(p.c.type, c, i);
    }
    if (p.with_bias())
      y += load<S>(p.bias_type, p.desc.bias, batch * static_cast<std::uint64_t>(p.desc.bias_stride) + row);
    if (p.desc.epilogue & CUBLASLT_EPILOGUE_RELU) y = y > S(0) || y != y ? y : S(0);
    if (p.with_aux()) store(p.d.type, p.desc.aux, row + col * static_cast<std::uint64_t>(p.desc.aux_ld), y);
    if (p.desc.epilogue & CUBLASLT_EPILOGUE_GELU)  // the tanh form
      y = S(0.5) * y * (S(1) + short_tanh(S(0.7978845608028654) * (y + S(0.044715) * y * y * y)));
    store(p.d.type, d, batch * static_cast<std::uint64_t>(p.d.batch_stride) + at(p.d, row, col), y);
  }

  /// Rows [row, row + tile_rows) of one batch, for all columns: op(A) packed once, then op(B) four columns at a time.
  void strip(std::uint64_t batch, std::uint64_t row) const {
    const Problem& p = problem;
    const std::uint64_t rows = std::min(tile_rows, p.m - row);
    std::vector<S> left(p.k * tile_rows, S(0)), right(p.k * tile_cols);
    const bool ta = p.desc.trans_a != CUBLAS_OP_N, tb = p.desc.trans_b != CUBLAS_OP_N;
    const std::uint64_t a0 = batch * static_cast<std::uint64_t>(p.a.batch_stride);
    const std::uint64_t b0 = batch * static_cast<std::uint64_t>(p.b.batch_stride);
    for (std::uint64_t i = 0; i < rows; ++i)
      for (std::uint64_t l = 0; l < p.k; ++l)
        left[l * tile_rows + i] = element(p.a.type, a, a0 + (ta ? at(p.a, l, row + i) : at(p.a, row + i, l)));
    for (std::uint64_t col = 0; col < p.n; col += tile_cols) {
      const std::uint64_t cols = std::min(tile_cols, p.n - col);
      for (std::uint64_t j = 0; j < tile_cols; ++j)
        for (std::uint64_t l = 0; l < p.k; ++l)
          right[l * tile_cols + j] =
              j < cols ? element(p.b.type, b, b0 + (tb ? at(p.b, col + j, l) : at(p.b, l, col + j))) : S(0);
      for (int part = 0; part < parts; ++part) {
        const std::uint64_t from = p.k * static_cast<std::uint64_t>(part) / static_cast<std::uint64_t>(parts);
        const std::uint64_t to = p.k * static_cast<std::uint64_t>(part + 1) / static_cast<std::uint64_t>(parts);
        S sums[tile_cols][tile_rows] = {};
        {
          const CutOff cut(p.a.type == CUDA_R_16BF);
          multiply(&left[0], &right[0], from, to, sums);
        }
        for (std::uint64_t j = 0; j < cols; ++j)
          for (std::uint64_t i = 0; i < rows; ++i) {
            S sum = sums[j][i];
            S* kept = partial ? partial + (batch * p.n + col + j) * p.m + row + i : nullptr;
            if (kept) sum = *kept = part ? *kept + sum : sum;
            if (part + 1 == parts) finish(batch, row + i, col + j, sum);
          }
      }
    }
  }

  static void multiply(const S* left, const S* right, std::uint64_t from, std::uint64_t to,
                       S (&sums)[tile_cols][tile_rows]) {
    constexpr std::size_t lanes = 16 / sizeof(S);
    typedef S Vector __attribute__((vector_size(16)));
    constexpr std::size_t vectors = tile_rows / lanes / 2;  // half of the rows at a time: what fits the registers
    for (std::size_t half = 0; half < 2; ++half) {
      Vector sum[tile_cols][vectors] = {};
      for (std::uint64_t l = from; l < to; ++l) {
        Vector column[vectors];
        std::memcpy(column, left + l * tile_rows + half * tile_rows / 2, sizeof column);
        for (std::size_t j = 0; j < tile_cols; ++j)
          for (std::size_t v = 0; v < vectors; ++v) sum[j][v] += column[v] * right[l * tile_cols + j];
      }
      for (std::size_t j = 0; j < tile_cols; ++j) std::memcpy(sums[j] + half * tile_rows / 2, sum[j], sizeof sum[j]);
    }
  }

  /// Its bytes and operations are counted, and its result is zero.
  void run_counted() const {
    const Problem& p = problem;
    const auto batch = static_cast<std::uint64_t>(p.d.batch);
    const std::uint64_t results = p.m * p.n * batch * size_of(p.d.type);
    Tally c{1, (p.m * p.k + p.k * p.n) * batch * size_of(p.a.type), results,
            2.0 * static_cast<double>(p.m * p.n) * static_cast<double>(p.k * batch)};
    if (beta != S(0)) c.read += results;
    if (p.with_aux()) c.written += results;
    count("product", c);
    for (std::uint64_t i = 0; i < batch * p.d.majors(); ++i) {
      const std::uint64_t major = i % p.d.majors(), minors = p.d.minors() * size_of(p.d.type);
      const std::uint64_t from =
          i / p.d.majors() * static_cast<std::uint64_t>(p.d.batch_stride) + major * static_cast<std::uint64_t>(p.d.ld);
      if (beta == S(0)) std::memset(static_cast<char*>(d) + from * size_of(p.d.type), 0, minors);
      if (p.with_aux())
        std::memset(
            static_cast<char*>(p.desc.aux) + major * static_cast<std::uint64_t>(p.desc.aux_ld) * size_of(p.d.type), 0,
            minors);
    }
  }

  void run() const {
    if (counting()) return run_counted();
    const std::uint64_t strips = (problem.m + tile_rows - 1) / tile_rows;
    share(strips * static_cast<std::uint64_t>(problem.d.batch), problem.n * problem.k >= 4096,
          [&](std::uint64_t i) { strip(i / strips, i % strips * tile_rows); });
    // Nothing may rely on what a workspace holds afterwards.
    if (partial) std::memset(partial, poison_byte, problem.partial_bytes());
  }
};

template <class S>
void run(const Problem& problem, const void* alpha, const void* beta, const void* a, const void* b, const void* c,
         void* d, int parts, void* workspace, cudaStream_t stream) {
  const Call<S> call{problem,
                     *static_cast<const S*>(alpha),
                     *static_cast<const S*>(beta),
                     a,
                     b,
                     c,
                     d,
                     parts,
                     parts > 1 ? static_cast<S*>(workspace) : nullptr};
  touch_device(
      stream, [call] { call.run(); }, true);
}

}  // namespace

void multiply(const Problem& problem, const void* alpha, const void* beta, const void* a, const void* b, const void* c,
              void* d, int parts, void* workspace, cudaStream_t stream) {
  if (problem.wide()) run<double>(problem, alpha, beta, a, b, c, d, parts, workspace, stream);
  else run<float>(problem, alpha, beta, a, b, c, d, parts, workspace, stream);
}

}  // namespace emulate
