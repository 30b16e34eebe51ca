// Owns: the calls of attention on tensor cores, and what they take.
#pragma once

#include <meft/backend/kernels/attention.hpp>

namespace meft::cuda::mma {

/// Whether the kernels take a call: operands in bf16, a head of at most 128. Everything else of a call they take.
bool takes(const AttentionSpec<float>& spec);

/// What include/meft/backend/kernels/attention.hpp declares: q, k, v, dout, the weights and the slopes are rounded to
/// bf16, sums are float. The backward pass needs a float for each row and head besides, and with a bias what a tile of
/// 64 queries adds to it.
void attention(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k, const float* v,
               float* out, float* lse);
void attention_backward(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k,
                        const float* v, const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv, float* dbias);

}  // namespace meft::cuda::mma
