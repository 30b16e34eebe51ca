// Owns: the interface of attention on ragged batches, and how it is described. Scores never exist whole.
#pragma once

#include <array>
#include <functional>
#include <utility>
#include <vector>

#include <meft/backend/backend.hpp>
#include <meft/backend/product.hpp>
#include <meft/base/host_device.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// What of a call of attention is handed over rounded to bf16: q, k, v, dout, dq, dk and dv in place of those in T, out
/// beside that in T, or in place of it where it is null.
struct RoundedAttention {
  const bf16 *q = nullptr, *k = nullptr, *v = nullptr, *dout = nullptr;
  bf16 *out = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

/// How heads attend. Query i of a sequence stands at place p = i + (keys − queries). Where causal it sees the keys up
/// to p, of a `window` no more than the last so many of them; otherwise a window leaves the keys less than so far from
/// p.
template <class T>
struct AttentionSpec {
  Index heads, width;  // a row of queries holds heads · width elements
  bool causal = false;
  T scale = 1;
  float dropout =
      0;  // of the probabilities; element ((first_row + query row) · heads + head) · 2²⁴ + key is replayed from `key`
  Key key{};
  Index first_row = 0;
  Precision precision = Precision::f32;  // bf16: a backend that has such kernels rounds q, k, v and probabilities
  Index key_heads = 0;  // of keys and values, each read by as many neighbouring heads; a divisor of heads; 0: heads
  Index window = 0;     // 0: all keys
  const T* bias =
      nullptr;      // [heads, 2·reach + 1], or none: of relative position. Added to the scaled score of key j is
  Index reach = 0;  // that of its head and of the distance j − p, those beyond ± reach as at ± reach
  RoundedAttention rounded{};  // where attention_rounds

  /// How many heads read one of the keys'.
  MEFT_HD Index group() const { return key_heads ? heads / key_heads : 1; }
  /// Elements of a row of queries, and of keys or values.
  MEFT_HD Index row() const { return heads * width; }
  MEFT_HD Index key_row() const { return heads / group() * width; }
  /// Places of the bias for a head.
  MEFT_HD Index distances() const { return 2 * reach + 1; }
};

/// One sequence's rows of the packed queries and keys.
struct Span {
  Index q, queries, k, keys;
  friend bool operator==(const Span&, const Span&) = default;
};

/// The sequences of a call, on the host.
struct Spans {
  std::vector<Span> list;
  std::function<std::vector<Span>()> again{};  // what they are when recorded work is run again; empty: the same
  std::array<const void*, 2> whose{};          // tells those that follow one thing from those that follow another

  Spans(std::vector<Span> sequences) : list(std::move(sequences)) {}
  Index count() const { return static_cast<Index>(list.size()); }
};

/// out = softmax(scale · q·kᵀ)·v for each head of each span; lse [query rows, heads] keeps the log of the sums.
template <Backend B, Real T>
void attention(B, const AttentionSpec<T>& spec, const Spans& spans, const T* q, const T* k, const T* v, T* out, T* lse);
/// Gradients of the above from dout; every element of dq, dk and dv that belongs to a span is written. Those of a key
/// are added over the heads that read it, ascending. `dbias`, like the bias, where it is not null: Σ over all scores at
/// a distance; nothing as large as the scores is kept for it.
template <Backend B, Real T>
void attention_backward(B, const AttentionSpec<T>& spec, const Spans& spans, const T* q, const T* k, const T* v,
                        const T* out, const T* lse, const T* dout, T* dq, T* dk, T* dv, T* dbias);

/// Whether a device's kernels for such a spec take what it may say of `rounded`.
template <Backend B, Real T>
bool attention_rounds(B, const AttentionSpec<T>& spec);

}  // namespace meft
