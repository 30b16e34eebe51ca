// Owns: a language model with its method as one thing to train, on questions whose answers it ranks by the mean
// log-likelihood of their words. Must not know: how training goes, files.
#pragma once

#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/method/body.hpp>
#include <meft/nn/language.hpp>
#include <meft/task/metric.hpp>
#include <meft/task/pass.hpp>
#include <meft/task/ranked.hpp>
#include <meft/task/ranking_loss.hpp>
#include <meft/task/written.hpp>

namespace meft::task {

/// `body` runs the model's layers as a method has it, `head` predicts words.
template <class Model>
struct RankingLearner {
  using T = typename Model::value_type;
  using B = typename Model::backend;

  Model model;
  Body<T, B> body;
  nn::LanguageHead<T, B> head;
  Losses losses = Losses::tfew;

  /// The questions with all of their answers, as `loss` takes them. Errors: the right answer of one is not told.
  nn::Batch<B> batch(const RankedQuestions& data, std::span<const std::uint32_t> questions, Run run) const {
    std::vector<std::uint32_t> right;
    for (const std::uint32_t q : questions) {
      require(!std::isnan(data.labels.at(q)), "ranked answers: a question whose right answer is not told", q);
      right.push_back(static_cast<std::uint32_t>(data.labels[q]));
    }
    auto out = batch_of(data, questions, right, run);
    if (losses == Losses::words && !questions.empty()) out.counted = out.answers.end(out.wrong.sequences() - 1);
    return out;
  }

  Var<T, B> loss(const nn::Batch<B>& batch) const {
    return ranking_loss(losses, log_likelihoods(batch), batch.answers, batch.wrong);
  }

  /// The mean log-likelihood of each answer's words, `each` questions at a time; nothing when stopped.
  std::optional<std::vector<double>> answer_scores(const RankedQuestions& data, std::size_t each,
                                                   const Asked& stop) const {
    const NoTape none;
    std::vector<double> out(data.answers.size());
    const auto tokens = data.lengths();
    std::vector<std::uint32_t> questions;
    for (std::size_t begin = 0; begin < data.size(); begin += questions.size()) {
      if (stop(begin, data.size())) return {};
      questions.resize(end_of_pass(body, tokens, begin, each) - begin);
      std::iota(questions.begin(), questions.end(), static_cast<std::uint32_t>(begin));
      const std::vector<std::uint32_t> firsts(questions.size(), 0);
      const auto batch = batch_of(data, questions, firsts, {});
      const auto found = log_likelihoods(batch).value().values();
      Index next = 0;
      const auto take = [&](std::size_t answer) {
        double sum = 0;
        for (Index i = batch.answers.begin(next); i < batch.answers.end(next); ++i)
          sum += static_cast<double>(found[static_cast<std::size_t>(i)]);
        out[answer] = sum / static_cast<double>(batch.answers.length(next++));
      };
      for (const auto q : questions) take(data.first[q]);
      for (const auto q : questions)
        for (std::size_t i = data.first[q] + std::size_t{1}; i < data.first[q + std::size_t{1}]; ++i) take(i);
    }
    return out;
  }

  /// What `metrics` says of the likeliest answers, by number, or `written_scores` of the answers; nothing when stopped.
  std::optional<std::vector<Score>> scores(const RankedQuestions& data, const std::vector<std::string>& names,
                                           std::size_t each, const Asked& stop) const {
    if (losses == Losses::words) return written_scores(*this, data, each, stop);
    const auto found = answer_scores(data, each, stop);
    if (!found) return {};
    std::vector<std::uint32_t> counts;
    for (std::size_t q = 0; q < data.size(); ++q) counts.push_back(data.count(q));
    const auto best = best_options({*found, counts});
    return metrics(names, std::vector<float>(best.begin(), best.end()), data.labels);
  }

