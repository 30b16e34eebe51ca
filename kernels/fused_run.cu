// Owns: runs of cuDNN's attention: plans, kept for each shape, and the tensors that they take.
#include <algorithm>
#include <convert.cuh>
#include <fused_attention.hpp>
#include <limits>
#include <map>
#include <vector>

#include <meft/backend/cuda/tag.hpp>
#include <meft/base/mutex.hpp>
#include <meft/memory/buffer.hpp>

namespace meft::cuda::fused {

namespace {

cudnnHandle_t handle() {
  static const cudnnHandle_t handle = [] {
    cudnnHandle_t made = nullptr;
    dnn::check(cudnnCreate(&made), "cudnnCreate");
    dnn::check(cudnnSetStream(made, stream()), "cudnnSetStream");
    return made;
  }();
  return handle;
}

/// The plan of a shape: made the first time, which takes cuDNN up to a second, and kept, so that forward and undo
/// agree.
const dnn::Plan& plan_of(const Shape& shape, bool backward) {
  static Mutex& mutex = *new Mutex;
  static auto& known = *new std::map<std::pair<Shape, bool>, dnn::Plan>;
  const Lock lock(mutex);
  if (const auto at = known.find({shape, backward}); at != known.end()) return at->second;
  auto graph = backward ? backward_graph(shape) : forward_graph(shape);
  return known.emplace(std::pair{shape, backward}, graph.plan(dnn::Device(handle()), true)).first->second;
}

// Shapes are rounded up: few shapes, and so few plans.
std::int64_t power_of_two(Index n) {
  std::int64_t out = 1;
  while (out < n) out *= 2;
  return out;
}
std::int64_t multiple(Index n) { return (n + 127) / 128 * 128; }

/// A call's shape and what both passes are given.
class Call {
 public:
  Call(const AttentionSpec<float>& spec, Index spans, const Span* span)
      : shape{power_of_two(spans), spec.heads, spec.width, 0, 0, spec.causal},
        scale_(spec.scale),
        use_(Use::workspace) {
    const auto batch = static_cast<std::size_t>(shape.batch), given = static_cast<std::size_t>(spans);
    std::vector<std::int32_t> q(batch + 1), k(batch + 1), s(batch + 1), q_lengths(batch), k_lengths(batch);
    const Index row = spec.heads * spec.width;
    first_q_ = span[0].q, first_k_ = span[0].k;
    for (std::size_t i = 0; i < batch; ++i) {  // past the given ones, sequences of no rows
      const bool real = i < given;
      q_lengths[i] = real ? static_cast<std::int32_t>(span[i].queries) : 0;
      k_lengths[i] = real ? static_cast<std::int32_t>(span[i].keys) : 0;
      q[i + 1] = q[i] + static_cast<std::int32_t>(q_lengths[i] * row);
      k[i + 1] = k[i] + static_cast<std::int32_t>(k_lengths[i] * row);
      s[i + 1] = s[i] + static_cast<std::int32_t>(q_lengths[i] * spec.heads);
      shape.queries = std::max<std::int64_t>(shape.queries, q_lengths[i]);
      shape.keys = std::max<std::int64_t>(shape.keys, k_lengths[i]);
    }
    shape.queries = multiple(shape.queries);
    shape.keys = multiple(shape.keys);
    q_elements_ = q.back();
    k_elements_ = k.back();
    std::vector<std::int32_t> all;
    std::vector<std::size_t> starts;
    // Each begins at a multiple of 16 bytes.
    for (const auto* list : {&q, &k, &s, &q_lengths, &k_lengths}) {
      starts.push_back(all.size());
      all.insert(all.end(), list->begin(), list->end());
      all.resize((all.size() + 3) / 4 * 4);
    }
    numbers_ = Buffer(Cuda::pool(), all.size() * sizeof(std::int32_t));
    Cuda::upload(numbers_.data(), all.data(), all.size() * sizeof(std::int32_t));
    for (std::size_t i = 0; i < starts.size(); ++i)
      give(static_cast<Id>(q_offsets + static_cast<int>(i)), static_cast<std::int32_t*>(numbers_.data()) + starts[i]);
    give(scale, &scale_);
    give(lowest, &lowest_);
  }

