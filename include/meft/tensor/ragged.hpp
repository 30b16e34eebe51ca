// Owns: where each sequence of a packed batch begins. It lies on the host; tokens are rows [begin(i), end(i)). And what
// of recorded work follows such places when it is run again on other ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/shape.hpp>

namespace meft {

namespace detail {
/// Whether this thread reads offsets in order to read them again when recorded work is run again.
inline bool& reads_again() {
  thread_local bool again = false;
  return again;
}
}  // namespace detail

/// Starts of the sequences of a ragged batch, and the number of tokens at the end: [0, 3, 3, 7] are three sequences of
/// 3, 0 and 4 tokens. Immutable; copies share the values. Those of a recording are `open` to values of other batches:
/// what is recorded reads them by `follow` and `settled`, or is tied to the values that it saw.
class Offsets {
 public:
  /// No sequences.
  Offsets() : Offsets(std::vector<std::int32_t>{0}) {}
  /// Throws unless the values start at 0 and never decrease.
  explicit Offsets(std::vector<std::int32_t> starts, Where where = Where::current()) {
    if (starts.empty()) fail({"offsets: no values", where});
    require(starts.front() == 0, {"offsets: the first value is not 0", where}, starts.front());
    for (std::size_t i = 1; i < starts.size(); ++i) {
      const Index length = Index{starts[i]} - starts[i - 1];
      if (length < 0) fail({"offsets: a sequence has a negative length", where}, sequence(i - 1), length);
    }
    values_ = std::make_shared<Values>(Values{std::move(starts)});
  }
  static Offsets of_lengths(std::span<const std::int32_t> lengths, Where where = Where::current()) {
    std::vector<std::int32_t> starts{0};
    starts.reserve(lengths.size() + 1);
    Index total = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      if (lengths[i] < 0) fail({"offsets: a sequence has a negative length", where}, sequence(i), lengths[i]);
      total += lengths[i];
      require(total <= INT32_MAX, {"offsets: more than 2^31 - 1 tokens", where}, total);
      starts.push_back(static_cast<std::int32_t>(total));
    }
    return Offsets(std::move(starts), where);
  }

  Index sequences() const { return static_cast<Index>(values_->starts.size()) - 1; }
  Index tokens() const { return values_->starts.back(); }
  /// First token of sequence i, the one after its last, and their distance; i in [0, sequences()), unchecked.
  Index begin(Index i) const { return i == 0 ? 0 : read()[static_cast<std::size_t>(i)]; }
  Index end(Index i) const { return i + 1 == sequences() ? tokens() : read()[static_cast<std::size_t>(i) + 1]; }
  Index length(Index i) const { return end(i) - begin(i); }
  /// Length of the longest sequence; 0 without sequences.
  Index longest() const {
    Index most = 0;
    for (Index i = 0; i < sequences(); ++i) most = std::max(most, length(i));
    return most;
  }
  std::span<const std::int32_t> values() const { return read(); }

  /// The same values, for a recording: as many sequences and tokens come by `assign`.
  Offsets open() const {
    Offsets out;
    out.values_ = std::make_shared<Values>(Values{values_->starts, true});
    return out;
  }
  /// Whether open ones were read otherwise than by `follow` and `settled`, but for their numbers of sequences and
  /// tokens.
  bool tied() const { return values_->tied; }
  /// Gives open ones, and all copies of them, the values of others with as many sequences and tokens.
  void assign(const Offsets& other, Where where = Where::current()) {
    require(is_open() && sequences() == other.sequences() && tokens() == other.tokens(),
            {"offsets: only open ones are assigned to, with as many sequences and tokens", where}, sequences(),
            other.sequences(), tokens(), other.tokens());
    values_->starts = other.values_->starts;
  }
  bool is_open() const { return values_->open; }
  /// Tells open ones from others that have the same values now; null for those that are not.
  const void* identity() const { return is_open() ? values_.get() : nullptr; }

  /// Sequences [first, last) on their own, starting at token 0.
  Offsets part(Index first, Index last, Where where = Where::current()) const {
    require(0 <= first && first <= last && last <= sequences(), {"offsets: no such part", where}, first, last,
            std::to_string(sequences()) + " sequences");
    if (first == 0 && last == sequences()) return *this;
    std::vector<std::int32_t> starts;
    for (Index i = first; i <= last; ++i) starts.push_back(static_cast<std::int32_t>(begin(i) - begin(first)));
    return Offsets(std::move(starts), where);
  }

  /// Sequences whose tokens stand behind those of `before`, which has as many sequences, or none.
  Offsets behind(const Offsets& before, Where where = Where::current()) const {
    if (before.sequences() == 0) return *this;
    require(before.sequences() == sequences(), {"offsets: other numbers of sequences", where}, before.sequences(),
            sequences());
    std::vector<std::int32_t> lengths;
    for (Index i = 0; i < sequences(); ++i) lengths.push_back(static_cast<std::int32_t>(before.length(i) + length(i)));
    return of_lengths(lengths, where);
  }

  friend bool operator==(const Offsets& a, const Offsets& b) {
    return a.values_ == b.values_ || a.values_->starts == b.values_->starts;
  }

 private:
  struct Values {
    std::vector<std::int32_t> starts;
    bool open = false, tied = false;
  };

  static std::string sequence(std::size_t i) { return "sequence " + std::to_string(i); }
  const std::vector<std::int32_t>& read() const {
    if (values_->open && !detail::reads_again()) values_->tied = true;
    return values_->starts;
  }

  std::shared_ptr<Values> values_;
};

/// f, to be called again when recorded work is run again: what it reads of offsets does not tie the work to them.
template <class F>
auto reading_again(F f) {
  return [f = std::move(f)](auto&&... x) {
    struct Scope {
      bool before = std::exchange(detail::reads_again(), true);
      ~Scope() { detail::reads_again() = before; }
    } scope;
    return f(std::forward<decltype(x)>(x)...);
  };
}

/// found(), which follows from offsets and shapes what is done: recorded work is run again where the same is found.
template <class B, class F>
auto settled(const F& found) {
  return B::settled(reading_again(found));
}

}  // namespace meft
