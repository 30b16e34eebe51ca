// Owns: what a function inside a layer sees besides its input: where its rows stand in the batch, which run this is.
#pragma once

#include <cstdint>
#include <vector>

#include <meft/autodiff/tape.hpp>
#include <meft/base/random.hpp>
#include <meft/tensor/kv_cache.hpp>
#include <meft/tensor/ragged.hpp>

namespace meft {

/// Which run of the model: dropout is on while training and is replayed from seed and step.
struct Run {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  bool training = false;

  Key key(std::uint32_t site) const { return {seed, site, step}; }
};

/// Throws where a tape records: what a cache of read tokens keeps is constant.
inline void refuse_tape_beside_cache() {
  require(!Tape::current(), "a cache of read tokens: under no tape alone", "a tape records");
}

/// An input that every layer reads beside its stream, as a decoder reads the encoder's output. It has its own offsets.
template <Real T, Backend B = Cpu>
struct Side {
  Var<T, B> value;
  Offsets offsets;
};

/// A whole batch, or a slice of whole sequences of one.
template <Real T, Backend B = Cpu>
struct Context {
  Offsets offsets;
  Run run{};
  Index first_row = 0;  // of the slice in the batch: random numbers are counted over the batch
  std::vector<Side<T, B>> sides{};
  KvCache<T, B>* cache = nullptr;  // where the sequences go on, or begin to be read in pieces
  Index first_sequence = 0;        // of the slice in the batch

  /// What was read before the batch's tokens, by sequence; none without a cache.
  Offsets earlier() const {
    return cache ? cache->read().part(first_sequence, first_sequence + offsets.sequences()) : Offsets();
  }
  /// All tokens that were read, the batch's among them.
  Offsets seen() const { return offsets.behind(earlier()); }
  /// Rows [tokens, n] of what was seen, `rows` of the batch's tokens: with a cache as KvCache's.
  Var<T, B> behind(const void* name, const Var<T, B>& rows) const {
    if (!cache) return rows;
    refuse_tape_beside_cache();
    return cache->behind(name, rows.value(), offsets, first_sequence);
  }
  /// made(), of the sequences of a side: with a cache as KvCache's.
  template <class F>
  Var<T, B> once(const void* name, const Offsets& side, const F& made) const {
    if (!cache) return made();
    refuse_tape_beside_cache();
    return cache->once(name, side, first_sequence, [&] { return made().value(); });
  }

  /// Sequences [first, last), with their rows of the sides as constants.
  Context part(Index first, Index last) const {
    Context out{offsets.part(first, last), run, first_row + offsets.begin(first), {}, cache, first_sequence + first};
    for (const auto& side : sides)
      out.sides.push_back({side.value.value().rows(side.offsets.begin(first), side.offsets.end(last - 1)),
                           side.offsets.part(first, last)});
    return out;
  }

  /// Rows [first, last) as they are for a function that sees each on its own.
  Context chunk(Index first, Index last) const {
    return {Offsets({0, static_cast<std::int32_t>(last - first)}), run, first_row + first, {}};
  }
};

}  // namespace meft
