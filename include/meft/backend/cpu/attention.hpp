// Owns: attention on ragged batches on the CPU, forward and backward, in tiles: scores never exist whole.
// Dao et al., "FlashAttention", arXiv 2205.14135, algorithms 1 and 4. One task is one head of one
// sequence, or backward one head of its keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <meft/backend/cpu/exponential.hpp>
#include <meft/backend/cpu/fold.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/philox.hpp>
#include <meft/backend/cpu/tile.hpp>
#include <meft/backend/keep.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/base/compose.hpp>
#include <meft/base/random.hpp>

namespace meft {

namespace cpu {

inline constexpr Index query_tile = 96, key_tile = 64;
inline constexpr Index query_block = 8 * query_tile;  // queries that share what is made of a tile of keys

// Elements for panels of a tile of keys, and of a block of queries.
template <class T>
inline constexpr Index key_room = std::is_same_v<T, float> ? key_tile * 256 : 1;
template <class T>
inline constexpr Index query_room = std::is_same_v<T, float> ? query_block * 32 : 1;

/// C = start + A·B for a block that fits the caches, on this thread.
template <class T>
MEFT_INLINE inline void block_product(const Product<T>& p, Strided<T> b) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (has_avx2()) {
      constexpr Index depth = 128;
      alignas(64) float panels[most_panels * depth * panel_width];
      const Index wide = columns_at_once();
      for (Index j = 0; j < p.columns; j += wide) {
        const Index columns = std::min(wide, p.columns - j);
        for (Index k0 = 0; k0 < p.depth; k0 += depth) {
          const Index k = std::min(depth, p.depth - k0);
          const auto block = fill_panels(columns, k * panel_width, panels, [&](Index at, Index width, float* panel) {
            pack_panel(k, b.at(k0, j + at), width, panel);
          });
          multiply_block(p.rows, k, {p.a.at(0, k0)}, block,
                         {p.c + j, p.ldc, columns, k0 ? Start::accumulate : p.start, nullptr});
        }
      }
      return;
    }
#endif
  for (Index i = 0; i < p.rows; ++i) {
    T* c = p.c + i * p.ldc;
    if (p.start == Start::zero) std::fill(c, c + p.columns, T(0));
    for (Index k = 0; k < p.depth; ++k) {
      const T a = p.a.data[i * p.a.row + k * p.a.column];
      for (Index j = 0; j < p.columns; ++j) c[j] += a * b.data[k * b.row + j * b.column];
    }
  }
}

/// A right operand, in panels where the products of T have them and there is room.
template <class T>
struct Right {
  Strided<T> b;
  const T* panels = nullptr;  // of 16 columns each, `step` elements apart
  Index step = 0;

