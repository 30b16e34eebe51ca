// Owns: what a trainer sees of a learner and its examples, their types erased.
// Must not know: how training goes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/nn/linear.hpp>
#include <meft/reversible/range.hpp>
#include <meft/reversible/slices.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/pass.hpp>
#include <meft/train/options.hpp>
#include <meft/train/steps.hpp>

namespace meft::train {

template <Backend B>
BatchSizes sizes_of(const nn::Batch<B>& batch) {
  BatchSizes out{batch.offsets.part(0, batch.offsets.sequences() - batch.filling), batch.answers};
  if (batch.pixels.defined())
    out.images = batch.pixels.dim(0), out.height = batch.pixels.dim(2), out.width = batch.pixels.dim(3);
  out.words = batch.rows.defined() ? batch.rows.size() : std::max<Index>(0, batch.counted);
  return out;
}

/// What is trained, on which examples: all that a trainer sees of them.
template <Real T, Backend B>
struct Job {
  nn::Named<T, B> parameters;          // what trains
  std::vector<std::uint32_t> lengths;  // of the examples to train on
  std::size_t scored = 0;              // examples
  std::function<nn::Batch<B>(std::span<const std::uint32_t> rows, Run run)> batch;
  Loss<T, B> loss;
  /// Values of the metrics on the examples that are scored, `batch` at a time; nothing when stopped.
  std::function<std::optional<std::vector<task::Score>>(const std::vector<std::string>& metrics, std::size_t batch,
                                                        const task::Asked& stop)>
      scores;
  /// Told the coming batches of an epoch; may be empty.
  std::function<void(std::span<const std::vector<std::uint32_t>> batches, std::uint32_t epoch)> expect;
  /// Tokens of a part of a batch, where the body takes it in parts, and of each example; 0: it takes it as a whole.
  Index longest_part = 0;
  std::vector<std::uint32_t> tokens{};
  std::vector<std::string> chosen{};       // parameters that are chosen elements, by name
  nn::Indices<B> indices{};                // of the elements that train of weights, where not the whole of them does
  StreamRanges<T, B> ranges{};             // of the body's stacks, which outlives the job
  std::function<void(Job&)> look_again{};  // at what trains, once other elements were chosen
  /// Fills up a batch to train on, so that recordings fit others of its size; may be empty.
  std::function<nn::Batch<B>(nn::Batch<B>)> fill{};

  /// A batch in the parts of whole examples that are trained on one after the other, their gradients added.
  std::vector<std::vector<std::uint32_t>> parts(std::vector<std::uint32_t> rows) const {
    if (longest_part == 0) return {std::move(rows)};
    std::vector<std::int32_t> sizes;
    for (const std::uint32_t row : rows) sizes.push_back(static_cast<std::int32_t>(tokens[row]));
    std::vector<std::vector<std::uint32_t>> out;
    for (const auto& [first, last] : meft::detail::cut(Offsets::of_lengths(sizes), longest_part))
      out.emplace_back(rows.begin() + first, rows.begin() + last);
    return out;
  }

  /// Of a Learner, or anything with its `batch(data, rows, run)`, `loss(batch)`, `scores(data, metrics, batch, stop)`
  /// and parts, on data with `size()` and `lengths()`, such as Encoded. Data that is to be prepared ahead has
  /// `expect(batches, epoch)` besides. All outlive the job.
  template <class L, class Data, class DevData>
  static Job of(L& learner, const Data& train, const DevData& dev) {
    Job out{{}, train.lengths(), dev.size(), {}, {}, {}, {}};
    if constexpr (requires { learner.body.longest_part(); }) out.longest_part = learner.body.longest_part();
    if constexpr (requires { learner.body.ranges(); }) out.ranges = learner.body.ranges();
    if (out.longest_part > 0) {
      if constexpr (requires { learner.trained_lengths(train); }) out.tokens = learner.trained_lengths(train);
      else out.tokens = out.lengths;
      if constexpr (requires { learner.model.spec.patches; })
        out.tokens = task::in_tokens(learner.model.spec, std::move(out.tokens));
    }
    out.look_again = [&](Job& job) {
      job.parameters = nn::trainable<T, B>(learner);
      job.indices = nn::indices<B>(learner);
      job.chosen.clear();
      nn::walk(learner, [&](const std::string& name, nn::Linear<T, B>& linear) {
        if (linear.chosen()) job.chosen.push_back(name + ".sparse.values");
      });
    };
    out.look_again(out);
    out.batch = [&](std::span<const std::uint32_t> rows, Run run) { return learner.batch(train, rows, run); };
    out.loss = [&](const nn::Batch<B>& batch) { return learner.loss(batch); };
    if constexpr (requires(nn::Batch<B> batch) { learner.filled(batch); })
      out.fill = [&](nn::Batch<B> batch) { return learner.filled(std::move(batch)); };
    out.scores = [&](const std::vector<std::string>& metrics, std::size_t batch, const task::Asked& stop) {
      return learner.scores(dev, metrics, batch, stop);
    };
    if constexpr (requires { train.expect(std::span<const std::vector<std::uint32_t>>(), std::uint32_t{}); })
      out.expect = [&](auto batches, std::uint32_t epoch) { train.expect(batches, epoch); };
    return out;
  }
};

}  // namespace meft::train
