// Owns: arrays rounded to bf16 and widened on the CPU.
#pragma once

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/bf16.hpp>

namespace meft {

inline void to_bf16(Cpu, Index n, const float* x, bf16* y) {
  for (Index i = 0; i < n; ++i) y[i] = bf16(x[i]);
}
inline void from_bf16(Cpu, Index n, const bf16* x, float* y) {
  for (Index i = 0; i < n; ++i) y[i] = static_cast<float>(x[i]);
}

}  // namespace meft
