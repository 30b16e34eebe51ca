// Owns: attention as graphs for cuDNN, which it fuses into one kernel forward and a few backward, and where they run.
// Scores never exist whole. Operands in bf16, sums in float.
// https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html
#pragma once

#include <cstdint>
#include <string_view>

#include <cudnn.hpp>

#include <meft/backend/kernels/attention.hpp>

namespace meft::cuda::fused {

/// A batch of sequences whose rows are packed, as cuDNN sees it: `queries` and `keys` are the most that a sequence has.
/// A causal sequence has as many keys as queries, and query i sees keys up to i.
struct Shape {
  std::int64_t batch, heads, width, queries, keys;
  bool causal;
  auto operator<=>(const Shape&) const = default;
};

/// The support surface: packed sequences by ragged offsets, bf16, dropout 0, backward in a fixed order.
struct Supported {
  int architecture;         // compute capability · 10: from here to below the next line's
  std::size_t version;      // the oldest cuDNN that was seen to plan it, as cudnnGetVersion() has it
  std::int64_t forward;     // widest head; widths are multiples of 8
  std::int64_t backward;    // 0: not at all
  std::string_view source;  // where it says so
};
inline constexpr Supported supported[]{
    {0, 0, 0, 0, "Attention, Support Matrix: cuDNN's attention needs sm_80 or newer"},
    {80, 0, 0, 0, "cuDNN 9.18.1 on: no deterministic backward pass of packed sequences on sm_8x"},
    {90, 91900, 256, 256, "Attention, Support Matrix: Hopper, ragged, deterministic; cudnn_graphs_test"},
    {100, 0, 0, 0, "cuDNN 9.19: no deterministic backward pass of packed sequences by its heuristics"},
};

/// Whether cuDNN of a version runs both passes for a head on an architecture (80, 90, …).
constexpr bool runs(std::size_t version, int architecture, std::int64_t width) {
  const Supported* line = supported;
  for (const auto& next : supported)
    if (next.architecture <= architecture) line = &next;
  return version >= line->version && width % 8 == 0 && width <= line->forward && width <= line->backward;
}

/// The tensors of a graph that the caller gives, by the ids under which it does. Rows hold heads · width elements.
/// Offsets [batch + 1] count elements from the first row's beginning; lengths [batch] count rows.
enum Id : std::int64_t {
  q_offsets = 1,
  k_offsets,
  s_offsets,
  q_lengths,
  k_lengths,
  q,
  k,
  v,
  out,
  lse,
  scale,
  lowest,  // both
  dout,
  dq,
  dk,
  dv,
  row_sums,
  one  // backward
};

/// out = softmax(scale·q·kᵀ)·v; lse [rows, heads] in float is ln Σ exp of each row's scores.
dnn::Graph forward_graph(const Shape& shape);
/// The gradients. row_sums [batch, heads, queries] in float is the caller's to lend.
dnn::Graph backward_graph(const Shape& shape);

/// The workspace of a backward pass, which keeps a bf16 for each score to add in a fixed order, grows with the square
/// of a sequence: sequences go together while it is below the one, and a sequence above the other does not go at all.
inline constexpr std::size_t workspace_together = std::size_t{32} << 20, workspace_most = std::size_t{256} << 20;

/// What include/meft/backend/kernels/attention.hpp declares, where cuDNN has a plan on this device: bf16, no dropout,
/// no bias, as many heads of keys as of queries, a head of the support surface, sequences that follow each other, none
/// of them empty, and as many keys as queries where causal. False, to be done otherwise, elsewhere.
bool attention(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k, const float* v,
               float* out, float* lse);
bool attention_backward(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k,
                        const float* v, const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv);

}  // namespace meft::cuda::fused
