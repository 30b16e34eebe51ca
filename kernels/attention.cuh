// Owns: what the attention kernels share: a tile of queries meets a tile of keys in shared memory, four threads a row
// of the scores. Scores never exist whole. Dao et al., "FlashAttention", arXiv 2205.14135; "FlashAttention-2",
// 2307.08691.
#pragma once

#include <limits>

#include <meft/backend/keep.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/base/functor.hpp>
#include <moving_key.cuh>
#include <stream.cuh>

namespace meft::cuda::attend {

constexpr int widest = 256;  // head
constexpr int mates = 4;     // threads of a row

/// Rows of queries and of keys in a tile: four tiles of the widest head fit the shared memory of sm_80.
template <class T>
constexpr int tile = sizeof(T) == 4 ? 32 : 16;
/// Scores of a thread: neighbours, so that four of them share a Philox block.
template <class T>
constexpr int share = tile<T> / mates;

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
  /// The number of the random bits of the first key of a query row.
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

}  // namespace meft::cuda::attend
