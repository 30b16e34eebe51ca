// Owns: what frozen layers gave for sequences seen before.
// Must not know: networks, what taps are of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include <meft/autodiff/tape.hpp>
#include <meft/base/mutex.hpp>
#include <meft/base/random.hpp>
#include <meft/ops/shape.hpp>
#include <meft/reversible/context.hpp>

namespace meft {

/// Taps of sequences by what enters the first layer, up to a number of bytes: what is there stays, since epochs come
/// back to every example. A sequence's taps must hang on nothing but that: to the bit on the host, and on a device but
/// for the roundings of products, which go with their sizes.
template <Real T, Backend B = Cpu>
class FeatureCache {
 public:
  using Taps = std::vector<Var<T, B>>;

  explicit FeatureCache(std::size_t bytes) : most_(bytes) {}

  /// Of x [tokens, width], whole sequences. make(rows of x, their context) gives those that are not there, of all such
  /// sequences that follow each other: each tap has as many rows for every sequence, or a row for each token.
  template <class Make>
  Taps operator()(const Tensor<T, B>& x, const Context<T, B>& context, const Make& make) {
    const Offsets& offsets = context.offsets;
    const Index n = offsets.sequences();
    std::vector<Taps> taps;  // of all sequences, in parts
    for (Index s = 0; s < n;) {
      const auto rows = [&](Index last) { return x.rows(offsets.begin(s), offsets.end(last - 1)); };
      const Key key = key_of(rows(s + 1));
      if (auto there = find(key); !there.empty()) {
        taps.push_back(std::move(there));
        ++s;
        continue;
      }
      std::vector<Key> keys{key};
      Index last = s + 1;
      for (; last < n; ++last) {
        keys.push_back(key_of(x.rows(offsets.begin(last), offsets.end(last))));
        if (!find(keys.back()).empty()) break;
      }
      taps.push_back(make(rows(last), context.part(s, last)));
      for (Index i = s; i < last; ++i) keep(keys[static_cast<std::size_t>(i - s)], taps.back(), offsets, s, last, i);
      s = last;
    }
    if (taps.size() == 1) return std::move(taps.front());
    Taps out;
    for (std::size_t i = 0; i < taps.front().size(); ++i) {
      std::vector<Var<T, B>> parts;
      for (auto& part : taps) parts.push_back(std::exchange(part[i], {}));
      out.push_back(concat(parts, 0));
    }
    return out;
  }

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;

  static Key key_of(const Tensor<T, B>& x) {
    Key out{1, 2};
    for (const T value : x.values()) {
      std::uint64_t word = 0;
      std::memcpy(&word, &value, sizeof value);
      out = {mix(out.first, word), mix(out.second, word)};
    }
    return out;
  }

  /// Those of a sequence; none where it is not there.
  Taps find(const Key& key) const {
    const Lock lock(mutex_);
    const auto found = of_.find(key);
    return found == of_.end() ? Taps{} : Taps(found->second.begin(), found->second.end());
  }

  /// The i-th sequence's of the taps of those from first to before last.
  void keep(const Key& key, const Taps& taps, const Offsets& offsets, Index first, Index last, Index i) {
    const Index tokens = offsets.end(last - 1) - offsets.begin(first);
    std::vector<Tensor<T, B>> own;
    std::size_t more = 0;
    for (const auto& tap : taps) {
      const Index each = tap.dim(0) / (last - first);
      const bool by_token = tap.dim(0) == tokens;
      const Index begin = by_token ? offsets.begin(i) - offsets.begin(first) : each * (i - first);
      own.push_back(tap.value().rows(begin, begin + (by_token ? offsets.length(i) : each)));
      more += own.back().bytes();
    }
    const Lock lock(mutex_);
    if (bytes_ + more > most_) return;
    const auto [at, fresh] = of_.try_emplace(key);
    if (!fresh) return;
    const UseScope use(Use::features);
    for (const auto& tensor : own) at->second.push_back(tensor.clone());
    bytes_ += more;
  }

  mutable Mutex mutex_;  // bodies are run by any thread
  std::size_t most_, bytes_ = 0;
  std::map<Key, std::vector<Tensor<T, B>>> of_;
};

}  // namespace meft