  void give(Id id, const void* data) {
    ids_.push_back(id);
    data_.push_back(const_cast<void*>(data));
  }
  /// The call's rows of queries, or of keys, rounded.
  void give_rounded(Id id, const float* x, bool keys) {
    bf16* const to = room(id, keys);
    round_to(elements(keys), x + before(keys), to);
  }
  /// Room for a result; `take` gives it back in float.
  bf16* room(Id id, bool keys) {
    buffers_.push_back(Buffer(Cuda::pool(), static_cast<std::size_t>(elements(keys)) * sizeof(bf16)));
    give(id, buffers_.back().data());
    return static_cast<bf16*>(buffers_.back().data());
  }
  void take(const bf16* x, float* to, bool keys) const { round_to(elements(keys), x, to + before(keys)); }
  /// lse of the call's first row on.
  void give_lse(const float* x) { give(lse, x + first_q_ * shape.heads); }

  void run(bool backward) {
    const auto& plan = plan_of(shape, backward);
    const Buffer workspace(Cuda::pool(), std::max<std::size_t>(plan.workspace(), 1));
    plan.run(handle(), ids_, data_, workspace.data());
  }

  Shape shape;

 private:
  Index elements(bool keys) const { return keys ? k_elements_ : q_elements_; }
  /// Elements before the call's first row.
  Index before(bool keys) const { return (keys ? first_k_ : first_q_) * shape.heads * shape.width; }

  float scale_, lowest_ = -std::numeric_limits<float>::infinity();
  UseScope use_;
  Index first_q_ = 0, first_k_ = 0, q_elements_ = 0, k_elements_ = 0;
  Buffer numbers_;
  std::vector<Buffer> buffers_;
  std::vector<std::int64_t> ids_;
  std::vector<void*> data_;
};

}  // namespace

bool takes(const AttentionSpec<float>& spec, Index spans, const Span* span) {
  if (spec.precision != Precision::bf16 || spec.dropout != 0 || spec.group() != 1 || spec.window || spec.bias ||
      spans == 0 || !runs(architecture(), spec.width))
    return false;
  Index rows = 0;
  for (Index i = 0; i < spans; ++i) {
    const Span& s = span[i];
    if (s.queries == 0 || s.keys == 0 || (spec.causal && s.queries != s.keys)) return false;
    if (i && (s.q != span[i - 1].q + span[i - 1].queries || s.k != span[i - 1].k + span[i - 1].keys)) return false;
    rows += std::max(s.queries, s.keys);
  }
  return rows * spec.heads * spec.width <= INT32_MAX;
}

void attention(const AttentionSpec<float>& spec, Index spans, const Span* span, const float* q, const float* k,
               const float* v, float* out, float* lse) {
  Call call(spec, spans, span);
  call.give_rounded(Id::q, q, false);
  call.give_rounded(Id::k, k, true);
  call.give_rounded(Id::v, v, true);
  const bf16* const result = call.room(Id::out, false);
  call.give_lse(lse);
  call.run(false);
  call.take(result, out, false);
}

void attention_backward(const AttentionSpec<float>& spec, Index spans, const Span* span, const float* q, const float* k,
                        const float* v, const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv) {
  Call call(spec, spans, span);
  call.give_rounded(Id::q, q, false);
  call.give_rounded(Id::k, k, true);
  call.give_rounded(Id::v, v, true);
  call.give_rounded(Id::out, out, false);
  call.give_rounded(Id::dout, dout, false);
  call.give_lse(lse);
  const auto& s = call.shape;
  const Buffer sums(Cuda::pool(), static_cast<std::size_t>(s.batch * s.heads * s.queries) * sizeof(float));
  call.give(Id::row_sums, sums.data());
  const float one = 1;
  call.give(Id::one, &one);
  const bf16 *const q_result = call.room(Id::dq, false), *const k_result = call.room(Id::dk, true),
                    *const v_result = call.room(Id::dv, true);
  call.run(true);
  call.take(q_result, dq, false);
  call.take(k_result, dk, true);
  call.take(v_result, dv, true);
}

}  // namespace meft::cuda::fused
