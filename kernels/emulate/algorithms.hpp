// Owns: which products the cuBLASLt stand-in serves, and by which algorithms: 1 sums over k in order; 2 sums 2 to 8
// parts of k in the workspace first, so that its bits differ.
#pragma once

#include <cstdint>
#include <vector>

#include "product.hpp"

struct cublasLtMatmulPreferenceOpaque_t {
  std::uint32_t search = 0;
  std::uint64_t workspace = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace emulate {

/// What cublasLtMatmulAlgo_t holds.
struct Algorithm {
  std::uint64_t magic;
  std::int32_t id, parts;
  std::uint32_t tile, reduction;
  std::uint32_t alignment[4];  // bytes that the addresses of A, B, C, D are multiples of
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

Algorithm unpack(const cublasLtMatmulAlgo_t& algo);
cublasLtMatmulAlgo_t pack(const Algorithm& algorithm);

/// The product of these arguments, or what cuBLASLt says of them.
cublasStatus_t examine(const Desc* desc, const Layout* a, const Layout* b, const Layout* c, const Layout* d,
                       Problem& out);
/// The workspace that the algorithm needs for the problem, or why it can't solve it.
cublasStatus_t check_algorithm(const Problem& p, const Algorithm& x, std::size_t& workspace);
/// The algorithms that solve the problem within the preference, the best first.
std::vector<cublasLtMatmulHeuristicResult_t> algorithms(const Problem& p,
                                                        const cublasLtMatmulPreferenceOpaque_t& preference);

}  // namespace emulate
