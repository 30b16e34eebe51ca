// Owns: the declarations of attention on ragged batches on CUDA; scores never exist whole.
#pragma once

#include <meft/backend/attention_spec.hpp>
#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// `span` lies on the host; everything else on the device. lse [query rows, heads]. The gradients of a key are added
/// over the heads that read it in ascending order.
template <Real T>
void attention(Cuda, const AttentionSpec<T>& spec, Index spans, const Span* span, const T* q, const T* k, const T* v,
               T* out, T* lse);
template <Real T>
void attention_backward(Cuda, const AttentionSpec<T>& spec, Index spans, const Span* span, const T* q, const T* k,
                        const T* v, const T* out, const T* lse, const T* dout, T* dq, T* dk, T* dv);

}  // namespace meft
