// Owns: what the attention kernels share: a tile of queries meets a tile of keys in shared memory, four threads a row
// of the scores. Scores never exist whole. Dao et al., "FlashAttention", arXiv 2205.14135; "FlashAttention-2",
// 2307.08691.
#pragma once

#include <limits>
#include <vector>

#include <meft/backend/keep.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/base/functor.hpp>
#include <moving_key.cuh>
#include <spans.cuh>
#include <stream.cuh>

namespace meft::cuda::attend {

constexpr int widest = 256;  // head
constexpr int mates = 4;     // threads of a row
constexpr unsigned whole = 0xffffffffu;

/// Rows of queries and of keys in a tile: four tiles of the widest head fit the shared memory of sm_80.
template <class T>
constexpr int tile = sizeof(T) == 4 ? 32 : 16;
/// Scores of a thread: neighbours, whose draws lie in one block.
template <class T>
constexpr int share = tile<T> / mates;
static_assert(dropout_block_size % share<float> == 0 && dropout_block_size % share<double> == 0);

/// The rows that a block works for: tile `start` of the queries, or of the keys, of one sequence.
struct Task {
  Span span;
  Index start;
};

template <class T>
struct Spec {
  AttentionSpec<T> of;
  Keep<T> keep;  // dropout; its threshold is 0 where there is none
  MovingKey key;

