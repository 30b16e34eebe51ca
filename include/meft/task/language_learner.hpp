// Owns: a language model with its method as one thing to train, on blocks of text (masked or causal) and on questions
// whose options it continues. Must not know: how training goes, files.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/method/body.hpp>
#include <meft/nn/filled.hpp>
#include <meft/nn/language.hpp>
#include <meft/task/choice.hpp>
#include <meft/task/language.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/pass.hpp>

namespace meft::task {

/// Blocks of tokens. With `mask` a masked model's, whose masks are drawn anew in each epoch; without, a causal model's.
struct Blocks {
  std::vector<Tokens> ids;
  std::optional<MaskOptions> mask{};
  std::uint64_t seed = 0;
  mutable std::uint32_t epoch = 0;

  std::size_t size() const { return ids.size(); }
  std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (const auto& block : ids) out.push_back(static_cast<std::uint32_t>(block.size()));
    return out;
  }
  void expect(std::span<const std::vector<std::uint32_t>>, std::uint32_t now) const { epoch = now; }
};

/// The scores called `names`, in their order.
inline std::vector<Score> chosen(const std::vector<Score>& scores, const std::vector<std::string>& names) {
  std::vector<Score> out;
  for (const auto& name : names) {
    const auto at = std::find_if(scores.begin(), scores.end(), [&](const Score& s) { return s.name == name; });
    if (at == scores.end()) fail("metrics: unknown metric `" + name + "`");
    out.push_back(*at);
  }
  return out;
}

/// `body` runs the model's layers as a method has it, `head` predicts words.
template <class Model>
struct LanguageLearner {
  using T = typename Model::value_type;
  using B = typename Model::backend;

  Model model;
  Body<T, B> body;
  nn::LanguageHead<T, B> head;

  /// Mean cross entropy of the batch's labels, one a token.
  Var<T, B> loss(const nn::Batch<B>& batch) const { return head.loss(model.run(batch, body).value, batch.labels); }

  /// The blocks numbered `rows`, as `loss` takes them.
  nn::Batch<B> batch(const Blocks& data, std::span<const std::uint32_t> rows, Run run) const {
    return batch_of(data, rows, run);
  }
  /// The lengths of the sequences that `batch` takes.
  std::vector<std::uint32_t> trained_lengths(const EncodedChoices& data) const {
    std::vector<std::uint32_t> out;
    for (const std::uint32_t row : data.answer_rows()) out.push_back(static_cast<std::uint32_t>(data.ids[row].size()));
    return out;
  }
  /// The right options are what is learned.
  nn::Batch<B> batch(const EncodedChoices& data, std::span<const std::uint32_t> questions, Run run) const {
    std::vector<std::uint32_t> rows;
    for (const std::uint32_t q : questions) {
      require(data.answers.at(q) >= 0, "choices: a question without an answer", q);
      rows.push_back(data.first.at(q) + static_cast<std::uint32_t>(data.answers.at(q)));
    }
    return batch_of(data, rows, run);
  }

  /// A batch as a step takes it on a device: see nn::filled.
  nn::Batch<B> filled(nn::Batch<B> batch) const { return nn::filled(std::move(batch), body.longest_slice()); }

  /// log_likelihood (the mean of a token that counts) and perplexity, of `each` blocks at a time; nothing when stopped.
  std::optional<std::vector<Score>> scores(const Blocks& data, const std::vector<std::string>& names, std::size_t each,
                                           const Asked& stop) const {
    const NoTape none;
    double sum = 0;
    std::uint64_t counted = 0;
    const auto tokens = data.lengths();
    for (std::size_t first = 0, last = 0; first < data.size(); first = last) {
      if (stop(first, data.size())) return {};
      last = end_of_pass(body, tokens, first, each);
      const auto batch = batch_of(data, numbers(first, last), {});
      const auto found = head.log_likelihood(model.run(batch, body).value, batch.labels).values();
      const auto labels = batch.labels.values();
      for (std::size_t i = 0; i < labels.size(); ++i)
        if (labels[i] != ignored_label) sum += static_cast<double>(found[i]), ++counted;
    }
    require(counted > 0, "language model: no token to predict among the blocks", data.size());
    const double mean = sum / static_cast<double>(counted);
    return chosen({{"log_likelihood", mean}, {"perplexity", perplexity(-sum, counted)}}, names);
  }

  /// The log-likelihood of every option, `each` of them at a time; nothing when stopped.
  std::optional<std::vector<double>> option_log_likelihoods(const EncodedChoices& data, std::size_t each,
                                                            const Asked& stop) const {
    const NoTape none;
    std::vector<double> out;
    std::vector<std::uint32_t> tokens;
    for (const auto& option : data.ids) tokens.push_back(static_cast<std::uint32_t>(option.size()));
    for (std::size_t first = 0, last = 0; first < data.ids.size(); first = last) {
      if (stop(first, data.ids.size())) return {};
      last = end_of_pass(body, tokens, first, each);
      const auto batch = batch_of(data, numbers(first, last), {});
      const auto found = head.log_likelihood(model.run(batch, body).value, batch.labels).values();
      const auto sums = option_scores(found, std::span(data.labels).subspan(first, last - first));
      out.insert(out.end(), sums.begin(), sums.end());
    }
    return out;
  }
  /// accuracy and accuracy_norm of the likeliest options; nothing when stopped.
  std::optional<std::vector<Score>> scores(const EncodedChoices& data, const std::vector<std::string>& names,
                                           std::size_t each, const Asked& stop) const {
    const auto found = option_log_likelihoods(data, each, stop);
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
  static std::vector<std::uint32_t> numbers(std::size_t first, std::size_t last) {
    std::vector<std::uint32_t> out;
    for (; first < last; ++first) out.push_back(static_cast<std::uint32_t>(first));
    return out;
  }
  static nn::Batch<B> pack(const std::vector<Tokens>& ids, const std::vector<Tokens>& types, const Tokens& labels,
                           Run run) {
    auto batch = nn::Batch<B>::pack(ids, types);
    batch.run = run;
    batch.labels = Tensor<std::int32_t, B>::from({static_cast<Index>(labels.size())}, labels);
    batch.counted = static_cast<Index>(labels.size()) - std::count(labels.begin(), labels.end(), ignored_label);
    return batch;
  }
  static nn::Batch<B> batch_of(const Blocks& data, std::span<const std::uint32_t> rows, Run run) {
    std::vector<Tokens> ids;
    Tokens labels;
    for (const std::uint32_t row : rows) {
      const Tokens& block = data.ids.at(row);
      Masked one = data.mask ? mask_tokens(block, row, {data.seed, mask_site, data.epoch}, *data.mask)
                             : Masked{block, causal_labels(block)};
      ids.push_back(std::move(one.ids));
      labels.insert(labels.end(), one.labels.begin(), one.labels.end());
    }
    return pack(ids, {}, labels, run);
  }
  static nn::Batch<B> batch_of(const EncodedChoices& data, std::span<const std::uint32_t> rows, Run run) {
    std::vector<Tokens> ids, types;
    Tokens labels;
    for (const std::uint32_t row : rows) {
      ids.push_back(data.ids.at(row));
      types.push_back(data.types.at(row));
      labels.insert(labels.end(), data.labels.at(row).begin(), data.labels.at(row).end());
    }
    return pack(ids, types, labels, run);
  }
};

}  // namespace meft::task
