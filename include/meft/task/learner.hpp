// Owns: a model with its method and head as one thing to train: logits, loss, predictions.
// Must not know: how training goes, files.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/method/body.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/filled.hpp>
#include <meft/ops/loss.hpp>
#include <meft/task/encoded.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/pass.hpp>

namespace meft::task {

/// `body` runs the model's layers as a method has it, `head` classifies (one label: a regression).
template <class Model>
struct Learner {
  using T = typename Model::value_type;
  using B = typename Model::backend;

  Model model;
  Body<T, B> body;
  nn::Classifier<T, B> head;

  Index labels() const { return head.output.out(); }
  bool regression() const { return labels() == 1; }
  /// As batch_of takes it.
  int label_kind() const { return regression() ? 0 : static_cast<int>(labels()); }

  /// [sequences, labels].
  Var<T, B> logits(const nn::Batch<B>& batch) const { return head(model.run(batch, body)); }

  /// Mean cross entropy, or mean squared error of a regression.
  Var<T, B> loss(const nn::Batch<B>& batch) const {
    const auto y = nn::of_own(logits(batch), batch);
    if (!regression()) return cross_entropy(y, batch.labels);
    return mse(y, nn::cast<T>(batch.targets).reshape({batch.targets.size(), 1}));
  }

  /// The examples numbered `rows`, as `loss` takes them.
  template <class Data>
  nn::Batch<B> batch(const Data& data, std::span<const std::uint32_t> rows, Run run) const {
    auto out = batch_of<B>(data, rows, label_kind(), run);
    out.counted = static_cast<Index>(rows.size());
    return out;
  }

  /// A batch as a step takes it on a device: see nn::filled.
  nn::Batch<B> filled(nn::Batch<B> batch) const { return nn::filled(std::move(batch), body.longest_slice()); }

  /// What `metrics` says of the predictions, `batch` examples at a time; nothing when stopped.
  template <class Data>
  std::optional<std::vector<Score>> scores(const Data& data, const std::vector<std::string>& names, std::size_t batch,
                                           const Asked& stop) const {
    const auto found = predict(*this, data, batch, stop);
    if (found.size() < data.size()) return {};
    return metrics(names, found.values(), data.labels);
  }

  /// Each parameter once, under the checkpoint's names.
  static void parts(auto& self, auto&& visit) {
    visit("", self.model);
    self.body.own(self.body, visit);
    visit("", self.head);
  }
};

/// What a model says of examples: logits [examples, labels], row-major.
struct Predictions {
  std::size_t labels = 1;
  std::vector<float> logits;

  std::size_t size() const { return logits.size() / labels; }

  /// The likeliest class of each example (the first of equals), or the value of a regression.
  std::vector<float> values() const {
    if (labels == 1) return logits;
    std::vector<float> out;
    for (std::size_t i = 0; i < size(); ++i) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * labels);
      out.push_back(static_cast<float>(std::max_element(row, row + static_cast<std::ptrdiff_t>(labels)) - row));
    }
    return out;
  }

  /// softmax of row i.
  std::vector<double> probabilities(std::size_t i) const {
    std::vector<double> out(logits.begin() + static_cast<std::ptrdiff_t>(i * labels),
                            logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * labels));
    const double most = *std::max_element(out.begin(), out.end());
    for (double& x : out) x = std::exp(x - most);
    const double sum = std::accumulate(out.begin(), out.end(), 0.0);
    for (double& x : out) x /= sum;
    return out;
  }
};

/// Predicts in file order, `batch` sequences at a time or fewer, see end_of_pass (bits may depend on it). When stopped,
/// with what there is.
template <class Model, class Data>
Predictions predict(const Learner<Model>& learner, const Data& examples, std::size_t batch, const Asked& stop) {
  using B = typename Model::backend;
  const NoTape none;
  Predictions out{static_cast<std::size_t>(learner.labels()), {}};
  const auto tokens = in_tokens(learner.model.spec, examples.lengths());
  std::vector<std::uint32_t> rows;
  for (std::size_t first = 0; first < examples.size() && !stop(first, examples.size()); first += rows.size()) {
    rows.resize(end_of_pass(learner.body, tokens, first, batch) - first);
    std::iota(rows.begin(), rows.end(), static_cast<std::uint32_t>(first));
    const auto y = learner.logits(batch_of<B>(examples, rows)).value().values();
    out.logits.insert(out.logits.end(), y.begin(), y.end());
  }
  return out;
}
template <class Model, class Data>
Predictions predict(const Learner<Model>& learner, const Data& examples, std::size_t batch = 32) {
  return predict(learner, examples, batch, [](std::size_t, std::size_t) { return false; });
}

}  // namespace meft::task
