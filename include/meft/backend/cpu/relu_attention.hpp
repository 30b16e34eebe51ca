// Owns: attention by positive products of rows on the CPU, forward and backward, in tiles: weights never exist whole.
// One task is one tile of a sequence's rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <meft/backend/cpu/attention.hpp>
#include <meft/backend/kernels/relu_attention.hpp>

namespace meft {

namespace cpu {

inline constexpr Index relu_tile = 64;

/// Rows [first, first + count) of the sequence [begin, end).
struct RowTile {
  Index begin, end, first, count;
};
inline std::vector<RowTile> row_tiles(Index sequences, const std::int32_t* starts) {
  std::vector<RowTile> out;
  for (Index s = 0; s < sequences; ++s)
    for (Index i = starts[s]; i < starts[s + 1]; i += relu_tile)
      out.push_back({starts[s], starts[s + 1], i, std::min<Index>(relu_tile, starts[s + 1] - i)});
  return out;
}

/// w[count, keys] = relu(a·tᵀ) of rows [first, first + count) and keys [k0, k0 + keys); where `causal`, 0 for later
/// keys.
template <class T>
MEFT_INLINE inline void relu_weights(Index width, bool causal, Index first, Index count, Index k0, Index keys,
                                     const T* a, const T* t, T* w) {
  block_product<T>({count, keys, width, {a + first * width, width, 1}, w, relu_tile}, {t + k0 * width, 1, width});
  for (Index i = 0; i < count; ++i) {
    const Index seen = causal ? std::clamp<Index>(first + i + 1 - k0, 0, keys) : keys;
    T* row = w + i * relu_tile;
    map_run(Relu{}, seen, row, row);
    std::fill(row + seen, row + keys, T(0));
  }
}

template <class T>
MEFT_INLINE inline void relu_attend(Index width, bool causal, const RowTile& rows, const T* a, const T* t, T* y,
                                    T* sums) {
  T w[relu_tile * relu_tile], *out = y + rows.first * width, *sum = sums + rows.first;
  std::fill(out, out + rows.count * width, T(0));
  std::fill(sum, sum + rows.count, T(0));
  const Index end = causal ? rows.first + rows.count : rows.end;
  for (Index k0 = rows.begin; k0 < end; k0 += relu_tile) {
    const Index keys = std::min(relu_tile, end - k0);
    relu_weights(width, causal, rows.first, rows.count, k0, keys, a, t, w);
    for (Index i = 0; i < rows.count; ++i) {
      const T* row = w + i * relu_tile;
      sum[i] += sum_of<T>(keys, [row](Index j) MEFT_INLINE { return row[j]; });
    }
    block_product<T>({rows.count, width, keys, {w, relu_tile, 1}, out, width, Start::accumulate},
                     {t + k0 * width, width, 1});
  }
  for (Index i = 0; i < rows.count; ++i) {
    const T scale = sum[i] > 0 ? T(1) / sum[i] : T(0);
    T* row = out + i * width;
    map_run([scale](T x, T own) MEFT_INLINE { return x * scale + own; }, width, row, row, t + (rows.first + i) * width);
  }
}

/// What of the products' gradients reaches them: ds[i, j] = (dy_i·t_j − Σ dy_i ⊙ (y_i − t_i))/sum_i where w[i, j] > 0.
/// w, of which the rows are divided by their sums afterwards, and ds are [count, keys].
template <class T>
MEFT_INLINE inline void relu_slopes(Index width, Index first, Index count, Index k0, Index keys, const T* t,
                                    const T* sums, const T* dy, const T* less, T* w, T* ds) {
  block_product<T>({count, keys, width, {dy + first * width, width, 1}, ds, relu_tile}, {t + k0 * width, 1, width});
  for (Index i = 0; i < count; ++i) {
    const T sum = sums[first + i], scale = sum > 0 ? T(1) / sum : T(0), mean = less[i];
    T *d = ds + i * relu_tile, *p = w + i * relu_tile;
    map_run([scale, mean](T x, T g) MEFT_INLINE { return select(x > T(0), (g - mean) * scale, T(0)); }, keys, d, p, d);
    map_run([scale](T x) MEFT_INLINE { return x * scale; }, keys, p, p);
  }
}

/// less[i] = Σ dy_i ⊙ (y_i − t_i).
template <class T>
MEFT_INLINE inline void relu_means(Index width, Index first, Index count, const T* t, const T* y, const T* dy,
                                   T* less) {
  for (Index i = 0; i < count; ++i) {
    const T *o = y + (first + i) * width, *own = t + (first + i) * width, *d = dy + (first + i) * width;
    less[i] = sum_of<T>(width, [o, own, d](Index j) MEFT_INLINE { return d[j] * (o[j] - own[j]); });
  }
}

template <class T>
MEFT_INLINE inline void relu_attend_queries(Index width, bool causal, const RowTile& rows, const T* a, const T* t,
                                            const T* y, const T* sums, const T* dy, T* da) {
  T w[relu_tile * relu_tile], ds[relu_tile * relu_tile], less[relu_tile], *out = da + rows.first * width;
  relu_means(width, rows.first, rows.count, t, y, dy, less);
  std::fill(out, out + rows.count * width, T(0));
  const Index end = causal ? rows.first + rows.count : rows.end;
  for (Index k0 = rows.begin; k0 < end; k0 += relu_tile) {
    const Index keys = std::min(relu_tile, end - k0);
    relu_weights(width, causal, rows.first, rows.count, k0, keys, a, t, w);
    relu_slopes(width, rows.first, rows.count, k0, keys, t, sums, dy, less, w, ds);
    block_product<T>({rows.count, width, keys, {ds, relu_tile, 1}, out, width, Start::accumulate},
                     {t + k0 * width, width, 1});
  }
}

template <class T>
MEFT_INLINE inline void relu_attend_keys(Index width, bool causal, const RowTile& keys, const T* a, const T* t,
                                         const T* y, const T* sums, const T* dy, T* dt) {
  T w[relu_tile * relu_tile], ds[relu_tile * relu_tile], less[relu_tile], *out = dt + keys.first * width;
  std::copy(dy + keys.first * width, dy + (keys.first + keys.count) * width, out);
  for (Index i = causal ? keys.first : keys.begin; i < keys.end; i += relu_tile) {
    const Index count = std::min(relu_tile, keys.end - i);
    relu_means(width, i, count, t, y, dy, less);
    relu_weights(width, causal, i, count, keys.first, keys.count, a, t, w);
    relu_slopes(width, i, count, keys.first, keys.count, t, sums, dy, less, w, ds);
    block_product<T>({keys.count, width, count, {w, 1, relu_tile}, out, width, Start::accumulate},
                     {dy + i * width, width, 1});
    block_product<T>({keys.count, width, count, {ds, 1, relu_tile}, out, width, Start::accumulate},
                     {a + i * width, width, 1});
  }
}

}  // namespace cpu

template <Real T>
void relu_attention(Cpu, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a, const T* t,
                    T* y, T* sums) {
  const auto tiles = cpu::row_tiles(sequences, starts);
  parallel_for(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    vectorised([&]()
                   MEFT_INLINE { cpu::relu_attend(width, causal, tiles[static_cast<std::size_t>(i)], a, t, y, sums); });
  });
}

template <Real T>
void relu_attention_backward(Cpu, Index sequences, const std::int32_t* starts, Index width, bool causal, const T* a,
                             const T* t, const T* y, const T* sums, const T* dy, T* da, T* dt) {
  const auto tiles = cpu::row_tiles(sequences, starts);
  parallel_for(2 * static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    vectorised([&]() MEFT_INLINE {
      const auto& tile = tiles[static_cast<std::size_t>(i / 2)];
      if (i % 2) cpu::relu_attend_keys(width, causal, tile, a, t, y, sums, dy, dt);
      else cpu::relu_attend_queries(width, causal, tile, a, t, y, sums, dy, da);
    });
  });
}

}  // namespace meft
