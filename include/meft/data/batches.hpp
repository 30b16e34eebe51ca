// Owns: the order of an epoch: which examples form which batch. A pure function of (seed, epoch), so a run resumes by
// asking again. Must not know what an example is, only its length.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/random.hpp>

namespace meft::data {

/// The random sites of this layer.
enum Site : std::uint32_t { order_site = 0xDA7A0001, batch_site = 0xDA7A0002, split_site = 0xDA7A0003 };

/// A random order of the numbers below `n` (Fisher–Yates); the same for the same key.
inline std::vector<std::uint32_t> permutation(std::uint32_t n, Key key) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  for (std::uint32_t i = n; i > 1; --i) std::swap(order[i - 1], order[below(key, i, i)]);
  return order;
}

/// Batches of example numbers, `batch` each; one batch, the last, may be shorter. Every example occurs once.
/// With `shuffle`: a random order is cut into buckets of 50 batches, each bucket sorted by length and cut into batches,
/// and the full batches put in random order: lengths within a batch are close, batches are random.
/// Without: file order, whatever the seed and epoch.
/// Errors: batch is 0, an epoch or a number of examples that does not fit 32 bits.
inline std::vector<std::vector<std::uint32_t>> batches(std::span<const std::uint32_t> lengths, std::size_t batch,
                                                       std::uint64_t seed, std::uint64_t epoch, bool shuffle,
                                                       Where where = Where::current()) {
  constexpr std::size_t limit = std::numeric_limits<std::uint32_t>::max(), batches_in_bucket = 50;
  require(batch > 0, {"batches: the batch size must be at least 1, found 0", where});
  require(lengths.size() < limit, {"batches: expected fewer than 2^32 - 1 examples, found", where}, lengths.size());
  require(epoch <= limit, {"batches: the epoch must be below 2^32, found", where}, epoch);
  batch = std::min(batch, limit);

  const auto count = static_cast<std::uint32_t>(lengths.size()), step = static_cast<std::uint32_t>(epoch);
  std::vector<std::uint32_t> order;
  if (shuffle) {
    order = permutation(count, Key{seed, order_site, step});
    const std::size_t bucket = batches_in_bucket * batch;
    for (std::size_t start = 0; start < order.size(); start += bucket) {
      const auto first = order.begin() + static_cast<std::ptrdiff_t>(start);
      const auto last = order.begin() + static_cast<std::ptrdiff_t>(std::min(start + bucket, order.size()));
      std::stable_sort(first, last, [&](std::uint32_t a, std::uint32_t b) { return lengths[a] < lengths[b]; });
    }
  } else {
    order.resize(count);
    std::iota(order.begin(), order.end(), 0u);
  }

  const std::size_t full = order.size() / batch;
  std::vector<std::uint32_t> places = shuffle
                                          ? permutation(static_cast<std::uint32_t>(full), Key{seed, batch_site, step})
                                          : std::vector<std::uint32_t>();
  std::vector<std::vector<std::uint32_t>> out;
  out.reserve(full + 1);
  for (std::size_t i = 0; i * batch < order.size(); ++i) {
    const std::size_t start = (shuffle && i < full ? places[i] : i) * batch,
                      end = std::min(start + batch, order.size());
    out.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(start),
                     order.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return out;
}

/// The shuffled batches of an epoch whose steps take `accumulate` of them each. The rows of a step, and their order,
/// are those of one batch of batch · accumulate: only where it is cut depends on `batch`. Full steps come first, so
/// step i has the batches from i · accumulate on. Errors: as of `batches`, accumulate is 0.
inline std::vector<std::vector<std::uint32_t>> step_batches(std::span<const std::uint32_t> lengths, std::size_t batch,
                                                            std::size_t accumulate, std::uint64_t seed,
                                                            std::uint64_t epoch, Where where = Where::current()) {
  require(accumulate > 0, {"batches: a step takes at least 1 batch, found 0", where});
  const bool fits = batch <= std::numeric_limits<std::size_t>::max() / accumulate;
  std::vector<std::vector<std::uint32_t>> out;
  for (auto& rows : batches(lengths, fits ? batch * accumulate : lengths.size(), seed, epoch, true, where))
    for (std::size_t first = 0; first < rows.size(); first += std::min(batch, rows.size() - first))
      out.emplace_back(rows.begin() + static_cast<std::ptrdiff_t>(first),
                       rows.begin() + static_cast<std::ptrdiff_t>(first + std::min(batch, rows.size() - first)));
  return out;
}

}  // namespace meft::data
