// Owns: what the attention kernels on tensor cores share: a warp has 16 rows of a block's tile, queries or keys, and
// meets the other side's rows, in bf16 in shared memory, a tile at a time. Scores stay in registers: as results of one
// product they are the left operand of the next. Dao, "FlashAttention-2", arXiv 2307.08691.
#pragma once

#include <attention.cuh>
#include <mma.cuh>

namespace meft::cuda::mma {

using attend::Spec;

constexpr float log2_e = 1.44269504088896340736f, ln_2 = 0.69314718055994530942f;

/// Rows of the other side that are in shared memory together.
constexpr int tile = 64;
/// Elements from row to row there: of 8 neighbouring rows each 16 bytes lie in different banks.
template <int most>
constexpr int step = most + 8;

struct alignas(8) Pair {
  float x, y;
};

/// What a query sees: keys less than `ahead` after its place and less than `behind` before it.
struct Sight {
  int keys, ahead, behind, shift;  // shift: of a query's number to its place
  __device__ Sight(const Spec<float>& s, const Span& span)
      : keys(static_cast<int>(span.keys)),
        ahead(s.of.causal   ? 1
              : s.of.window ? static_cast<int>(s.of.window)
                            : everything),
        behind(s.of.window ? static_cast<int>(s.of.window) : everything),
        shift(static_cast<int>(span.keys - span.queries)) {}
  __device__ bool sees(int query, int key) const {
    const int d = key - query - shift;
    return key < keys && d < ahead && -d < behind;
  }
  /// Whether one of `m` queries from `query` sees one of `n` keys from `key`, if there are any; whether all see all.
  __device__ bool some(int query, int m, int key, int n) const {
    return key < keys && key - (query + m - 1) - shift < ahead && query + shift - (key + n - 1) < behind;
  }
  __device__ bool all(int query, int m, int key, int n) const {
    return key + n <= keys && key + n - 1 - query - shift < ahead && query + m - 1 + shift - key < behind;
  }
  static constexpr int everything = 1 << 30;
};

/// A lane's place: 4·g + t in its warp, whose first row of the block's tile is `first`.
struct Lane {
  int number, g, t, first;
  __device__ Lane()
      : number(static_cast<int>(threadIdx.x) % 32),
        g(number / 4),
        t(number % 4),
        first(static_cast<int>(threadIdx.x) / 32 * 16) {}
};

/// f(n, e) for every element of a lane in so many results of eight columns.
template <int eights, class F>
__device__ inline void elements(const F& f) {
  each<eights>([&](int n) { each<4>([&](int e) { f(n, e); }); });
}

/// Over the four lanes of a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(attend::whole, x, 1);
  return x + __shfl_xor_sync(attend::whole, x, 2);
}
__device__ inline float row_most(float x) {
  x = fmaxf(x, __shfl_xor_sync(attend::whole, x, 1));
  return fmaxf(x, __shfl_xor_sync(attend::whole, x, 2));
}

/// Rows as a call gives them: rounded already where that is not null.
struct Given {
  const float* full;
  const bf16* rounded;
  __device__ Given operator+(Index i) const { return {full + i, rounded ? rounded + i : nullptr}; }
};

/// Eight elements, rounded, or those of them before `end` and zeros. `packed`: they lie aligned to 16 bytes.
__device__ inline Pack<Word> eight(const float* at, int end, bool packed) {
  Pack<float> x[2] = {};
  if (packed) each<2>([&](int k) { x[k] = reinterpret_cast<const Pack<float>*>(at)[k]; });
  else
    each<8>([&](int k) {
      if (k < end) x[k / 4].at[k % 4] = at[k];
    });
  Pack<Word> y;
  each<4>([&](int k) { y.at[k] = pack(x[k / 2].at[2 * k % 4], x[k / 2].at[2 * k % 4 + 1]); });
  return y;
}
__device__ inline Pack<Word> eight(const bf16* at, int end, bool packed) {
  if (packed) return *reinterpret_cast<const Pack<Word>*>(at);
  Pack<Word> y{};
  each<8>([&](int k) {
    if (k < end) y.at[k / 2] |= static_cast<Word>(at[k].bits) << 16 * (k % 2);
  });
  return y;
}

/// Copies `rows` rows [begin, …) of a head, `row` elements apart, rounded, to shared memory; zeros from row `end` on,
/// and up to the next multiple of 16 elements. `packed`: 8 neighbours lie aligned to 16 bytes.
template <int most>
__device__ void load(const Given& from, Index row, Index begin, Index end, int rows, int width, bool packed, bf16* to) {
  constexpr int eights = most / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * eights; i += static_cast<int>(blockDim.x)) {
    const int r = i / eights, c = i % eights * 8;
    if (c >= (width + 15) / 16 * 16) continue;
    const Index at = (begin + r) * row + c;
    Pack<Word> x{};
    if (begin + r < end && c < width)
      x = from.rounded ? eight(from.rounded + at, width - c, packed) : eight(from.full + at, width - c, packed);
    *reinterpret_cast<Pack<Word>*>(to + r * step<most> + c) = x;
  }
}

/// A left operand: 16 rows in shared memory, read again for each use, or held in registers.
template <int most>
struct Read {
  const bf16* at;
  __device__ Read(const bf16* rows, int, const Lane& lane)
      : at(rows + (lane.first + lane.number % 16) * step<most> + lane.number / 16 * 8) {}
  __device__ void get(int k, Word (&a)[4]) const { mma::load<false>(a, at + k * 16); }
};
template <int most>
struct Held {
  Word at[most / 16][4];
  __device__ Held(const bf16* rows, int width, const Lane& lane) {
    const Read<most> from(rows, width, lane);
    each<most / 16>([&](int k) {
      if (k * 16 < width) from.get(k, at[k]);
    });
  }
  __device__ void get(int k, Word (&a)[4]) const {
    each<4>([&](int i) { a[i] = at[k][i]; });
  }
};

