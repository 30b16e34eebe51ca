// Owns: arrays rounded to bf16, and widened: include/meft/backend/kernels/bf16.hpp.
#include <convert.cuh>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/bf16.hpp>

namespace meft {

template <Backend B>
void to_bf16(B, Index n, const float* x, bf16* y) {
  cuda::round_to(n, x, y);
}
template <Backend B>
void from_bf16(B, Index n, const bf16* x, float* y) {
  cuda::round_to(n, x, y);
}

template void to_bf16(Cuda, Index, const float*, bf16*);
template void from_bf16(Cuda, Index, const bf16*, float*);

}  // namespace meft
