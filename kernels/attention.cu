// Owns: attention on ragged batches, forward and backward, for any type and head up to 256 wide that a block's shared
// memory has room for (99 KiB, of sm_86, 89 and 120: backward up to 180):
// include/meft/backend/kernels/attention.hpp. Deterministic: dq goes by tiles of queries, dk and dv by tiles of keys,
// and nobody adds to another's sums. Masked scores weigh 0, whatever they are.
#include <attention.cuh>
#include <fused_attention.hpp>
#include <mma_attention.hpp>
#include <row.cuh>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace cuda {

namespace attend {

namespace {

/// drop[k]: what the weight of key first + k is multiplied by.
template <class T>
__device__ void drops(const Spec<T>& s, std::uint64_t first, T (&drop)[share<T>]) {
  const Key key = s.key.now();
  if (!s.keep.threshold) {
    for (T& x : drop) x = 1;
    return;
  }
  const auto block = dropout_block(key, first / dropout_block_size);
  const auto at = static_cast<unsigned>(first % dropout_block_size);
  for (unsigned k = 0; k < share<T>; ++k) drop[k] = s.keep(T(1), dropout_bits(block, at + k));
}

template <int most, class T>
__global__ void forward(Spec<T> s, const Task* tasks, const T* q, const T* k, const T* v, T* out, T* lse) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const auto [span, start] = tasks[blockIdx.x];
  if (start >= span.queries) return;
  const Index head = blockIdx.y, width = s.of.width, at = head * width, at_k = head / s.of.group() * width;
  const int mine = static_cast<int>(threadIdx.x) / mates, mate = static_cast<int>(threadIdx.x) % mates,
            first = mate * share<T>, step = static_cast<int>(width) + 1;
  T* const shared = dynamic_shared<T>();
  const Rows<T> queries{shared, step}, keys{queries.data + tile<T> * step, step},
      values{keys.data + tile<T> * step, step};
  Rows<T> weights{values.data + tile<T> * step, tile<T> + 1};

