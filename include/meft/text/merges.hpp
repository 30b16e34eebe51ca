// Owns: the merges of a byte pair encoding, by the ids of their two tokens, and applying them to a word.
// Must not know: what a token looks like.
// Source: Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", arXiv
// 1508.07909.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <span>
#include <utility>
#include <vector>

namespace meft::text {

class Merges {
 public:
  /// Two tokens next to each other become `made`. Earlier merges go first; of the same pair the last one counts.
  void add(std::int32_t left, std::int32_t right, std::int32_t made) {
    if (2 * (made_.size() + 1) > slots_.size()) grow();
    const auto rank = static_cast<std::uint32_t>(made_.size());
    made_.push_back(made);
    put(slots_, {key(left, right), rank});
  }

  std::size_t size() const { return made_.size(); }

  /// Merges the tokens `ids[begin]` … until no pair of neighbours has a merge: always the earliest merge, and of its
  /// places the leftmost. O(n log n) for n tokens.
  void apply(std::vector<std::int32_t>& ids, std::size_t begin) const {
    const std::size_t count = ids.size() - begin;
    if (count < 2 || made_.empty()) return;
    const std::span<std::int32_t> word(ids.data() + begin, count);
    ids.resize(begin + (count <= few ? merge_few(word) : merge_many(word)));
  }

 private:
  static constexpr std::uint32_t none = UINT32_MAX;
  static constexpr std::size_t few = 32;  // up to here a scan beats a queue

  struct Slot {
    std::uint64_t pair = 0;
    std::uint32_t rank = none;  // none: free
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }

  static std::size_t home(const std::vector<Slot>& slots, std::uint64_t pair) {
    pair ^= pair >> 32;
    pair *= 0x9E3779B97F4A7C15;
    return static_cast<std::size_t>(pair ^ pair >> 32) & (slots.size() - 1);
  }

  static void put(std::vector<Slot>& slots, Slot slot) {
    std::size_t at = home(slots, slot.pair);
    while (slots[at].rank != none && slots[at].pair != slot.pair) at = (at + 1) & (slots.size() - 1);
    slots[at] = slot;
  }

  void grow() {
    std::vector<Slot> larger(std::max<std::size_t>(16, 2 * slots_.size()));
    for (const Slot& slot : slots_)
      if (slot.rank != none) put(larger, slot);
    slots_ = std::move(larger);
  }

  /// The rank of the merge of two tokens, or none.
  std::uint32_t rank(std::int32_t left, std::int32_t right) const {
    const std::uint64_t pair = key(left, right);
    std::size_t at = home(slots_, pair);
    while (slots_[at].rank != none && slots_[at].pair != pair) at = (at + 1) & (slots_.size() - 1);
    return slots_[at].rank;
  }

  /// Both return how many tokens of `word` are left, at its front.
  std::size_t merge_few(std::span<std::int32_t> word) const {
    std::array<std::uint32_t, few> ranks;  // of the pair that begins here
    std::size_t pairs = word.size() - 1;
    for (std::size_t i = 0; i < pairs; ++i) ranks[i] = rank(word[i], word[i + 1]);
    while (pairs > 0) {
      const auto at = static_cast<std::size_t>(std::min_element(ranks.begin(), ranks.begin() + pairs) - ranks.begin());
      if (ranks[at] == none) break;
      word[at] = made_[ranks[at]];
      std::copy(word.begin() + static_cast<std::ptrdiff_t>(at) + 2,
                word.begin() + static_cast<std::ptrdiff_t>(pairs) + 1,
                word.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      std::copy(ranks.begin() + at + 1, ranks.begin() + pairs, ranks.begin() + at);
      --pairs;
      if (at > 0) ranks[at - 1] = rank(word[at - 1], word[at]);
      if (at < pairs) ranks[at] = rank(word[at], word[at + 1]);
    }
    return pairs + 1;
  }

  std::size_t merge_many(std::span<std::int32_t> word) const {
    struct Link {
      std::size_t before, after;
      std::uint32_t rank;  // of the pair that begins here
    };
    using Candidate = std::pair<std::uint32_t, std::size_t>;  // rank, place
    const std::size_t count = word.size();
    std::vector<Link> links(count);
    std::vector<Candidate> candidates;
    candidates.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      links[i] = {i - 1, i + 1, i + 1 < count ? rank(word[i], word[i + 1]) : none};
      if (links[i].rank != none) candidates.emplace_back(links[i].rank, i);
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue({}, std::move(candidates));
    auto look_again = [&](std::size_t at) {
      Link& link = links[at];
      link.rank = link.after < count ? rank(word[at], word[link.after]) : none;
      if (link.rank != none) queue.emplace(link.rank, at);
    };
    while (!queue.empty()) {
      const auto [best, at] = queue.top();
      queue.pop();
      Link& link = links[at];
      if (link.rank != best) continue;  // the pair is no longer there
      word[at] = made_[best];
      links[link.after].rank = none;
      link.after = links[link.after].after;
      if (link.after < count) links[link.after].before = at;
      if (at > 0) look_again(link.before);
      look_again(at);
    }
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; i = links[i].after) word[kept++] = word[i];
    return kept;
  }

  std::vector<Slot> slots_;
  std::vector<std::int32_t> made_;  // by rank
};

}  // namespace meft::text
