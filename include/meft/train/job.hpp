// Owns: what a trainer sees of a learner and its examples, their types erased.
// Must not know: how training goes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <meft/nn/module.hpp>
#include <meft/train/metric.hpp>
#include <meft/train/observer.hpp>
#include <meft/train/steps.hpp>

namespace meft::train {

/// What is trained, on which examples: all that a trainer sees of them.
template <Real T, Backend B>
struct Job {
  nn::Named<T, B> parameters;          // what trains
  std::vector<std::uint32_t> lengths;  // of the examples to train on
  std::size_t scored = 0;              // examples
  std::function<nn::Batch<B>(std::span<const std::uint32_t> rows, Run run)> batch;
  Loss<T, B> loss;
  /// Values of the metrics on the examples that are scored, `batch` at a time; nothing when stopped.
  std::function<std::optional<std::vector<Score>>(const std::vector<std::string>& metrics, std::size_t batch,
                                                  const Asked& stop)>
      scores;
  /// Told the coming batches of an epoch; may be empty.
  std::function<void(std::span<const std::vector<std::uint32_t>> batches, std::uint32_t epoch)> expect;

  /// Of a Learner, or anything with its `batch(data, rows, run)`, `loss(batch)`, `scores(data, metrics, batch, stop)`
  /// and parts, on data with `size()` and `lengths()`, such as Encoded. Data that is to be prepared ahead has
  /// `expect(batches, epoch)` besides. All outlive the job.
  template <class L, class Data, class DevData>
  static Job of(L& learner, const Data& train, const DevData& dev) {
    Job out{nn::trainable<T, B>(learner), train.lengths(), dev.size(), {}, {}, {}, {}};
    out.batch = [&](std::span<const std::uint32_t> rows, Run run) { return learner.batch(train, rows, run); };
    out.loss = [&](const nn::Batch<B>& batch) { return learner.loss(batch); };
    out.scores = [&](const std::vector<std::string>& metrics, std::size_t batch, const Asked& stop) {
      return learner.scores(dev, metrics, batch, stop);
    };
    if constexpr (requires { train.expect(std::span<const std::vector<std::uint32_t>>(), std::uint32_t{}); })
      out.expect = [&](auto batches, std::uint32_t epoch) { train.expect(batches, epoch); };
    return out;
  }
};

}  // namespace meft::train
