// Owns: a batch cut into slices of whole sequences, and the order in which they pass.
#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include <meft/tensor/ragged.hpp>

namespace meft::detail {

/// Cuts a batch into slices of whole sequences of about `tokens` rows: {first, last} sequence of each. Empty sequences
/// go with a neighbour: a slice has rows, where the batch has.
inline std::vector<std::pair<Index, Index>> cut(const Offsets& offsets, Index tokens) {
  std::vector<std::pair<Index, Index>> out;
  for (Index i = 0, first = 0; i < offsets.sequences(); ++i)
    if (i + 1 == offsets.sequences() || (offsets.end(i + 1) - offsets.begin(first) > tokens &&
                                         offsets.length(i + 1) > 0 && offsets.end(i) > offsets.begin(first))) {
      out.push_back({first, i + 1});
      first = i + 1;
    }
  return out;
}
/// The same of a batch on a device.
template <class B>
std::vector<std::pair<Index, Index>> cut(const Offsets& offsets, Index tokens) {
  return settled<B>([=] { return cut(offsets, tokens); });
}

/// Rows [first, last) of a slice.
struct Chunk {
  Index first, last;
};

/// Cuts the rows of a slice into chunks of at most `most`, equal within one row.
inline std::vector<Chunk> chunks(Index rows, Index most) {
  const Index count = (rows + most - 1) / most;
  std::vector<Chunk> out;
  for (Index i = 0; i < count; ++i) out.push_back({i * rows / count, (i + 1) * rows / count});
  return out;
}

/// Lets slices through in ascending order, one at a time; a failure lets everyone go.
class Turnstile {
 public:
  template <class F>
  void pass(Index slice, const F& f) {
    for (Index now; (now = next_) != slice;) {
      if (now == failed) return;
      next_.wait(now);
    }
    f();
    Index expected = slice;
    next_.compare_exchange_strong(expected, slice + 1);
    next_.notify_all();
  }
  void fail() {
    next_ = failed;
    next_.notify_all();
  }

 private:
  static constexpr Index failed = -1;
  std::atomic<Index> next_{0};
};

}  // namespace meft::detail
