// Owns: what a model keeps of the tokens that it has read, such as attention's keys and values, so that the next tokens
// are computed alone.
#pragma once

#include <map>
#include <span>
#include <utility>
#include <vector>

#include <meft/base/mutex.hpp>
#include <meft/tensor/ragged.hpp>
#include <meft/tensor/tensor.hpp>

namespace meft {

/// Of a batch of sequences, for the passes that read one piece of each after the other, under no tape. Slices of
/// sequences may run at once; everything else happens between two passes.
template <Scalar T, Backend B = Cpu>
class KvCache {
 public:
  explicit KvCache(Index sequences) : read_(Offsets::of_lengths(std::vector<std::int32_t>(number(sequences), 0))) {}

  /// The tokens that passes have read, by sequence.
  const Offsets& read() const { return read_; }

  /// `rows` of the sequences [first, …), with `offsets`, behind the rows that were given for their earlier tokens in
  /// the same name, which is an address. [earlier tokens + tokens, n]
  Tensor<T, B> behind(const void* name, const Tensor<T, B>& rows, const Offsets& offsets, Index first) {
    auto& of = kept(name, offsets, first);
    for (Index s = 0; s < offsets.sequences(); ++s) {
      const auto& before = of[number(first + s)];
      const Index found = before.defined() ? before.dim(0) : 0;
      require(found == read_.length(first + s), "kv cache: kept rows are not those of the tokens read: expected, found",
              read_.length(first + s), found);
    }
    return keep(of, rows, offsets, first);
  }

  /// made() [tokens, n], of what the sequences [first, …) read beside their own tokens: called in the first pass alone.
  template <class F>
  Tensor<T, B> once(const void* name, const Offsets& offsets, Index first, const F& made) {
    auto& of = kept(name, offsets, first);
    return keep(of, of[number(first)].defined() ? Tensor<T, B>() : made(), offsets, first);
  }

  /// A pass has read `offsets`' tokens.
  void advance(const Offsets& offsets) { read_ = offsets.behind(read_); }
  /// The sequences of these numbers go on, as the first and so on.
  void only(std::span<const Index> numbers) {
    std::vector<std::int32_t> lengths;
    for (const Index i : numbers)
      require(0 <= i && i < read_.sequences(), "kv cache: expected numbers of its sequences, found", i,
              read_.sequences());
    for (const Index i : numbers) lengths.push_back(static_cast<std::int32_t>(read_.length(i)));
    read_ = Offsets::of_lengths(lengths);
    for (auto& [name, rows] : kept_) {
      Rows some;
      for (const Index i : numbers) some.push_back(rows[number(i)]);
      rows = std::move(some);
    }
  }

 private:
  using Rows = std::vector<Tensor<T, B>>;  // of each sequence, or none yet

  static std::size_t number(Index i) { return static_cast<std::size_t>(i); }
  Rows& kept(const void* name, const Offsets& offsets, Index first) {
    require(0 <= first && first + offsets.sequences() <= read_.sequences(),
            "kv cache: expected a part of its sequences, found", first, offsets.sequences(), read_.sequences());
    const Lock lock(mutex_);
    auto& rows = kept_[name];
    rows.resize(number(read_.sequences()));
    return rows;
  }
  /// Keeps rows, where there are any, behind those that are kept, and gives all of them.
  Tensor<T, B> keep(Rows& of, const Tensor<T, B>& rows, const Offsets& offsets, Index first) {
    const auto kept_of = [&](Index s) -> Tensor<T, B>& { return of[number(first + s)]; };
    const auto count = [](const Tensor<T, B>& x) { return x.defined() ? x.dim(0) : 0; };
    const auto added = [&](Index s) { return rows.defined() ? offsets.length(s) : 0; };
    Index before = 0;
    for (Index s = 0; s < offsets.sequences(); ++s) before += count(kept_of(s));
    Tensor<T, B> all = rows;
    if (before > 0) {
      const Index width = rows.defined() ? rows.dim(1) : kept_of(0).dim(1);
      all = Tensor<T, B>({before + count(rows), width});
      T* to = all.data();
      const auto put = [&](const T* from, Index n) {
        B::copy(to, from, static_cast<std::size_t>(n * width) * sizeof(T));
        to += n * width;
      };
      for (Index s = 0; s < offsets.sequences(); ++s) {
        if (const auto& x = std::as_const(kept_of(s)); x.defined()) put(x.data(), x.dim(0));
        if (rows.defined()) put(rows.data() + offsets.begin(s) * width, added(s));
      }
    }
    for (Index s = 0, begin = 0; s < offsets.sequences(); ++s) {
      const Index end = begin + count(kept_of(s)) + added(s);
      kept_of(s) = all.rows(begin, end);
      begin = end;
    }
    return all;
  }

  Offsets read_;
  Mutex mutex_;
  std::map<const void*, Rows> kept_;
};

}  // namespace meft