/// sum = the products of the warp's rows with 8·eights rows from `rows`.
template <int most, class Left, int eights>
__device__ void products(const Left& left, const bf16* rows, int width, const Lane& lane, float (&sum)[eights][4]) {
  const bf16* const at = rows + (lane.number / 16 * 8 + lane.number % 8) * step<most> + lane.number / 8 % 2 * 8;
  elements<eights>([&](int n, int e) { sum[n][e] = 0; });
  each<most / 16>([&](int k) {
    if (k * 16 >= width) return;
    Word a[4];
    left.get(k, a);
    each<eights / 2>([&](int n) {
      Word b[4];
      mma::load<false>(b, at + n * 16 * step<most> + k * 16);
      multiply(sum[2 * n], a, {b[0], b[1]});
      multiply(sum[2 * n + 1], a, {b[2], b[3]});
    });
  });
}

/// sum += weights, of the warp's rows and 8·eights rows from `rows` on, times those; weights are rounded.
template <int most, int eights>
__device__ void add_weighted(const float (&weight)[eights][4], const bf16* rows, int width, const Lane& lane,
                             float (&sum)[most / 8][4]) {
  const bf16* const at = rows + lane.number % 16 * step<most> + lane.number / 16 * 8;
  each<eights / 2>([&](int j) {
    const auto &x = weight[2 * j], &y = weight[2 * j + 1];
    const Word a[4] = {pack(x[0], x[1]), pack(x[2], x[3]), pack(y[0], y[1]), pack(y[2], y[3])};
    each<most / 16>([&](int c) {
      if (c * 16 >= width) return;
      Word b[4];
      mma::load<true>(b, at + j * 16 * step<most> + c * 16);
      multiply(sum[2 * c], a, {b[0], b[1]});
      multiply(sum[2 * c + 1], a, {b[2], b[3]});
    });
  });
}

/// Writes the lane's elements of row g + 8·half times `by`, at element `at` of what is there of the two.
template <int most>
__device__ void store(const float (&sum)[most / 8][4], int half, float by, int width, bool packed, const Lane& lane,
                      Index at, float* full, bf16* rounded) {
  each<most / 8>([&](int n) {
    const int c = 8 * n + 2 * lane.t;
    const float x = sum[n][2 * half] * by, y = sum[n][2 * half + 1] * by;
    if (packed) {
      if (c >= width) return;
      if (full) *reinterpret_cast<Pair*>(full + at + c) = {x, y};
      if (rounded) *reinterpret_cast<Word*>(rounded + at + c) = pack(x, y);
      return;
    }
    for (int k = 0; k < 2; ++k) {
      if (c + k >= width) return;
      if (full) full[at + c + k] = k ? y : x;
      if (rounded) rounded[at + c + k] = bf16(k ? y : x);
    }
  });
}

/// Bit e: whether dropout keeps element e of a block of draws.
__device__ inline Word kept_of_block(const Spec<float>& s, const Key& random, std::uint64_t number) {
  const auto block = dropout_block(random, number);
  Word kept = 0;
  each<dropout_block_size>([&](int e) {
    kept |= static_cast<Word>(dropout_bits(block, static_cast<unsigned>(e)) >= s.keep.threshold) << e;
  });
  return kept;
}

/// Which scores dropout keeps, bit 4·n + e for element e of the n-th eight columns: rows g and g + 8 are queries `row`
/// and `row` + 8, columns the keys from `key`, a multiple of 8. Eight keys share a block of draws: of the four lanes
/// that have them each draws for one of the two rows and every other eight columns.
template <int eights>
__device__ Word kept_of_queries(const Spec<float>& s, const Key& random, Index row, Index head, int key,
                                const Lane& lane) {
  static_assert(eights % 2 == 0);
  if (!s.keep.threshold) return ~Word{0};
  const std::uint64_t block =
      s.bits_of(row + lane.t % 2 * 8, head) / 8 + static_cast<std::uint64_t>(key / 8 + lane.t / 2);
  Word own = 0, kept = 0;
  for (int n = 0; n < eights; n += 2) own |= kept_of_block(s, random, block + static_cast<std::uint64_t>(n)) << 4 * n;
  each<4>([&](int from) {
    const Word of = __shfl_sync(attend::whole, own, (lane.number & ~3) | from);
    kept |= (of >> 2 * lane.t & 0x03030303u) << 2 * from;
  });
  return kept;
}

/// The same where rows are keys from `key`, a multiple of 16, and columns queries from `row`. Eight keys of a query
/// share a block: of the eight lanes that have them each draws for one of two queries, the lower or the upper eight
/// keys, and every other eight columns.
template <int eights>
__device__ Word kept_of_keys(const Spec<float>& s, const Key& random, Index row, Index head, int key,
                             const Lane& lane) {
  static_assert(eights % 2 == 0);
  if (!s.keep.threshold) return ~Word{0};
  const int query = lane.g % 2, upper = lane.g / 2 % 2, odd = lane.g / 4;
  Word own = 0, kept = 0;
  for (int n = 0; n < eights; n += 2) {
    const std::uint64_t first = s.bits_of(row + 8 * (n + odd) + 2 * lane.t + query, head) / 8;
    own |= kept_of_block(s, random, first + static_cast<std::uint64_t>(key / 8 + upper)) << 4 * n;
  }
  each<8>([&](int from) {
    const Word of = __shfl_sync(attend::whole, own, from << 2 | lane.t);
    kept |= (of >> lane.g & 0x01010101u) << from;
  });
  return kept;
}

}  // namespace meft::cuda::mma
