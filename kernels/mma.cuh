// Owns: matrices in the registers of a warp: products of bf16 on tensor cores with sums in float, and operands read
// from shared memory. All 32 lanes call together. A lane is 4·g + t: of a result, 16×8, it holds rows g and g + 8 at
// columns 2t and 2t + 1; of a left operand, 16×16, those rows at depths 2t, 2t + 1, then 8 further; of a right one,
// 16×8, column g at those depths. PTX ISA, "mma.m16n8k16" and "ldmatrix"; from sm_80 on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include <meft/base/scalar.hpp>

#ifndef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace meft::cuda::mma {

/// Two bf16, neighbours, the first in the lower half.
using Word = std::uint32_t;

/// Rounds to nearest, ties to even.
__device__ inline Word pack(float first, float second) {
#ifdef __CUDACC__
  Word out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  return out;
#else
  return __nv_bfloat16::rounded(first) | static_cast<Word>(__nv_bfloat16::rounded(second)) << 16;
#endif
}

/// c += a·b; elements of c: row g at columns 2t and 2t + 1, then row g + 8. Words of a: row g, row g + 8, then both 8
/// deeper.
__device__ inline void multiply(float (&c)[4], const Word (&a)[4], const Word (&b)[2]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulate::multiply({c, a, b});
#endif
}

/// Four 8×8 matrices from shared memory: lane 8·i + r gives row r of matrix i, 16 bytes, aligned to them. Word i of the
/// lane is row g of matrix i at columns 2t and 2t + 1; `turned`: column g at rows 2t and 2t + 1.
template <bool turned>
__device__ inline void load(Word (&to)[4], const bf16* row) {
#ifdef __CUDACC__
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (turned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#else
  emulate::load({row, to, turned});
#endif
}

}  // namespace meft::cuda::mma