  Right(Strided<T> operand, [[maybe_unused]] Index depth, [[maybe_unused]] Index columns, [[maybe_unused]] T* to,
        [[maybe_unused]] Index room)
      : b(operand) {
#if MEFT_X86
    if constexpr (std::is_same_v<T, float>)
      if (has_avx2() && depth * round_up(columns, panel_width) <= room) {
        step = depth * panel_width;
        panels = fill_panels(columns, step, to, [&](Index at, Index width, T* panel) {
                   pack_panel(depth, b.at(0, at), width, panel);
                 }).data;
      }
#endif
  }
  /// From row k of it on.
  Right below(Index k) const {
    Right out = *this;
    out.b = b.at(k, 0);
    if (panels) out.panels += k * panel_width;
    return out;
  }
};

/// The same.
template <class T>
MEFT_INLINE inline void block_product(const Product<T>& p, const Right<T>& right) {
#if MEFT_X86
  if constexpr (std::is_same_v<T, float>)
    if (right.panels) {
      const Index wide = columns_at_once();
      for (Index j = 0; j < p.columns; j += wide)
        multiply_block(p.rows, p.depth, {p.a}, {right.panels + j / panel_width * right.step, right.step},
                       {p.c + j, p.ldc, std::min(wide, p.columns - j), p.start, nullptr});
      return;
    }
#endif
  block_product(p, right.b);
}

/// x[j] becomes 0 or x[j]/(1 − p) for keys [k0, k0 + n).
template <class T>
MEFT_INLINE inline void drop_keys(const AttentionSpec<T>& spec, Index row, Index head, Index k0, Index n, T* x) {
  const Keep<T> keep(static_cast<double>(spec.dropout));
  const std::uint64_t base = static_cast<std::uint64_t>((spec.first_row + row) * spec.heads + head) << 24;
  constexpr Index block = dropout_block_size;  // k0 is a multiple of it
  std::uint16_t bits[key_tile];
  dropout_draws(spec.key, (base + static_cast<std::uint64_t>(k0)) / block, (n + block - 1) / block, bits);
  map_run(keep, n, x, x, bits);
}

/// How many of the keys [k0, k0 + n) query i sees, or has before it.
template <class T>
Index visible(const AttentionSpec<T>& spec, const Span& s, Index i, Index k0, Index n) {
  if (!spec.causal && !spec.window) return n;
  return std::clamp<Index>(i + s.keys - s.queries + (spec.causal ? 1 : spec.window) - k0, 0, n);
}

/// How many of those, the first ones, lie before its window.
template <class T>
Index outside(const AttentionSpec<T>& spec, const Span& s, Index i, Index k0, Index n) {
  return spec.window ? std::clamp<Index>(i + s.keys - s.queries + 1 - spec.window - k0, 0, n) : 0;
}

/// How many of the queries [i0, i0 + rows), the first ones, see no key from k0 on; not all of them.
template <class T>
Index unseeing(const AttentionSpec<T>& spec, const Span& s, Index i0, Index rows, Index k0) {
  return spec.causal ? std::clamp<Index>(k0 - (i0 + s.keys - s.queries), 0, rows - 1) : 0;
}

/// f(n scores from x, n places of a head's bias from b) for the keys [k0, k0 + n) of query i; where distances are all
/// one place, of one score after the other.
template <class T, class F>
MEFT_INLINE inline void at_distances(const AttentionSpec<T>& spec, const Span& s, Index i, Index k0, Index n, T* x,
                                     const F& f) {
  const Index at = k0 - (i + s.keys - s.queries) + spec.reach;  // the place of key k0
  const Index first = std::clamp<Index>(-at, 0, n), last = std::clamp<Index>(spec.distances() - at, first, n);
  for (Index j = 0; j < first; ++j) f(Index{1}, x + j, Index{0});
  if (last > first) f(last - first, x + first, at + first);
  for (Index j = last; j < n; ++j) f(Index{1}, x + j, 2 * spec.reach);
}

/// What the scores of a tile lack: their scale, unless they have a bias.
template <class T>
T unscaled(const AttentionSpec<T>& spec) {
  return spec.bias || !(spec.scale > 0) ? T(1) : spec.scale;
}

/// The scores of a tile over `unscaled`, with their bias; what a query must not see, and keys beyond n, are −∞.
template <class T>
MEFT_INLINE inline void scores(const AttentionSpec<T>& spec, const Span& s, Index head, Index i0, Index rows, Index k0,
                               Index n, Strided<T> q, const Right<T>& k, T* out) {
  constexpr T unseen = -std::numeric_limits<T>::infinity();
  const T* bias = spec.bias ? spec.bias + head * spec.distances() : nullptr;
  const bool scaled = unscaled(spec) != spec.scale;
  block_product<T>({rows, n, spec.width, q, out, key_tile}, k);
  for (Index i = 0; i < rows; ++i) {
    T* row = out + i * key_tile;
    if (scaled) map_run([c = spec.scale](T x) MEFT_INLINE { return x * c; }, n, row, row);
    if (bias)
      at_distances(spec, s, i0 + i, k0, n, row, [bias](Index count, T* x, Index place) MEFT_INLINE {
        for (Index j = 0; j < count; ++j) x[j] += bias[place + j];
      });
    std::fill(row, row + outside(spec, s, i0 + i, k0, n), unseen);
    for (Index j = visible(spec, s, i0 + i, k0, n); j < key_tile; ++j) row[j] = unseen;
  }
}

template <class T>
MEFT_INLINE inline void attend_head(const AttentionSpec<T>& spec, const Span& s, Index head, const T* q, const T* k,
                                    const T* v, T* out, T* lse) {
  constexpr T unseen = -std::numeric_limits<T>::infinity();
  const T by = unscaled(spec);
  const Index ld = spec.row(), at = head * spec.width;
  const Index ldk = spec.key_row(), at_k = head / spec.group() * spec.width;
  alignas(64) T p[query_tile * key_tile], key_panels[key_room<T>], value_panels[key_room<T>];
  T top[query_block], total[query_block], shift[query_tile], shrink[query_tile], added[query_tile];
  /// Queries [i0, i0 + rows) at one tile of keys.
  const auto attend = [&](Index i0, Index rows, Index k0, Index n, const Right<T>& keys, const Right<T>& values,
                          T* high, T* sum) MEFT_INLINE {
    const Index i1 = unseeing(spec, s, i0, rows, k0), first = s.q + i0;
    T* const o = out + first * ld + at;
    scores<T>(spec, s, head, i0 + i1, rows - i1, k0, n, {q + (first + i1) * ld + at, ld, 1}, keys, p + i1 * key_tile);
    for (Index i = i1; i < rows; ++i) {
      const T best = Larger{}(high[i], largest(key_tile, p + i * key_tile) * by);
      shrink[i] = 1;
      shift[i] = best == unseen ? T(0) : best;  // where no key of this tile weighs anything
      if (best == unseen || best == high[i]) continue;
      shrink[i] = Exp{}(high[i] - best);
      map_run([c = shrink[i]](T x) MEFT_INLINE { return x * c; }, spec.width, o + i * ld, o + i * ld);
      high[i] = best;
    }
    exp_rows<T>(rows - i1, p + i1 * key_tile, by, shift + i1, added + i1);
    for (Index i = i1; i < rows; ++i) {
      sum[i] = multiply_add(sum[i], shrink[i], added[i]);
      if (spec.dropout > 0) drop_keys(spec, first + i, head, k0, n, p + i * key_tile);
    }
    block_product<T>({rows - i1, spec.width, n, {p + i1 * key_tile, key_tile, 1}, o + i1 * ld, ld, Start::accumulate},
                     values);
  };
  for (Index b0 = 0; b0 < s.queries; b0 += query_block) {
    const Index block = std::min(query_block, s.queries - b0), first = s.q + b0;
    T* o = out + first * ld + at;
    for (Index i = 0; i < block; ++i) {
      top[i] = unseen;
      total[i] = 0;
      std::fill(o + i * ld, o + i * ld + spec.width, T(0));
    }
    for (Index k0 = 0; k0 < s.keys; k0 += key_tile) {
      const Index n = std::min(key_tile, s.keys - k0), from = (s.k + k0) * ldk + at_k;
      if (visible(spec, s, b0 + block - 1, k0, n) == 0) break;
      if (outside(spec, s, b0, k0, n) == n) continue;
      const Right<T> keys({k + from, 1, ldk}, spec.width, n, key_panels, key_room<T>);
      const Right<T> values({v + from, ldk, 1}, n, spec.width, value_panels, key_room<T>);
      for (Index i0 = 0; i0 < block; i0 += query_tile) {
        const Index rows = std::min(query_tile, block - i0);
        if (visible(spec, s, b0 + i0 + rows - 1, k0, n) == 0 || outside(spec, s, b0 + i0, k0, n) == n) continue;
        attend(b0 + i0, rows, k0, n, keys, values, top + i0, total + i0);
      }
    }
    for (Index i = 0; i < block; ++i) {
      // A query that sees no key has the result 0, and so its gradients; one whose scores are all -∞ has NaN.
      const bool any = visible(spec, s, b0 + i, 0, s.keys) > outside(spec, s, b0 + i, 0, s.keys);
      const T scale = any ? T(1) / total[i] : T(0);
      map_run([scale](T x) MEFT_INLINE { return x * scale; }, spec.width, o + i * ld, o + i * ld);
      lse[(first + i) * spec.heads + head] = any ? top[i] + Log{}(total[i]) : T(0);
    }
  }
}

/// Adds what one head gives to dk and dv, and `scale` times what it gives to its row of dbias, where that is not null.
template <class T>
MEFT_INLINE inline void attend_head_backward(const AttentionSpec<T>& spec, const Span& s, Index head, const T* q,
                                             const T* k, const T* v, const T* out, const T* lse, const T* dout, T* dq,
                                             T* dk, T* dv, T* dbias) {
  const Index ld = spec.row(), at = head * spec.width;
  const Index ldk = spec.key_row(), at_k = head / spec.group() * spec.width;
  alignas(64) T p[query_tile * key_tile], dp[query_tile * key_tile];
  alignas(64) T panels[3][key_room<T>], query_panels[query_room<T>], dout_panels[query_room<T>];
  T delta[query_block], shift[query_tile], sums[query_tile];
  const T by = unscaled(spec);
  const Index tiles = query_room<T> / ((spec.width + 15) / 16 * 16) / query_tile;  // whose panels find room
  const Index together = tiles ? std::min(tiles * query_tile, query_block) : query_block;
  for (Index b0 = 0; b0 < s.queries; b0 += together) {
    const Index block = std::min(together, s.queries - b0), first = s.q + b0, origin = first * ld + at;
    for (Index i = 0; i < block; ++i) {
      const T *o = out + origin + i * ld, *d = dout + origin + i * ld;
      delta[i] = sum_of<T>(spec.width, [o, d](Index j) MEFT_INLINE { return o[j] * d[j]; });
      std::fill(dq + origin + i * ld, dq + origin + i * ld + spec.width, T(0));
    }
    const Right<T> queries({q + origin, ld, 1}, block, spec.width, query_panels, query_room<T>);
    const Right<T> douts({dout + origin, ld, 1}, block, spec.width, dout_panels, query_room<T>);
    for (Index k0 = 0; k0 < s.keys; k0 += key_tile) {
      const Index n = std::min(key_tile, s.keys - k0), from = (s.k + k0) * ldk + at_k;
      if (visible(spec, s, b0 + block - 1, k0, n) == 0) break;
      if (outside(spec, s, b0, k0, n) == n) continue;
      const Right<T> keys_turned({k + from, 1, ldk}, spec.width, n, panels[0], key_room<T>);
      const Right<T> values_turned({v + from, 1, ldk}, spec.width, n, panels[1], key_room<T>);
      const Right<T> keys({k + from, ldk, 1}, n, spec.width, panels[2], key_room<T>);
      for (Index i0 = 0; i0 < block; i0 += query_tile) {
        const Index rows = std::min(query_tile, block - i0);
        if (visible(spec, s, b0 + i0 + rows - 1, k0, n) == 0 || outside(spec, s, b0 + i0, k0, n) == n) continue;
        const Index i1 = i0 + unseeing(spec, s, b0 + i0, rows, k0), seeing = i0 + rows - i1, of = origin + i1 * ld;
        scores<T>(spec, s, head, b0 + i1, seeing, k0, n, {q + of, ld, 1}, keys_turned, p);
        block_product<T>({seeing, n, spec.width, {dout + of, ld, 1}, dp, key_tile}, values_turned);
        for (Index i = 0; i < seeing; ++i) shift[i] = lse[(first + i1 + i) * spec.heads + head];
        exp_rows<T>(seeing, p, by, shift, sums);
        for (Index i = 0; i < seeing; ++i) {
          T *pi = p + i * key_tile, *di = dp + i * key_tile;
          const T drop = delta[i1 + i];
          if (spec.dropout > 0) drop_keys(spec, first + i1 + i, head, k0, n, di);
          map_run([drop, c = spec.scale](T x, T d) MEFT_INLINE { return x * (d - drop) * c; }, n, di, pi, di);
          if (spec.dropout > 0) drop_keys(spec, first + i1 + i, head, k0, n, pi);
          if (dbias)
            at_distances(spec, s, b0 + i1 + i, k0, n, di, [dbias](Index count, const T* d, Index place) MEFT_INLINE {
              for (Index j = 0; j < count; ++j) dbias[place + j] += d[j];
            });
        }
        block_product<T>({n, spec.width, seeing, {p, 1, key_tile}, dv + from, ldk, Start::accumulate}, douts.below(i1));
        block_product<T>({n, spec.width, seeing, {dp, 1, key_tile}, dk + from, ldk, Start::accumulate},
                         queries.below(i1));
        block_product<T>({seeing, spec.width, n, {dp, key_tile, 1}, dq + of, ld, Start::accumulate}, keys);
      }
    }
  }
}

/// The same of all heads that read one of the keys', in ascending order.
template <class T>
MEFT_INLINE inline void attend_group_backward(const AttentionSpec<T>& spec, const Span& s, Index key_head, const T* q,
                                              const T* k, const T* v, const T* out, const T* lse, const T* dout, T* dq,
                                              T* dk, T* dv, T* dbias) {
  for (T* d : {dk, dv})
    for (Index j = 0; j < s.keys; ++j) {
      T* const row = d + (s.k + j) * spec.key_row() + key_head * spec.width;
      std::fill(row, row + spec.width, T(0));
    }
  const Index first = key_head * spec.group();
  for (Index head = first; head < first + spec.group(); ++head)
    attend_head_backward(spec, s, head, q, k, v, out, lse, dout, dq, dk, dv,
                         dbias ? dbias + head * spec.distances() : nullptr);
}

}  // namespace cpu

