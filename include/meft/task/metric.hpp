// Owns: the scores of predictions against labels: accuracy, F1, Matthews correlation, Pearson and Spearman; of options
// to choose from; and perplexity. Values are scikit-learn's and SciPy's, of options the Language Model Evaluation
// Harness's; where a score is not defined (constant predictions), it is 0. Must not know models or files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>

namespace meft::task {

/// Predictions and labels of equal length, at least one, all finite.
using Values = std::span<const float>;

namespace detail {

inline void check(const char* metric, Values predictions, Values labels, Where where) {
  const auto name = [&] { return std::string(metric) + ": "; };
  if (predictions.size() != labels.size())
    fail({name() + "expected as many predictions as labels, found " + std::to_string(predictions.size()) + " and " +
              std::to_string(labels.size()),
          where});
  if (labels.empty()) fail({name() + "no predictions", where});
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (!std::isfinite(predictions[i])) fail({name() + "prediction " + std::to_string(i) + " is not finite", where});
    if (!std::isfinite(labels[i]))
      fail({name() + "label " + std::to_string(i) + " is not finite (a row without a label?)", where});
  }
}

/// Places from 1 in ascending order; equal values share the mean of their places.
inline std::vector<double> ranks(Values values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> out(values.size());
  for (std::size_t start = 0, end = 0; start < order.size(); start = end) {
    while (end < order.size() && values[order[end]] == values[order[start]]) ++end;
    for (std::size_t i = start; i < end; ++i) out[order[i]] = 0.5 * static_cast<double>(start + 1 + end);
  }
  return out;
}

/// Σ(a-ā)(b-b̄) / √(Σ(a-ā)² Σ(b-b̄)²), in two passes; 0 if a or b is constant.
template <class Range>
double correlation(const Range& a, const Range& b) {
  if (std::equal(a.begin() + 1, a.end(), a.begin()) || std::equal(b.begin() + 1, b.end(), b.begin())) return 0.0;
  const double count = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / count;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / count;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double da = static_cast<double>(a[i]) - mean_a, db = static_cast<double>(b[i]) - mean_b;
    ab += da * db;
    aa += da * da;
    bb += db * db;
  }
  return std::clamp(ab / (std::sqrt(aa) * std::sqrt(bb)), -1.0, 1.0);
}

}  // namespace detail

/// The share of predictions equal to their label.
inline double accuracy(Values predictions, Values labels, Where where = Where::current()) {
  detail::check("accuracy", predictions, labels, where);
  std::size_t hits = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) hits += predictions[i] == labels[i];
  return static_cast<double>(hits) / static_cast<double>(labels.size());
}

/// 2tp / (2tp + fp + fn) of class 1; 0 where nothing is 1. Errors: a value that is neither 0 nor 1.
inline double f1(Values predictions, Values labels, Where where = Where::current()) {
  detail::check("f1", predictions, labels, where);
  std::size_t both = 0, predicted = 0, actual = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    for (const float value : {predictions[i], labels[i]})
      require(value == 0 || value == 1, {"f1: expected classes 0 and 1, found", where}, value);
    both += predictions[i] == 1 && labels[i] == 1;
    predicted += predictions[i] == 1;
    actual += labels[i] == 1;
  }
  return both == 0 ? 0.0 : 2.0 * static_cast<double>(both) / static_cast<double>(predicted + actual);
}

/// Matthews correlation for any number of classes (Gorodkin 2004): with s rows, c hits, and class k predicted p_k and
/// labelled t_k times, (c·s - Σ p_k t_k) / √((s² - Σ p_k²)(s² - Σ t_k²)); 0 if predictions or labels are constant.
inline double matthews(Values predictions, Values labels, Where where = Where::current()) {
  detail::check("matthews", predictions, labels, where);
  std::map<float, std::pair<double, double>> counts;
  double hits = 0, products = 0, predicted = 0, actual = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    counts[predictions[i]].first += 1;
    counts[labels[i]].second += 1;
    hits += predictions[i] == labels[i];
  }
  for (const auto& [label, count] : counts) {
    products += count.first * count.second;
    predicted += count.first * count.first;
    actual += count.second * count.second;
  }
  const double rows = static_cast<double>(labels.size());
  const double square = (rows * rows - predicted) * (rows * rows - actual);
  return square > 0 ? (hits * rows - products) / std::sqrt(square) : 0.0;
}

/// Pearson's correlation; 0 if predictions or labels are constant.
inline double pearson(Values predictions, Values labels, Where where = Where::current()) {
  detail::check("pearson", predictions, labels, where);
  return detail::correlation(predictions, labels);
}

/// Spearman's correlation: Pearson's of the ranks, ties at their mean rank; 0 if predictions or labels are constant.
inline double spearman(Values predictions, Values labels, Where where = Where::current()) {
  detail::check("spearman", predictions, labels, where);
  return detail::correlation(detail::ranks(predictions), detail::ranks(labels));
}

struct Score {
  std::string name;
  double value;
};

/// The scores called `names`, in their order: accuracy, f1, matthews, pearson, spearman, or pearson_spearman (the mean
/// of the two, by which stsb's best epoch is chosen; cola's is by matthews, mrpc's and qqp's by f1, the others' by
/// accuracy).
/// Errors: an unknown name, and those of each score.
inline std::vector<Score> metrics(const std::vector<std::string>& names, Values predictions, Values labels,
                                  Where where = Where::current()) {
  std::vector<Score> scores;
  for (const std::string& name : names) {
    double value = 0;
    if (name == "accuracy") value = accuracy(predictions, labels, where);
    else if (name == "f1") value = f1(predictions, labels, where);
    else if (name == "matthews") value = matthews(predictions, labels, where);
    else if (name == "pearson") value = pearson(predictions, labels, where);
    else if (name == "spearman") value = spearman(predictions, labels, where);
    else if (name == "pearson_spearman")
      value = 0.5 * (pearson(predictions, labels, where) + spearman(predictions, labels, where));
    else fail({"metrics: unknown metric `" + name + "`", where});
    scores.push_back({name, value});
  }
  return scores;
}