  const Index i = start + mine, row = span.q + i, seen = i < span.queries ? s.visible(span, i) : 0,
              unseen = s.outside(span, i);
  const Index last = start + tile<T> < span.queries ? start + tile<T> - 1 : span.queries - 1;
  load(s, q + at, s.of.row(), span.q + start, span.q + span.queries, queries);
  T sum[most / mates] = {}, top = lowest, total = 0;
  for (Index k0 = s.outside(span, start) / tile<T> * tile<T>, end = s.visible(span, last); k0 < end; k0 += tile<T>) {
    __syncthreads();
    load(s, k + at_k, s.of.key_row(), span.k + k0, span.k + span.keys, keys);
    load(s, v + at_k, s.of.key_row(), span.k + k0, span.k + span.keys, values);
    __syncthreads();
    T score[share<T>], drop[share<T>];
    products(width, queries, mine, keys, first, score);
    T high = top;
    for (int j = 0; j < share<T>; ++j) {
      const Index key = k0 + first + j;
      score[j] = key >= unseen && key < seen ? s.score(span, head, i, key, score[j]) : lowest;
      high = Larger{}(high, score[j]);
    }
    for (int d = 1; d < mates; d *= 2) {
      const T other = __shfl_xor_sync(whole, high, d);
      high = Larger{}(high, other);
    }
    const bool none = high == lowest;
    const T shrink = none ? T(1) : Exp{}(top - high);
    drops(s, s.bits_of(row, head) + static_cast<std::uint64_t>(k0 + first), drop);
    T part = 0;
    for (int j = 0; j < share<T>; ++j) {
      const T p = none ? T(0) : Exp{}(score[j] - high);
      part += p;
      weights.at(mine, first + j) = p * drop[j];
    }
    for (int d = 1; d < mates; d *= 2) part += __shfl_xor_sync(whole, part, d);
    total = total * shrink + part;
    top = high;
    for (T& x : sum) x *= shrink;
    __syncwarp();
    add_weighted<most>(width, weights, mine, values, mate, sum);
  }
  if (i >= span.queries) return;
  // A query that sees no key has the result 0; one whose scores are all -∞ has NaN.
  store<most>(width, mate, seen > unseen ? T(1) / total : T(0), sum, out + row * s.of.row() + at);
  if (mate == 0) lse[row * s.of.heads + head] = top + Log{}(total);
}

/// delta[row, head] = Σ out · dout of the head.
template <class T>
__global__ void inner_products(Index total, Index width, const T* out, const T* dout, T* delta) {
  for (Index i = cuda::first(); i < total; i += stride()) {
    T sum = 0;
    for (Index c = 0; c < width; ++c) sum += out[i * width + c] * dout[i * width + c];
    delta[i] = sum;
  }
}

template <int most, class T>
__global__ void backward_queries(Spec<T> s, const Task* tasks, const T* q, const T* k, const T* v, const T* lse,
                                 const T* delta, const T* dout, T* dq, T* dbias) {
  const auto [span, start] = tasks[blockIdx.x];
  if (start >= span.queries) return;
  const Index head = blockIdx.y, width = s.of.width, at = head * width, at_k = head / s.of.group() * width;
  const int mine = static_cast<int>(threadIdx.x) / mates, mate = static_cast<int>(threadIdx.x) % mates,
            first = mate * share<T>, step = static_cast<int>(width) + 1;
  T* const shared = dynamic_shared<T>();
  const Rows<T> queries{shared, step}, douts{queries.data + tile<T> * step, step},
      keys{douts.data + tile<T> * step, step}, values{keys.data + tile<T> * step, step};
  Rows<T> slopes{values.data + tile<T> * step, tile<T> + 1};

  const Index i = start + mine, row = span.q + i, seen = i < span.queries ? s.visible(span, i) : 0,
              unseen = s.outside(span, i);
  const Index last = start + tile<T> < span.queries ? start + tile<T> - 1 : span.queries - 1;
  const T shift = i < span.queries ? lse[row * s.of.heads + head] : T(0),
          less = i < span.queries ? delta[row * s.of.heads + head] : T(0);
  load(s, q + at, s.of.row(), span.q + start, span.q + span.queries, queries);
  load(s, dout + at, s.of.row(), span.q + start, span.q + span.queries, douts);
  T sum[most / mates] = {};
  for (Index k0 = s.outside(span, start) / tile<T> * tile<T>, end = s.visible(span, last); k0 < end; k0 += tile<T>) {
    __syncthreads();
    load(s, k + at_k, s.of.key_row(), span.k + k0, span.k + span.keys, keys);
    load(s, v + at_k, s.of.key_row(), span.k + k0, span.k + span.keys, values);
    __syncthreads();
    T score[share<T>], slope[share<T>], drop[share<T>];
    products(width, queries, mine, keys, first, score);
    products(width, douts, mine, values, first, slope);
    drops(s, s.bits_of(row, head) + static_cast<std::uint64_t>(k0 + first), drop);
    for (int j = 0; j < share<T>; ++j) {
      const Index key = k0 + first + j;
      const T p = key >= unseen && key < seen ? Exp{}(s.score(span, head, i, key, score[j]) - shift) : T(0);
      slopes.at(mine, first + j) = p * (slope[j] * drop[j] - less) * s.of.scale;
    }
    __syncwarp();
    add_weighted<most>(width, slopes, mine, keys, mate, sum);
    if (!dbias) continue;
    __syncthreads();
    add_diagonals(s, span, start, k0, tile<T>, tile<T>, slopes,
                  dbias + (blockIdx.x * s.of.heads + head) * s.of.distances());
  }
  if (i < span.queries) store<most>(width, mate, T(1), sum, dq + row * s.of.row() + at);
}

template <int most, class T>
__global__ void backward_keys(Spec<T> s, const Task* tasks, const T* q, const T* k, const T* v, const T* lse,
                              const T* delta, const T* dout, T* dk, T* dv) {
  const auto [span, start] = tasks[blockIdx.x];
  if (start >= span.keys) return;
  const Index width = s.of.width, at_k = blockIdx.y * width, leader = blockIdx.y * s.of.group();
  const int mine = static_cast<int>(threadIdx.x) / mates, mate = static_cast<int>(threadIdx.x) % mates,
            first = mate * share<T>, step = static_cast<int>(width) + 1;
  T* const shared = dynamic_shared<T>();
  const Rows<T> keys{shared, step}, values{keys.data + tile<T> * step, step},
      queries{values.data + tile<T> * step, step}, douts{queries.data + tile<T> * step, step};
  Rows<T> weights{douts.data + tile<T> * step, tile<T> + 1},
      slopes{weights.data + tile<T> * (tile<T> + 1), tile<T> + 1};

  const Index key = start + mine;
  const Key random = s.key.now();
  load(s, k + at_k, s.of.key_row(), span.k + start, span.k + span.keys, keys);
  load(s, v + at_k, s.of.key_row(), span.k + start, span.k + span.keys, values);
  T sum_k[most / mates] = {}, sum_v[most / mates] = {};
  for (Index head = leader; head < leader + s.of.group(); ++head)
    for (Index q0 = 0; q0 < span.queries; q0 += tile<T>) {
      const Index last = q0 + tile<T> < span.queries ? q0 + tile<T> - 1 : span.queries - 1;
      if (s.visible(span, last) <= start || s.outside(span, q0) >= start + tile<T>) continue;
      __syncthreads();
      load(s, q + head * width, s.of.row(), span.q + q0, span.q + span.queries, queries);
      load(s, dout + head * width, s.of.row(), span.q + q0, span.q + span.queries, douts);
      __syncthreads();
      T score[share<T>], slope[share<T>];
      products(width, keys, mine, queries, first, score);
      products(width, values, mine, douts, first, slope);
      for (int j = 0; j < share<T>; ++j) {
        const Index i = q0 + first + j, row = span.q + i;
        T weight = 0, d = 0;
        if (i < span.queries && key >= s.outside(span, i) && key < s.visible(span, i)) {
          const T p = Exp{}(s.score(span, head, i, key, score[j]) - lse[row * s.of.heads + head]);
          T drop = 1;
          if (s.keep.threshold)
            drop = s.keep(T(1), dropout_bits(random, s.bits_of(row, head) + static_cast<std::uint64_t>(key)));
          weight = p * drop;
          d = p * (slope[j] * drop - delta[row * s.of.heads + head]) * s.of.scale;
        }
        weights.at(mine, first + j) = weight;
        slopes.at(mine, first + j) = d;
      }
      __syncwarp();
      add_weighted<most>(width, weights, mine, douts, mate, sum_v);
      add_weighted<most>(width, slopes, mine, queries, mate, sum_k);
    }
  if (key >= span.keys) return;
  store<most>(width, mate, T(1), sum_k, dk + (span.k + key) * s.of.key_row() + at_k);
  store<most>(width, mate, T(1), sum_v, dv + (span.k + key) * s.of.key_row() + at_k);
}

/// Calls run.operator()<most>() with the least of 64, 128 and 256 that holds the head.
template <class Run>
void with_width(Index width, const Run& run) {
  if (width <= 64) run.template operator()<64>();
  else if (width <= 128) run.template operator()<128>();
  else run.template operator()<256>();
}

/// Bytes of `rows` tiles of a head's rows and `squares` tiles of scores; throws where a block of the device has less.
template <class T>
std::size_t shared_bytes(Index width, int rows, int squares) {
  const auto bytes = static_cast<std::size_t>(tile<T> * (rows * (width + 1) + squares * (tile<T> + 1))) * sizeof(T);
  int device = 0, most = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  if (bytes <= static_cast<std::size_t>(most)) return bytes;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  fail(
      "attention: this device's blocks have too little shared memory for a head: width, bytes wanted and found, device",
      width, bytes, most, std::string(properties.name));
}

}  // namespace

}  // namespace attend

}  // namespace cuda

