// Owns: runs of cuDNN's attention: plans, kept for each shape, and the tensors that they take.
#include <algorithm>
#include <convert.cuh>
#include <fused_attention.hpp>
#include <limits>
#include <mma_attention.hpp>
#include <optional>
#include <plans.hpp>
#include <spans.cuh>
#include <string>
#include <vector>

#include <meft/backend/cuda/tag.hpp>
#include <meft/base/bucket.hpp>
#include <meft/memory/buffer.hpp>

namespace meft::cuda::fused {

namespace {

/// The plan of a shape.
const dnn::Plan* plan_of(const Shape& shape, bool backward) {
  return dnn::plan_of(std::pair{shape, backward},
                      [=] { return backward ? backward_graph(shape) : forward_graph(shape); });
}

// Shapes are rounded up: few shapes, and so few plans.
/// Sequences: as many as there are in a batch that was filled up (nn/filled.hpp), else a power of two.
std::int64_t batch_of(Index n) {
  if (n % 4 == 0 && n == bucket(n, 4)) return n;
  std::int64_t out = 1;
  while (out < n) out *= 2;
  return out;
}
/// Of 128: before 9.26 a backward pass has NaN for extents of keys that are 64 more than such a multiple.
std::int64_t multiple(Index n) { return (n + 127) / 128 * 128; }

/// The shape of a call, where cuDNN takes it.
std::optional<Shape> shape_of(const AttentionSpec<float>& spec, const Spans& spans) {
  if (spec.precision != Precision::bf16 || spec.dropout != 0 || spec.group() != 1 || spec.window || spec.bias ||
      spans.count() == 0 || !runs(cudnnGetVersion(), architecture(), spec.width))
    return {};
  return settled(spans, [spec](const std::vector<Span>& list) -> std::optional<Shape> {
    Index rows = 0, queries = 0, keys = 0;
    Span before{};
    for (const Span& s : list) {
      if (s.queries == 0 || s.keys == 0 || (spec.causal && s.queries != s.keys)) return {};
      if (rows && (s.q != before.q + before.queries || s.k != before.k + before.keys)) return {};
      rows += std::max(s.queries, s.keys);
      queries = std::max(queries, s.queries);
      keys = std::max(keys, s.keys);
      before = s;
    }
    const auto count = static_cast<Index>(list.size()), batch = batch_of(count);
    if ((rows + batch - count) * spec.heads * spec.width > INT32_MAX) return {};
    return Shape{batch, spec.heads, spec.width, multiple(queries), multiple(keys), spec.causal};
  });
}

/// A call's shape and what both passes are given.
class Call {
 public:
  Call(const Shape& shape_, const AttentionSpec<float>& spec, const Spans& spans)
      : shape(shape_), scale_(spec.scale), use_(Use::workspace) {
    const auto batch = static_cast<std::size_t>(shape.batch), given = spans.list.size();
    const Index row = spec.heads * spec.width;
    first_q_ = spans.list[0].q, first_k_ = spans.list[0].k;
    for (const Span& s : spans.list) q_elements_ += s.queries * row, k_elements_ += s.keys * row;
    padding_ = static_cast<Index>(batch - given) * row;
    // q_offsets, k_offsets, s_offsets, q_lengths and k_lengths; each begins at a multiple of 16 bytes.
    const std::size_t each = (batch + 1 + 3) / 4 * 4;
    const auto fill = [=, heads = spec.heads](const std::vector<Span>& list, void* to) {
      auto *const q = static_cast<std::int32_t*>(to), *const k = q + each, *const s = k + each,
                  *const q_lengths = s + each, *const k_lengths = q_lengths + each;
      std::fill(q, k_lengths + each, 0);
      for (std::size_t i = 0; i < batch; ++i) {
        // Past the given ones, sequences of one row of zeros: before 9.25 cuDNN takes none without rows.
        const bool real = i < list.size();
        q_lengths[i] = real ? static_cast<std::int32_t>(list[i].queries) : 1;
        k_lengths[i] = real ? static_cast<std::int32_t>(list[i].keys) : 1;
        q[i + 1] = q[i] + static_cast<std::int32_t>(q_lengths[i] * row);
        k[i + 1] = k[i] + static_cast<std::int32_t>(k_lengths[i] * row);
        s[i + 1] = s[i] + static_cast<std::int32_t>(q_lengths[i] * heads);
      }
    };
    const std::string name = "fused " + std::to_string(batch) + " " + std::to_string(row) + " ";
    numbers_ = table(spans, name + std::to_string(spec.heads), 5 * each * sizeof(std::int32_t), fill);
    for (std::size_t i = 0; i < 5; ++i)
      give(static_cast<Id>(q_offsets + static_cast<int>(i)), static_cast<std::int32_t*>(numbers_.data()) + i * each);
    give(scale, &scale_);
    give(lowest, &lowest_);
  }