  /// How many of a sequence's keys its query i sees, or has before it.
  __device__ Index visible(const Span& s, Index i) const {
    if (!of.causal && !of.window) return s.keys;
    const Index n = i + s.keys - s.queries + (of.causal ? 1 : of.window);
    return n < 0 ? 0 : n < s.keys ? n : s.keys;
  }
  /// How many of them, the first ones, lie before its window.
  __device__ Index outside(const Span& s, Index i) const {
    const Index n = i + s.keys - s.queries + 1 - of.window;
    return of.window && n > 0 ? n : 0;
  }
  /// The place of a key in a head's bias.
  __device__ Index place(const Span& s, Index i, Index key) const {
    const Index at = key - (i + s.keys - s.queries) + of.reach;
    return at < 0 ? 0 : at < of.distances() ? at : of.distances() - 1;
  }
  /// The score of a product.
  __device__ T score(const Span& s, Index head, Index i, Index key, T product) const {
    const T scaled = product * of.scale;
    return of.bias ? scaled + of.bias[head * of.distances() + place(s, i, key)] : scaled;
  }
  /// The number of dropout's draw for the first key of a query row.
  __device__ std::uint64_t bits_of(Index row, Index head) const {
    return static_cast<std::uint64_t>((of.first_row + row) * of.heads + head) << 24;
  }
};

/// A tile of rows in shared memory; a column more keeps the rows of a warp in different banks.
template <class T>
struct Rows {
  T* data;
  int step;
  __device__ T at(int row, Index column) const { return data[row * step + column]; }
  __device__ T& at(int row, Index column) { return data[row * step + column]; }
};

/// Copies rows [begin, begin + tile) of a head, `step` elements apart, and zeros beyond `end`.
template <class T>
__device__ void load(const Spec<T>& s, const T* from, Index step, Index begin, Index end, Rows<T> to) {
  const int width = static_cast<int>(s.of.width);
  for (int i = static_cast<int>(threadIdx.x); i < tile<T> * width; i += static_cast<int>(blockDim.x)) {
    const int r = i / width, c = i % width;
    to.at(r, c) = begin + r < end ? from[(begin + r) * step + c] : T(0);
  }
}

/// dot[k] = the products of row `mine` of a with rows first + k of b.
template <class T>
__device__ void products(Index width, Rows<T> a, int mine, Rows<T> b, int first, T (&dot)[share<T>]) {
  for (T& x : dot) x = 0;
  for (Index c = 0; c < width; ++c) {
    const T x = a.at(mine, c);
    for (int k = 0; k < share<T>; ++k) dot[k] += x * b.at(first + k, c);
  }
}

/// sum[i] += Σ_j weight(mine, j) · rows(j, column of i): columns go round the threads of a row.
template <int most, class T>
__device__ void add_weighted(Index width, Rows<T> weights, int mine, Rows<T> rows, int mate, T (&sum)[most / mates]) {
  for (int j = 0; j < tile<T>; ++j) {
    const T w = weights.at(mine, j);
    for (int i = 0; i < most / mates; ++i)
      if (const Index c = mate + i * mates; c < width) sum[i] += w * rows.at(j, c);
  }
}

/// Writes what add_weighted summed, times `by`.
template <int most, class T>
__device__ void store(Index width, int mate, T by, const T (&sum)[most / mates], T* to) {
  for (int i = 0; i < most / mates; ++i)
    if (const Index c = mate + i * mates; c < width) to[c] = sum[i] * by;
}

/// Adds slopes, those of `rows` queries from `start` and `columns` keys from `k0` on, to the places of their distances
/// in `to`: a thread a place, so that each is added to by one, in ascending order.
template <class T>
__device__ void add_diagonals(const Spec<T>& s, const Span& span, Index start, Index k0, int rows, int columns,
                              Rows<T> slopes, T* to) {
  const Index end = s.of.distances() - 1, high = s.place(span, start, k0 + columns - 1);
  for (Index place = s.place(span, start + rows - 1, k0) + static_cast<Index>(threadIdx.x); place <= high;
       place += blockDim.x) {
    T sum = 0;
    for (int r = 0; r < rows; ++r) {
      const Index column = place - s.of.reach + start + r + span.keys - span.queries - k0;
      const Index from = place == 0 || column < 0 ? 0 : column, last = place == end ? columns - 1 : column;
      for (Index j = from; j <= last && j < columns; ++j) sum += slopes.at(r, j);
    }
    to[place] += sum;
  }
}

/// dbias = the sum over `parts` of them, over the scale.
template <class T>
__global__ void bias_gradient(Index total, Index parts, T scale, const T* from, T* dbias) {
  for (Index i = cuda::first(); i < total; i += stride()) {
    T sum = 0;
    for (Index part = 0; part < parts; ++part) sum += from[part * total + i];
    dbias[i] = sum / scale;
  }
}

/// The tiles of all sequences on the device, of their queries or of their keys. Where others may come there are as many
/// as they have at most; those past the last have no rows.
class Tasks {
 public:
  Tasks(Index tile, const Spans& spans, Index Span::*rows) {
    Index all = 0, tiles = 0;
    for (const Span& s : spans.list) all += s.*rows, tiles += (s.*rows + tile - 1) / tile;
    if (open(spans)) tiles = (all + spans.count() * (tile - 1)) / tile;
    count_ = static_cast<unsigned>(tiles);
    if (!count_) return;
    const auto fill = [=](const std::vector<Span>& list, void* to) {
      Task *next = static_cast<Task*>(to), *const end = next + tiles;
      for (const Span& s : list)
        for (Index start = 0; start < s.*rows; start += tile) *next++ = {s, start};
      while (next != end) *next++ = {};
    };
    buffer_ =
        table(spans, (rows == &Span::keys ? "keys " : "queries ") + std::to_string(tile), count_ * sizeof(Task), fill);
  }
  unsigned count() const { return count_; }
  const Task* device() const { return static_cast<const Task*>(buffer_.data()); }

 private:
  Buffer buffer_;
  unsigned count_ = 0;
};

/// Rows of queries up to the last that a span has.
inline Index rows_of_queries(const Spans& spans) {
  Index rows = 0;
  for (const Span& s : spans.list)
    if (s.q + s.queries > rows) rows = s.q + s.queries;
  return rows;
}

template <class T>
Spec<T> spec_of(const AttentionSpec<T>& spec) {
  require(spec.width <= widest, "attention: a head is wider than the kernels take, found and most", spec.width, widest);
  return {spec, Keep<T>(static_cast<double>(spec.dropout)), MovingKey(spec.key)};
}

}  // namespace meft::cuda::attend