template <Backend B, Real T>
void attention(B, const AttentionSpec<T>& spec, const Spans& spans, const T* q, const T* k, const T* v, T* out,
               T* lse) {
  if constexpr (sizeof(T) == 4) {
    if (cuda::fused::attention(spec, spans, q, k, v, out, lse)) return;
    if (cuda::mma::takes(spec)) return cuda::mma::attention(spec, spans, q, k, v, out, lse);
  }
  using namespace cuda::attend;
  const auto s = spec_of(spec);
  const Tasks tasks(tile<T>, spans, &Span::queries);
  if (!tasks.count()) return;
  with_width(spec.width, [&]<int most>() {
    cuda::launch(forward<most, T>, dim3(tasks.count(), static_cast<unsigned>(spec.heads)), tile<T> * mates,
                 shared_bytes<T>(spec.width, 3, 1), cuda::stream(), s, tasks.device(), q, k, v, out, lse);
  });
}

template <Backend B, Real T>
void attention_backward(B, const AttentionSpec<T>& spec, const Spans& spans, const T* q, const T* k, const T* v,
                        const T* out, const T* lse, const T* dout, T* dq, T* dk, T* dv, T* dbias) {
  if constexpr (sizeof(T) == 4) {
    if (cuda::fused::attention_backward(spec, spans, q, k, v, out, lse, dout, dq, dk, dv)) return;
    if (cuda::mma::takes(spec))
      return cuda::mma::attention_backward(spec, spans, q, k, v, out, lse, dout, dq, dk, dv, dbias);
  }
  using namespace cuda::attend;
  const auto s = spec_of(spec);
  const Tasks by_query(tile<T>, spans, &Span::queries), by_key(tile<T>, spans, &Span::keys);
  const Index rows = rows_of_queries(spans);
  const UseScope use(Use::workspace);
  const Buffer products(Cuda::pool(), static_cast<std::size_t>(rows * spec.heads) * sizeof(T));
  T* const delta = static_cast<T*>(products.data());
  const Index total = rows * spec.heads;
  if (total)
    cuda::launch(inner_products<T>, cuda::blocks(total), cuda::threads, 0, cuda::stream(), total, spec.width, out, dout,
                 delta);
  const auto heads = static_cast<unsigned>(spec.heads), key_heads = static_cast<unsigned>(spec.heads / spec.group());
  const T* const less = delta;
  const Index biases = dbias ? spec.heads * spec.distances() : 0;  // those that each tile of queries adds up to
  const std::size_t bytes = static_cast<std::size_t>(by_query.count() * biases) * sizeof(T);
  const Buffer parts = bytes ? Buffer(Cuda::pool(), bytes) : Buffer();
  T* const by_tile = static_cast<T*>(parts.data());
  if (bytes) Cuda::zero(by_tile, bytes);
  with_width(spec.width, [&]<int most>() {
    if (by_query.count())
      cuda::launch(backward_queries<most, T>, dim3(by_query.count(), heads), tile<T> * mates,
                   shared_bytes<T>(spec.width, 4, 1), cuda::stream(), s, by_query.device(), q, k, v, lse, less, dout,
                   dq, by_tile);
    if (by_key.count())
      cuda::launch(backward_keys<most, T>, dim3(by_key.count(), key_heads), tile<T> * mates,
                   shared_bytes<T>(spec.width, 4, 2), cuda::stream(), s, by_key.device(), q, k, v, lse, less, dout, dk,
                   dv);
  });
  if (biases)
    cuda::launch(bias_gradient<T>, cuda::blocks(biases), cuda::threads, 0, cuda::stream(), biases,
                 static_cast<Index>(by_query.count()), spec.scale, static_cast<const T*>(by_tile), dbias);
}

template <Backend B, Real T>
bool attention_rounds(B, [[maybe_unused]] const AttentionSpec<T>& spec) {
  if constexpr (sizeof(T) == 4) return cuda::mma::takes(spec);
  else return false;
}

#define EVERY(T)                                                                                              \
  template bool attention_rounds(Cuda, const AttentionSpec<T>&);                                              \
  template void attention(Cuda, const AttentionSpec<T>&, const Spans&, const T*, const T*, const T*, T*, T*); \
  template void attention_backward(Cuda, const AttentionSpec<T>&, const Spans&, const T*, const T*, const T*, \
                                   const T*, const T*, const T*, T*, T*, T*, T*);
EVERY(float)
EVERY(double)
#undef EVERY

}  // namespace meft