  /// The hidden states that words are predicted from, by batch.rows.
  nn::Hidden<T, B> hidden(const nn::Batch<B>& batch) const {
    if (!model.decodes()) return model.run(batch, body);
    const Index prompts = batch.wrong.sequences(), all = batch.offsets.sequences();
    const auto part = [&](Index first, Index last) {
      const Index from = batch.offsets.begin(first), to = batch.offsets.end(last - 1);
      return nn::Batch<B>{std::as_const(batch.ids).rows(from, to), std::as_const(batch.types).rows(from, to),
                          batch.offsets.part(first, last), batch.run};
    };
    auto encoded = model.encode(part(0, prompts), body);
    std::vector<Index> readers;  // each answer reads its question's rows
    for (Index q = 0; q < prompts; ++q) readers.push_back(q);
    for (Index q = 0; q < prompts; ++q)
      readers.insert(readers.end(), static_cast<std::size_t>(batch.wrong.length(q)), q);
    encoded = read_again(std::move(encoded), readers);
    return model.decode(part(prompts, all), encoded, body);
  }

  /// Each parameter once, under the checkpoint's names.
  static void parts(auto& self, auto&& visit) {
    visit("", self.model);
    self.body.own(self.body, visit);
    visit("", self.head);
  }

 private:
  /// ln p of each word of the batch's answers.
  Var<T, B> log_likelihoods(const nn::Batch<B>& batch) const {
    return head.log_likelihoods(gather(hidden(batch).value, batch.rows), batch.labels);
  }

  /// With answer right[i] of question i in front of its others.
  static nn::Batch<B> batch_of(const RankedQuestions& data, std::span<const std::uint32_t> questions,
                               std::span<const std::uint32_t> right, Run run) {
    std::vector<Tokens> sequences;
    Tokens words, rows, lengths, wrong;
    std::int32_t begin = 0;  // of the next sequence, among the rows that words are predicted from
    if (data.answered != Answered::behind)
      for (const auto q : questions) sequences.push_back(data.prompts.at(q));
    std::vector<std::int32_t> masks;
    for (const auto q : questions) {
      if (data.answered == Answered::at_mask) masks.push_back(begin + data.masks.at(q));
      if (data.answered == Answered::at_mask) begin += static_cast<std::int32_t>(data.prompts[q].size());
    }
    const auto add = [&](std::size_t i, std::uint32_t number) {
      const std::uint32_t q = questions[i];
      const Tokens& answer = data.answers.at(data.first.at(q) + number);
      const auto size = static_cast<std::int32_t>(answer.size());
      std::int32_t skipped = 0, row = begin - 1;  // of a decoder, the token at `row` is what comes before
      if (data.answered == Answered::at_mask) {
        row = masks[i];
      } else if (data.answered == Answered::by_decoder) {
        skipped = data.skipped;
        row = begin + skipped;
        sequences.push_back(answer);
        begin += size;
      } else {
        Tokens whole = data.prompts.at(q);
        row += static_cast<std::int32_t>(whole.size());
        whole.insert(whole.end(), answer.begin(), answer.end());
        begin += static_cast<std::int32_t>(whole.size());
        sequences.push_back(std::move(whole));
      }
      for (std::int32_t t = skipped; t < size; ++t) {
        words.push_back(answer[static_cast<std::size_t>(t)]);
        rows.push_back(row++);
      }
      lengths.push_back(size - skipped);
    };
    for (std::size_t i = 0; i < questions.size(); ++i) add(i, right[i]);
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const std::uint32_t count = data.count(questions[i]);
      for (std::uint32_t number = 0; number < count; ++number)
        if (number != right[i]) add(i, number);
      wrong.push_back(static_cast<std::int32_t>(count) - 1);
    }
    auto out = nn::Batch<B>::pack(sequences);
    out.run = run;
    out.labels = Tensor<std::int32_t, B>::from({std::ssize(words)}, words);
    out.rows = Tensor<std::int32_t, B>::from({std::ssize(rows)}, rows);
    out.answers = Offsets::of_lengths(lengths);
    out.wrong = Offsets::of_lengths(wrong);
    out.counted = static_cast<Index>(questions.size());
    return out;
  }
};

}  // namespace meft::task
