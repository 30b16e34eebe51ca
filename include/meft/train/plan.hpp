// Owns: the batches of an epoch's steps, in order. A pure function of seed and epoch, so that a run resumes by asking
// again. Must not know: models, what is done with a batch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <meft/data/batches.hpp>

namespace meft::train {

using Rows = std::vector<std::uint32_t>;

/// Steps take `accumulate` batches each, a batch goes in as many parts as `parts` makes of it. With `inner` examples
/// are of two sets, a third of them of the upper one: each step takes a batch of the lower set, of which an epoch sees
/// all; behind `inner` such steps comes one that also takes a batch of the upper.
class Plan {
 public:
  struct Options {
    std::size_t batch = 1, accumulate = 1;
    std::uint64_t seed = 0;
    std::optional<std::int64_t> inner{};
  };

  Plan(std::span<const std::uint32_t> lengths, const Options& options) : o_(options) {
    for (std::uint32_t row = 0; row < lengths.size(); ++row) {
      auto& set = o_.inner && below({o_.seed, set_site, 0}, row, 3) == 0 ? upper_ : lower_;
      set.rows.push_back(row);
      set.lengths.push_back(lengths[row]);
    }
    if (!o_.inner) return;
    require(o_.accumulate == 1, "trainer: steps of two levels take one batch: expected accumulate 1, found",
            o_.accumulate);
    require(!lower_.rows.empty() && !upper_.rows.empty(),
            "trainer: too few examples for two sets: expected at least one in each, found", lower_.rows.size(),
            upper_.rows.size());
  }

  /// Steps of an epoch.
  std::int64_t steps() const {
    return lower_.rows.empty() ? 0 : static_cast<std::int64_t>((batches_of(lower_) - 1) / o_.accumulate + 1);
  }

  /// parts(rows) are those in which a batch goes.
  template <class Parts>
  void begin(std::int64_t epoch, const Parts& parts) {
    rows_.clear();
    begins_.clear();
    std::size_t number = 0;
    for (auto& rows : batches(lower_, o_.accumulate, o_.seed, epoch)) {
      const std::int64_t step = epoch * steps() + static_cast<std::int64_t>(number / o_.accumulate);
      if (number++ % o_.accumulate == 0) begins_.push_back(rows_.size());
      for (auto& part : parts(std::move(rows))) rows_.push_back(std::move(part));
      if (!o_.inner || step % (*o_.inner + 1) < *o_.inner) continue;
      const auto outer = static_cast<std::size_t>(step / (*o_.inner + 1)), each = batches_of(upper_);
      rows_.push_back(batches(upper_, 1, mix(o_.seed, 1), static_cast<std::int64_t>(outer / each))[outer % each]);
    }
    begins_.push_back(rows_.size());
  }

  /// Of the epoch that has begun: the parts of batches, and those of a step.
  const std::vector<Rows>& rows() const { return rows_; }
  std::size_t first(std::int64_t step) const { return begins_[static_cast<std::size_t>(step)]; }
  std::size_t end(std::int64_t step) const { return begins_[static_cast<std::size_t>(step) + 1]; }
  /// Whether part `number` is one of several of a step, whose gradients are to add up to one batch's.
  bool shares(std::size_t number) const {
    const auto end = std::upper_bound(begins_.begin(), begins_.end(), number);
    return !o_.inner && *end - *std::prev(end) > 1;
  }

 private:
  struct Set {
    Rows rows, lengths;
  };
  static constexpr std::uint32_t set_site = 0xDA7A0004;

  std::size_t batches_of(const Set& set) const { return (set.rows.size() - 1) / o_.batch + 1; }

  std::vector<Rows> batches(const Set& set, std::size_t accumulate, std::uint64_t seed, std::int64_t epoch) const {
    auto out = data::step_batches(set.lengths, o_.batch, accumulate, seed, static_cast<std::uint64_t>(epoch));
    for (auto& batch : out)
      for (auto& row : batch) row = set.rows[row];
    return out;
  }

  Options o_;
  Set lower_, upper_;
  std::vector<Rows> rows_;
  std::vector<std::size_t> begins_;  // where each step's begin, and where the last one's end
};

}  // namespace meft::train