  void give(Id id, const void* data) {
    ids_.push_back(id);
    data_.push_back(const_cast<void*>(data));
  }
  /// The call's rows of queries, or of keys, rounded: to be, or already.
  void give_rounded(Id id, const float* x, bool keys, const bf16* rounded = nullptr) {
    if (rounded && !padding_) return give(id, rounded + before(keys));
    bf16* const to = room(id, keys);
    if (rounded) Cuda::copy(to, rounded + before(keys), static_cast<std::size_t>(elements(keys)) * sizeof(bf16));
    else round_to(elements(keys), x + before(keys), to);
    if (padding_) Cuda::zero(to + elements(keys), static_cast<std::size_t>(padding_) * sizeof(bf16));
  }
  /// Room for a result, which `take` gives back: where it is wanted rounded, if there are no rows that were added.
  bf16* room(Id id, bool keys, bf16* rounded = nullptr) {
    if (rounded && !padding_) {
      give(id, rounded + before(keys));
      return rounded + before(keys);
    }
    buffers_.push_back(Buffer(Cuda::pool(), static_cast<std::size_t>(elements(keys) + padding_) * sizeof(bf16)));
    give(id, buffers_.back().data());
    return static_cast<bf16*>(buffers_.back().data());
  }
  void take(const bf16* x, float* to, bool keys, bf16* rounded = nullptr) const {
    if (to) round_to(elements(keys), x, to + before(keys));
    if (rounded && x != rounded + before(keys))
      Cuda::copy(rounded + before(keys), x, static_cast<std::size_t>(elements(keys)) * sizeof(bf16));
  }
  /// lse of the call's first row on, to be read or to be written by `run`: by a copy where it begins elsewhere than at
  /// 16 bytes, as cuDNN wants tensors to, or has no room for rows that were added.
  void give_lse(const float* x, bool read) {
    float* const at = const_cast<float*>(x) + first_q_ * shape.heads;
    if (aligned(at) && !padding_) return give(lse, at);
    const std::size_t bytes = lse_bytes(), more = static_cast<std::size_t>(padding_ / shape.width) * sizeof(float);
    lse_copy_ = Buffer(Cuda::pool(), bytes + more);
    auto* const copy = static_cast<float*>(lse_copy_.data());
    give(lse, copy);
    if (!read) {
      lse_result_ = at;
      return;
    }
    Cuda::copy(copy, at, bytes);
    if (more) Cuda::zero(copy + bytes / sizeof(float), more);
  }

  void run(const dnn::Plan& plan) {
    const Buffer workspace(Cuda::pool(), std::max<std::size_t>(plan.workspace(), 1));
    plan.run(dnn::handle(), ids_, data_, workspace.data());
    if (lse_result_) Cuda::copy(lse_result_, lse_copy_.data(), lse_bytes());
  }

  const Shape shape;

 private:
  std::size_t lse_bytes() const { return static_cast<std::size_t>(q_elements_ / shape.width) * sizeof(float); }
  /// Of the rows that were given; there are `padding_` more in our own copies.
  Index elements(bool keys) const { return keys ? k_elements_ : q_elements_; }
  /// Elements before the call's first row.
  Index before(bool keys) const { return (keys ? first_k_ : first_q_) * shape.heads * shape.width; }

  float scale_, lowest_ = -std::numeric_limits<float>::infinity();
  UseScope use_;
  Index first_q_ = 0, first_k_ = 0, q_elements_ = 0, k_elements_ = 0, padding_ = 0;
  Buffer numbers_, lse_copy_;
  float* lse_result_ = nullptr;
  std::vector<Buffer> buffers_;
  std::vector<std::int64_t> ids_;
  std::vector<void*> data_;
};

}  // namespace

bool attention(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k, const float* v,
               float* out, float* lse) {
  const auto shape = shape_of(spec, spans);
  const auto* const plan = shape ? plan_of(*shape, false) : nullptr;
  if (!plan || plan->workspace() > workspace_most) return false;
  Call call(*shape, spec, spans);
  call.give_rounded(Id::q, q, false, spec.rounded.q);
  call.give_rounded(Id::k, k, true, spec.rounded.k);
  call.give_rounded(Id::v, v, true, spec.rounded.v);
  const bf16* const result = call.room(Id::out, false, spec.rounded.out);
  call.give_lse(lse, false);
  call.run(*plan);
  call.take(result, out, false, spec.rounded.out);
  return true;
}

bool attention_backward(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k,
                        const float* v, const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv) {
  const auto shape = shape_of(spec, spans);
  const auto* const plan = shape ? plan_of(*shape, true) : nullptr;
  if (!plan) return false;
  if (mma::takes(spec)) {  // as much as dq in float: more than that is for tensor cores of our own
    Index rows = 0;
    for (const Span& s : spans.list) rows += s.queries;
    if (plan->workspace() > static_cast<std::size_t>(rows * spec.row()) * sizeof(float)) return false;
  }
  if (plan->workspace() > workspace_together && spans.count() > 1) {
    const auto list = settled(spans, [](const std::vector<Span>& now) { return now; });
    const auto half = list.begin() + spans.count() / 2;
    const auto part = [&](auto begin, auto end) {
      return attention_backward(spec, std::vector<Span>(begin, end), q, k, v, out, lse, dout, dq, dk, dv);
    };
    return part(list.begin(), half) && part(half, list.end());
  }
  if (plan->workspace() > workspace_most) return false;
  Call call(*shape, spec, spans);
  call.give_rounded(Id::q, q, false, spec.rounded.q);
  call.give_rounded(Id::k, k, true, spec.rounded.k);
  call.give_rounded(Id::v, v, true, spec.rounded.v);
  call.give_rounded(Id::out, out, false);
  const auto& rounded = spec.rounded;
  call.give_rounded(Id::dout, dout, false, rounded.dout);
  call.give_lse(lse, true);
  const Buffer sums(Cuda::pool(),
                    static_cast<std::size_t>(shape->batch * shape->heads * shape->queries) * sizeof(float));
  call.give(Id::row_sums, sums.data());
  const float one = 1;
  call.give(Id::one, &one);
  const bf16 *const q_result = call.room(Id::dq, false, rounded.dq),
                    *const k_result = call.room(Id::dk, true, rounded.dk),
                    *const v_result = call.room(Id::dv, true, rounded.dv);
  call.run(*plan);
  call.take(q_result, dq, false, rounded.dq);
  call.take(k_result, dk, true, rounded.dk);
  call.take(v_result, dv, true, rounded.dv);
  return true;
}

}  // namespace meft::cuda::fused
