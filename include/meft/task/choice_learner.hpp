// Owns: an encoder with its method as one thing to train on questions with options: each option is a pair of texts that
// the head gives one number, and the highest wins. Must not know: how training goes, files.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/ops/loss.hpp>
#include <meft/ops/shape.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>

namespace meft::task {

/// `body` runs the model's layers as a method has it, `head` gives one logit a sequence, as BertForMultipleChoice.
template <class Model>
struct ChoiceLearner {
  using T = typename Model::value_type;
  using B = typename Model::backend;

  Model model;
  Body<T, B> body;
  nn::Classifier<T, B> head;

  /// The questions with all of their options, as `loss` takes them.
  nn::Batch<B> batch(const EncodedChoices& data, std::span<const std::uint32_t> questions, Run run) const {
    auto out = pack(data, questions, run);
    const auto none = static_cast<std::int32_t>(out.offsets.sequences());
    std::vector<std::int32_t> options, answers;
    std::size_t most = 0;
    const auto count = [&](std::uint32_t q) { return data.first.at(q + std::size_t{1}) - data.first.at(q); };
    for (const std::uint32_t q : questions) most = std::max<std::size_t>(most, count(q));
    std::int32_t at = 0;
    for (const std::uint32_t q : questions) {
      require(data.answers.at(q) >= 0, "choices: a question without an answer", q);
      answers.push_back(data.answers.at(q));
      for (std::size_t i = 0; i < most; ++i) options.push_back(i < count(q) ? at++ : none);
    }
    out.options = Tensor<std::int32_t, B>::from({static_cast<Index>(options.size())}, options);
    out.labels = Tensor<std::int32_t, B>::from({static_cast<Index>(answers.size())}, answers);
    out.counted = out.labels.size();
    return out;
  }

  /// A batch as a step takes it on a device: see nn::filled.
  nn::Batch<B> filled(nn::Batch<B> batch) const { return nn::filled(std::move(batch), body.longest_slice()); }

  /// Mean cross entropy of the right options, softmax over the options of each question.
  Var<T, B> loss(const nn::Batch<B>& batch) const {
    const auto y = nn::of_own(head(model.run(batch, body)), batch);
    const Var<T, B> never = Tensor<T, B>::full({1, 1}, T(-1e30));
    const auto options = gather(concat({y, never}, 0), batch.options);
    return cross_entropy(reshape(options, {batch.labels.size(), -1}), batch.labels);
  }

  /// The number that the head gives each option; nothing when stopped.
  std::optional<std::vector<double>> option_logits(const EncodedChoices& data, const Asked& stop) const {
    const NoTape none;
    std::vector<double> found;
    for (std::uint32_t q = 0; q < data.questions(); ++q) {
      if (stop(q, data.questions())) return {};
      const std::uint32_t one[] = {q};
      const auto y = head(model.run(pack(data, one, {}), body));
      for (const T v : y.value().values()) found.push_back(static_cast<double>(v));
    }
    return found;
  }
  /// accuracy and accuracy_norm of the highest options, one question at a time; nothing when stopped.
  std::optional<std::vector<Score>> scores(const EncodedChoices& data, const std::vector<std::string>& names,
                                           std::size_t, const Asked& stop) const {
    const auto found = option_logits(data, stop);
    if (!found) return {};
    const auto counts = data.counts();
    return chosen(choice_metrics({*found, counts}, data.characters, data.answers), names);
  }

  /// Each parameter once, under the checkpoint's names.
  static void parts(auto& self, auto&& visit) {
    visit("", self.model);
    self.body.own(self.body, visit);
    visit("", self.head);
  }

 private:
  static nn::Batch<B> pack(const EncodedChoices& data, std::span<const std::uint32_t> questions, Run run) {
    std::vector<Tokens> ids, types;
    for (const std::uint32_t row : data.rows(questions)) {
      ids.push_back(data.ids.at(row));
      types.push_back(data.types.at(row));
    }
    auto batch = nn::Batch<B>::pack(ids, types);
    batch.run = run;
    return batch;
  }
};

}  // namespace meft::task