template <Real T>
void attention(Cpu, const AttentionSpec<T>& spec, const Spans& spans, const T* q, const T* k, const T* v, T* out,
               T* lse) {
  const Span* const span = spans.list.data();
  parallel_for(spans.count() * spec.heads, [&](Index task) {
    vectorised(
        [&]() MEFT_INLINE { cpu::attend_head(spec, span[task / spec.heads], task % spec.heads, q, k, v, out, lse); });
  });
}

template <Real T>
void attention_backward(Cpu, const AttentionSpec<T>& spec, const Spans& all, const T* q, const T* k, const T* v,
                        const T* out, const T* lse, const T* dout, T* dq, T* dk, T* dv, T* dbias) {
  const Index spans = all.count();
  const Span* const span = all.list.data();
  const Index key_heads = spec.heads / spec.group();
  // Of a bias's gradient each head has a row, to which its sequences add in their order.
  const Index each = dbias ? spans : 1;
  if (dbias) std::fill(dbias, dbias + spec.heads * spec.distances(), T(0));
  parallel_for(spans / std::max<Index>(each, 1) * key_heads, [&](Index task) {
    for (Index i = task / key_heads * each, end = i + each; i < end; ++i)
      vectorised([&]() MEFT_INLINE {
        cpu::attend_group_backward(spec, span[i], task % key_heads, q, k, v, out, lse, dout, dq, dk, dv, dbias);
      });
  });
  for (Index i = 0; dbias && i < spec.heads * spec.distances(); ++i) dbias[i] /= spec.scale;
}

}  // namespace meft