/// The options of questions, end to end: `counts[q]` scores for question q. A score is a log-likelihood, or anything
/// that is higher for a better option.
struct OptionScores {
  std::span<const double> scores;
  std::span<const std::uint32_t> counts;
};

namespace detail {

inline void check(const char* metric, OptionScores options, std::size_t questions, const char* of, Where where) {
  const auto name = [&] { return std::string(metric) + ": "; };
  if (options.counts.size() != questions)
    fail({name() + "expected a number of options for each question, found " + std::to_string(options.counts.size()) +
              " and " + std::to_string(questions) + of,
          where});
  if (questions == 0) fail({name() + "no questions", where});
  std::uint64_t all = 0;
  for (std::size_t q = 0; q < questions; ++q) {
    if (options.counts[q] == 0) fail({name() + "question " + std::to_string(q) + " has no options", where});
    all += options.counts[q];
  }
  if (all != options.scores.size())
    fail({name() + "expected a score for each of " + std::to_string(all) + " options, found " +
              std::to_string(options.scores.size()),
          where});
  for (std::size_t i = 0; i < all; ++i)
    if (!std::isfinite(options.scores[i])) fail({name() + "score " + std::to_string(i) + " is not finite", where});
}

}  // namespace detail

/// The option with the highest score of each question, from 0; the first of equals.
inline std::vector<std::uint32_t> best_options(OptionScores options, Where where = Where::current()) {
  detail::check("best_options", options, options.counts.size(), "", where);
  std::vector<std::uint32_t> out;
  auto first = options.scores.begin();
  for (const std::uint32_t count : options.counts) {
    out.push_back(static_cast<std::uint32_t>(std::max_element(first, first + count) - first));
    first += count;
  }
  return out;
}

/// The share of questions whose right option, `answers[q]`, has the highest score; the first of equals counts.
inline double choice_accuracy(OptionScores options, std::span<const std::int32_t> answers,
                              Where where = Where::current()) {
  detail::check("choice_accuracy", options, answers.size(), " answers", where);
  const auto best = best_options(options, where);
  std::size_t hits = 0;
  for (std::size_t q = 0; q < answers.size(); ++q) {
    if (answers[q] < 0 || static_cast<std::uint32_t>(answers[q]) >= options.counts[q])
      fail({"choice_accuracy: question " + std::to_string(q) + ": expected an answer below " +
                std::to_string(options.counts[q]) + ", found " + std::to_string(answers[q]),
            where});
    hits += best[q] == static_cast<std::uint32_t>(answers[q]);
  }
  return static_cast<double>(hits) / static_cast<double>(answers.size());
}

/// choice_accuracy of scores divided by the option's length: log-likelihoods by `characters` are the Harness's acc_norm
/// (code points of the option without the space in front). Errors: those of choice_accuracy, a length of 0.
inline double choice_accuracy_norm(OptionScores options, std::span<const std::uint32_t> characters,
                                   std::span<const std::int32_t> answers, Where where = Where::current()) {
  if (characters.size() != options.scores.size())
    fail({"choice_accuracy_norm: expected as many lengths as scores, found " + std::to_string(characters.size()) +
              " and " + std::to_string(options.scores.size()),
          where});
  std::vector<double> scores(options.scores.begin(), options.scores.end());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (characters[i] == 0) fail({"choice_accuracy_norm: option " + std::to_string(i) + " has length 0", where});
    scores[i] /= characters[i];
  }
  return choice_accuracy({scores, options.counts}, answers, where);
}

/// accuracy and accuracy_norm, as the Harness reports them.
inline std::vector<Score> choice_metrics(OptionScores options, std::span<const std::uint32_t> characters,
                                         std::span<const std::int32_t> answers, Where where = Where::current()) {
  return {{"accuracy", choice_accuracy(options, answers, where)},
          {"accuracy_norm", choice_accuracy_norm(options, characters, answers, where)}};
}

/// exp of the mean negative log-likelihood (natural logarithm) of `tokens` tokens, of which `sum` is the sum: e^(sum /
/// tokens). Infinity where that is too large for a double. Errors: no tokens, a sum that is not finite.
inline double perplexity(double sum, std::uint64_t tokens, Where where = Where::current()) {
  if (tokens == 0) fail({"perplexity: of no tokens", where});
  require(std::isfinite(sum), {"perplexity: the sum of negative log-likelihoods is not finite", where}, sum);
  return std::exp(sum / static_cast<double>(tokens));
}

/// The same from mean losses over batches of unequal size: e^(Σ loss·tokens / Σ tokens).
inline double perplexity(Values losses, std::span<const std::uint32_t> tokens, Where where = Where::current()) {
  if (losses.size() != tokens.size())
    fail({"perplexity: expected as many losses as numbers of tokens, found " + std::to_string(losses.size()) + " and " +
              std::to_string(tokens.size()),
          where});
  double sum = 0;
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    if (tokens[i] == 0) continue;  // the mean over no tokens is not a number
    sum += static_cast<double>(losses[i]) * tokens[i];
    all += tokens[i];
  }
  return perplexity(sum, all, where);
}

}  // namespace meft::task
