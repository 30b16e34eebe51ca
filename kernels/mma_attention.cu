// Owns: attention on tensor cores, forward and backward: mma_attention.hpp. Deterministic: dq goes by tiles of queries,
// dk and dv by tiles of keys, and nobody adds to another's sums. The bits of dropout are those of attention.cu and of
// the CPU. Powers are of 2: scores are kept times log₂ e.
#include <algorithm>
#include <mma_attention.cuh>
#include <mma_attention.hpp>

#include <meft/backend/cuda/tag.hpp>
#include <meft/memory/buffer.hpp>

namespace meft::cuda::mma {

namespace {

using attend::Task, attend::Tasks;

/// A score, times log₂ e.
__device__ float scaled(const Spec<float>& s, const Span& span, Index head, Index i, Index key, float product) {
  const float scale = s.of.scale * log2_e;
  if (!s.of.bias) return product * scale;
  return product * scale + s.of.bias[head * s.of.distances() + s.place(span, i, key)] * log2_e;
}

/// What a block works on.
struct Place {
  Span span;
  Sight sight;
  int start, queries, width;
  Index head, at, at_k;  // head: of queries; where it begins in a row of queries, of keys
  __device__ Place(const Task& task, const Spec<float>& s, Index query_head)
      : span(task.span),
        sight(s, span),
        start(static_cast<int>(task.start)),
        queries(static_cast<int>(span.queries)),
        width(static_cast<int>(s.of.width)),
        head(query_head),
        at(query_head * width),
        at_k(query_head / s.of.group() * width) {}
};

/// The tiles of keys that `rows` queries of a block see.
struct KeyTiles {
  int begin, end;
  __device__ KeyTiles(const Spec<float>& s, const Place& p, int rows)
      : begin(static_cast<int>(s.outside(p.span, p.start)) / tile * tile),
        end(static_cast<int>(s.visible(p.span, (p.start + rows < p.queries ? p.start + rows : p.queries) - 1))) {}
};

/// Rows of two arrays, as `load`, once nobody reads what was there.
template <int most>
__device__ void load_both(const Given& a, const Given& b, Index row, Index begin, Index end, int rows, int width,
                          bool packed, bf16* to_a, bf16* to_b) {
  __syncthreads();
  load<most>(a, row, begin, end, rows, width, packed, to_a);
  load<most>(b, row, begin, end, rows, width, packed, to_b);
}

template <int most>
__global__ void __launch_bounds__(256, most <= 64 ? 2 : 1)
    forward(Spec<float> s, bool packed, const Task* tasks, const float* q, const float* k, const float* v, float* out,
            float* lse) {
  constexpr int eights = tile / 8;
  const Place p(tasks[blockIdx.x], s, blockIdx.y);
  if (p.start >= p.queries) return;
  const Span span = p.span;
  const Lane lane;
  const int width = p.width, rows = static_cast<int>(blockDim.x) / 2;
  bf16 *const keys = dynamic_shared<bf16>(), *const values = keys + tile * step<most>;
  load<most>(Given{q, s.of.rounded.q} + p.at, s.of.row(), span.q + p.start, span.q + span.queries, rows, width, packed,
             keys);
  __syncthreads();
  const Held<most> queries(keys, width, lane);

  const int mine = p.start + lane.first, i[2] = {mine + lane.g, mine + lane.g + 8};
  const Key random = s.key.now();
  float sum[most / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const KeyTiles range(s, p, rows);
  for (int k0 = range.begin; k0 < range.end; k0 += tile) {
    load_both<most>(Given{k, s.of.rounded.k} + p.at_k, Given{v, s.of.rounded.v} + p.at_k, s.of.key_row(), span.k + k0,
                    span.k + span.keys, tile, width, packed, keys, values);
    __syncthreads();
    if (mine >= p.queries || !p.sight.some(mine, 16, k0, tile)) continue;
    float score[eights][4], high[2] = {top[0], top[1]}, shrink[2];
    products<most>(queries, keys, width, lane, score);
    const bool clear = p.sight.all(mine, 16, k0, tile);
    elements<eights>([&](int n, int e) {
      const int key = k0 + 8 * n + 2 * lane.t + e % 2;
      const bool sees = clear || p.sight.sees(i[e / 2], key);
      score[n][e] = sees ? scaled(s, span, p.head, i[e / 2], key, score[n][e]) : -INFINITY;
      high[e / 2] = fmaxf(high[e / 2], score[n][e]);  // a NaN shows in its weight
    });
    each<2>([&](int r) {
      const float now = row_most(high[r]);
      high[r] = now == -INFINITY ? 0 : now;
      shrink[r] = exp2f(top[r] - high[r]);
      top[r] = now;
      total[r] *= shrink[r];
    });
    const Word kept = kept_of_queries<eights>(s, random, span.q + i[0], p.head, k0, lane);
    elements<eights>([&](int n, int e) {
      const float weight = exp2f(score[n][e] - high[e / 2]);
      total[e / 2] += weight;
      score[n][e] = kept >> (4 * n + e) & 1u ? weight : 0.0f;
    });
    elements<most / 8>([&](int n, int e) { sum[n][e] *= shrink[e / 2]; });
    add_weighted<most>(score, values, width, lane, sum);
  }
  each<2>([&](int r) {
    const float all = row_sum(total[r]);
    if (i[r] >= p.queries) return;
    // A query that sees no key has the result 0; one whose scores are all -∞ has NaN.
    const bool any = s.visible(span, i[r]) > s.outside(span, i[r]);
    const Index row = span.q + i[r];
    store<most>(sum, r, any ? s.keep.scale / all : 0.0f, width, packed, lane, row * s.of.row() + p.at, out,
                s.of.rounded.out);
    if (lane.t == 0) lse[row * s.of.heads + p.head] = any ? (top[r] + log2f(all)) * ln_2 : 0.0f;
  });
}

/// dq; and less[row, head] = Σ out·dout, which the keys' pass reads too.
template <int most>
__global__ void __launch_bounds__(128, most <= 64 ? 3 : 2)
    backward_queries(Spec<float> s, bool packed, const Task* tasks, const float* q, const float* k, const float* v,
                     const float* out, const float* lse, const float* dout, float* less, float* dq, float* dbias) {
  constexpr int columns = 32, eights = columns / 8;
  const Place p(tasks[blockIdx.x], s, blockIdx.y);
  if (p.start >= p.queries) return;
  const Span span = p.span;
  const Lane lane;
  const int width = p.width, rows = static_cast<int>(blockDim.x) / 2;
  bf16 *const queries = dynamic_shared<bf16>(), *const douts = queries + rows * step<most>,
              *const keys = douts + rows * step<most>, *const values = keys + tile * step<most>;
  attend::Rows<float> slopes{reinterpret_cast<float*>(values + tile * step<most>), tile + 1};
  load_both<most>(Given{q, s.of.rounded.q} + p.at, Given{dout, s.of.rounded.dout} + p.at, s.of.row(), span.q + p.start,
                  span.q + span.queries, rows, width, packed, queries, douts);
  __syncthreads();
  const Held<most> query(queries, width, lane), dout_row(douts, width, lane);

  const int mine = p.start + lane.first, i[2] = {mine + lane.g, mine + lane.g + 8};
  float shift[2] = {}, common[2] = {};
  each<2>([&](int r) {
    const Index row = span.q + i[r];
    const bool there = i[r] < p.queries;
    const float* const y = out + row * s.of.row() + p.at;
    const bf16* const dy = douts + (lane.first + lane.g + 8 * r) * step<most>;
    for (int c = lane.t; there && c < width; c += 4) common[r] += y[c] * static_cast<float>(dy[c]);
    common[r] = row_sum(common[r]);
    if (!there) return;
    shift[r] = lse[row * s.of.heads + p.head] * log2_e;
    if (lane.t == 0) less[row * s.of.heads + p.head] = common[r];
  });

  const Key random = s.key.now();
  float sum[most / 8][4] = {};
  const KeyTiles range(s, p, rows);
  for (int k0 = range.begin; k0 < range.end; k0 += tile) {
    load_both<most>(Given{k, s.of.rounded.k} + p.at_k, Given{v, s.of.rounded.v} + p.at_k, s.of.key_row(), span.k + k0,
                    span.k + span.keys, tile, width, packed, keys, values);
    __syncthreads();
    for (int from = 0; from < tile; from += columns) {
      const int key0 = k0 + from;
      if (!dbias && (mine >= p.queries || !p.sight.some(mine, 16, key0, columns))) continue;
      float score[eights][4], slope[eights][4];
      products<most>(query, keys + from * step<most>, width, lane, score);
      products<most>(dout_row, values + from * step<most>, width, lane, slope);
      const bool clear = p.sight.all(mine, 16, key0, columns);
      const Word kept = kept_of_queries<eights>(s, random, span.q + i[0], p.head, key0, lane);
      elements<eights>([&](int n, int e) {
        const int r = e / 2, column = 8 * n + 2 * lane.t + e % 2;
        const bool sees = clear || p.sight.sees(i[r], key0 + column);
        const float score_here = scaled(s, span, p.head, i[r], key0 + column, score[n][e]);
        const float weight = sees ? exp2f(score_here - shift[r]) : 0.0f;
        slope[n][e] = weight * ((kept >> (4 * n + e) & 1u ? slope[n][e] * s.keep.scale : 0.0f) - common[r]);
        if (dbias) slopes.at(lane.first + lane.g + 8 * r, from + column) = slope[n][e];
      });
      add_weighted<most>(slope, keys + from * step<most>, width, lane, sum);
    }
    if (!dbias) continue;
    __syncthreads();
    attend::add_diagonals(s, span, p.start, k0, rows, tile, slopes,
                          dbias + (blockIdx.x * s.of.heads + p.head) * s.of.distances());
  }
  each<2>([&](int r) {
    if (i[r] < p.queries)
      store<most>(sum, r, s.of.scale, width, packed, lane, (span.q + i[r]) * s.of.row() + p.at, dq, s.of.rounded.dq);
  });
}

template <int most>
__global__ void __launch_bounds__(128, most <= 64 ? 3 : 2)
    backward_keys(Spec<float> s, bool packed, const Task* tasks, const float* q, const float* k, const float* v,
                  const float* lse, const float* dout, const float* less, float* dk, float* dv) {
  constexpr int columns = 32, eights = columns / 8;
  using Left = std::conditional_t<most <= 64, Held<most>, Read<most>>;  // as the registers allow
  const Index leader = blockIdx.y * s.of.group();
  const Place p(tasks[blockIdx.x], s, leader);
  if (p.start >= p.sight.keys) return;
  const Span span = p.span;
  const Lane lane;
  const int width = p.width, rows = static_cast<int>(blockDim.x) / 2;
  bf16 *const keys = dynamic_shared<bf16>(), *const values = keys + rows * step<most>,
              *const queries = values + rows * step<most>, *const douts = queries + tile * step<most>;
  float *const shift = reinterpret_cast<float*>(douts + tile * step<most>), *const common = shift + tile;
  load_both<most>(Given{k, s.of.rounded.k} + p.at_k, Given{v, s.of.rounded.v} + p.at_k, s.of.key_row(),
                  span.k + p.start, span.k + span.keys, rows, width, packed, keys, values);
  __syncthreads();
  const Left key_row(keys, width, lane);
  const Read<most> value_row(values, width, lane);

  const int mine = p.start + lane.first;
  const Key random = s.key.now();
  float sum_k[most / 8][4] = {}, sum_v[most / 8][4] = {};
  for (Index head = leader; head < leader + s.of.group(); ++head)
    for (int q0 = 0; q0 < p.queries; q0 += tile) {
      if (!p.sight.some(q0, tile, p.start, rows)) continue;
      load_both<most>(Given{q, s.of.rounded.q} + head * width, Given{dout, s.of.rounded.dout} + head * width,
                      s.of.row(), span.q + q0, span.q + span.queries, tile, width, packed, queries, douts);
      for (int j = static_cast<int>(threadIdx.x); j < tile; j += static_cast<int>(blockDim.x)) {
        // A query past the end weighs exp2(-∞).
        const bool there = q0 + j < p.queries;
        const Index place = (span.q + q0 + j) * s.of.heads + head;
        shift[j] = there ? lse[place] * log2_e : INFINITY;
        common[j] = there ? less[place] : 0.0f;
      }
      __syncthreads();
      for (int from = 0; from < tile; from += columns) {
        const int i0 = q0 + from;
        if (i0 >= p.queries || !p.sight.some(i0, columns, mine, 16)) continue;
        float weight[eights][4], slope[eights][4];
        products<most>(key_row, queries + from * step<most>, width, lane, weight);
        products<most>(value_row, douts + from * step<most>, width, lane, slope);
        const bool clear = p.sight.all(i0, columns, mine, 16);
        const Word kept = kept_of_keys<eights>(s, random, span.q + i0, head, mine, lane);
        elements<eights>([&](int n, int e) {
          const int column = from + 8 * n + 2 * lane.t + e % 2, i = q0 + column, key = mine + lane.g + e / 2 * 8;
          const bool sees = clear || p.sight.sees(i, key), keeps = kept >> (4 * n + e) & 1u;
          const float score = scaled(s, span, head, i, key, weight[n][e]);
          const float x = sees ? exp2f(score - shift[column]) : 0.0f;
          weight[n][e] = keeps ? x : 0.0f;
          slope[n][e] = x * ((keeps ? slope[n][e] * s.keep.scale : 0.0f) - common[column]);
        });
        add_weighted<most>(weight, douts + from * step<most>, width, lane, sum_v);
        add_weighted<most>(slope, queries + from * step<most>, width, lane, sum_k);
      }
    }
  each<2>([&](int r) {
    const int key = mine + lane.g + 8 * r;
    if (key >= p.sight.keys) return;
    const Index at = (span.k + key) * s.of.key_row() + p.at_k;
    store<most>(sum_k, r, s.of.scale, width, packed, lane, at, dk, s.of.rounded.dk);
    store<most>(sum_v, r, s.keep.scale, width, packed, lane, at, dv, s.of.rounded.dv);
  });
}

/// Bytes of rows in shared memory.
template <int most>
std::size_t bytes_of(int rows) {
  return static_cast<std::size_t>(rows * step<most>) * sizeof(bf16);
}

/// Calls run.operator()<most>() with the least of 64 and 128 that holds the head.
template <class Run>
void with_width(Index width, const Run& run) {
  if (width <= 64) run.template operator()<64>();
  else run.template operator()<128>();
}

}  // namespace

bool takes(const AttentionSpec<float>& spec) { return spec.precision == Precision::bf16 && spec.width <= 128; }

void attention(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k, const float* v,
               float* out, float* lse) {
  const auto s = attend::spec_of(spec);
  const bool longer = settled(spans, [](const std::vector<Span>& list) {
    return std::any_of(list.begin(), list.end(), [](const Span& s) { return s.queries > tile; });
  });
  const int rows = spec.width <= 64 && longer ? 2 * tile : tile;
  const Tasks tasks(rows, spans, &Span::queries);
  if (!tasks.count()) return;
  const auto& r = spec.rounded;
  const bool packed = spec.width % 8 == 0 && aligned(q, k, v, out, r.q, r.k, r.v, r.out);
  with_width(spec.width, [&]<int most>() {
    launch(forward<most>, dim3(tasks.count(), static_cast<unsigned>(spec.heads)), static_cast<unsigned>(2 * rows),
           bytes_of<most>(2 * tile), stream(), s, packed, tasks.device(), q, k, v, out, lse);
  });
}

void attention_backward(const AttentionSpec<float>& spec, const Spans& spans, const float* q, const float* k,
                        const float* v, const float* out, const float* lse, const float* dout, float* dq, float* dk,
                        float* dv, float* dbias) {
  const auto s = attend::spec_of(spec);
  const Tasks by_query(tile, spans, &Span::queries), by_key(tile, spans, &Span::keys);
  const UseScope use(Use::workspace);
  const Buffer products(Cuda::pool(),
                        static_cast<std::size_t>(attend::rows_of_queries(spans) * spec.heads) * sizeof(float));
  float* const less = static_cast<float*>(products.data());
  const Index biases = dbias ? spec.heads * spec.distances() : 0;  // those that each tile of queries adds up to
  const std::size_t bytes = static_cast<std::size_t>(by_query.count() * biases) * sizeof(float);
  const Buffer parts = bytes ? Buffer(Cuda::pool(), bytes) : Buffer();
  float* const by_tile = static_cast<float*>(parts.data());
  if (bytes) Cuda::zero(by_tile, bytes);
  const auto& r = spec.rounded;
  const bool packed =
      spec.width % 8 == 0 && aligned(q, k, v, dout, dq, dk, dv, r.q, r.k, r.v, r.dout, r.dq, r.dk, r.dv);
  const auto heads = static_cast<unsigned>(spec.heads), key_heads = static_cast<unsigned>(spec.heads / spec.group());
  with_width(spec.width, [&]<int most>() {
    if (by_query.count())
      launch(backward_queries<most>, dim3(by_query.count(), heads), 2 * tile,
             bytes_of<most>(4 * tile) + (bytes ? tile * (tile + 1) * sizeof(float) : 0), stream(), s, packed,
             by_query.device(), q, k, v, out, lse, dout, less, dq, by_tile);
    if (by_key.count())
      launch(backward_keys<most>, dim3(by_key.count(), key_heads), 2 * tile,
             bytes_of<most>(4 * tile) + 2 * tile * sizeof(float), stream(), s, packed, by_key.device(), q, k, v, lse,
             dout, static_cast<const float*>(less), dk, dv);
  });
  if (biases)
    launch(attend::bias_gradient<float>, blocks(biases), threads, 0, stream(), biases,
           static_cast<Index>(by_query.count()), 1.0f, static_cast<const float*>(by_tile), dbias);
}

}  // namespace meft::cuda::mma
