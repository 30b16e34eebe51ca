// Owns: questions with options as tokens: for a causal model, which goes on with an option, and for an encoder, which
// sees the pair; and the score of an option from the log-likelihoods of its tokens.
// As the Language Model Evaluation Harness does it (lm_eval/api/model.py, lm_eval/models/huggingface.py).
// Must not know files, models, and which tokenizer it was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/choice.hpp>
#include <meft/task/language.hpp>

namespace meft::task {

/// A sequence for each option, the questions end to end: question q's are first[q] … first[q + 1] - 1.
struct EncodedChoices {
  std::vector<Tokens> ids, types;
  std::vector<Tokens> labels{};             // causal: the next token where that is the option's, else ignored_label
  std::vector<std::uint32_t> characters{};  // code points of each option
  std::vector<std::uint32_t> first{0};      // [questions + 1]
  std::vector<std::int32_t> answers{};      // [questions]; -1 where it is not told
  std::size_t cut = 0;                      // how many sequences were longer than the length and lost tokens

  std::size_t questions() const { return answers.size(); }
  std::size_t size() const { return questions(); }

  /// The number of options of each question.
  std::vector<std::uint32_t> counts() const {
    std::vector<std::uint32_t> out;
    for (std::size_t q = 0; q < questions(); ++q) out.push_back(first[q + 1] - first[q]);
    return out;
  }

  /// The tokens of each question, all its options together, by which data::batches groups questions.
  std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (std::size_t q = 0; q < questions(); ++q) {
      std::size_t sum = 0;
      for (std::size_t row = first[q]; row < first[q + 1]; ++row) sum += ids[row].size();
      out.push_back(static_cast<std::uint32_t>(sum));
    }
    return out;
  }

  /// The sequences of some questions, all options of each.
  std::vector<std::uint32_t> rows(std::span<const std::uint32_t> chosen) const {
    std::vector<std::uint32_t> out;
    for (const std::uint32_t q : chosen)
      for (std::uint32_t row = first.at(q); row < first.at(q + std::size_t{1}); ++row) out.push_back(row);
    return out;
  }

  /// The sequence of each question's right option: what a causal model is trained on. Errors: an answer is not told.
  std::vector<std::uint32_t> answer_rows(Where where = Where::current()) const {
    std::vector<std::uint32_t> out;
    for (std::size_t q = 0; q < questions(); ++q) {
      require(answers[q] >= 0, {"choices: a question without an answer", where}, q);
      out.push_back(first[q] + static_cast<std::uint32_t>(answers[q]));
    }
    return out;
  }
};

/// Characters (code points) of UTF-8 text.
inline std::uint32_t characters(std::string_view text) {
  return static_cast<std::uint32_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

namespace detail {

/// Adds a question, its options by `encode(option)`, which appends to ids, types and labels.
template <class Encode>
void add_question(EncodedChoices& out, const data::Choice& choice, std::size_t number, Where where, Encode&& encode) {
  const auto count = static_cast<std::int64_t>(choice.options.size());
  require(count > 0, {"choices: a question without options", where}, number);
  require(choice.answer >= -1 && choice.answer < count, {"choices: an answer is not among the options", where}, number,
          choice.answer, count);
  for (const std::string& option : choice.options) {
    encode(option);
    out.characters.push_back(characters(option));
  }
  out.first.push_back(static_cast<std::uint32_t>(out.ids.size()));
  out.answers.push_back(choice.answer);
}

}  // namespace detail

/// Questions for a causal model: [bos] context, space and option. Blanks at the context's end are tokenised with the
/// option. Sequences longer than `max_length` lose tokens after bos, at the context's beginning. Without `bos` (the
/// Harness gives OPT none), an empty context still has one, since the first token needs something before it.
/// Errors: max_length below 2, an option without tokens, an answer that is not among the options.
template <class Tokenizer>
EncodedChoices encode_causal(const Tokenizer& tokenizer, std::span<const data::Choice> choices, std::size_t max_length,
                             bool bos = true, Where where = Where::current()) {
  require(max_length >= 2, {"encode_causal: expected a max_length of at least 2, found", where}, max_length);
  EncodedChoices out;
  for (std::size_t q = 0; q < choices.size(); ++q) {
    const std::string_view context = choices[q].context;
    const std::size_t size = context.find_last_not_of(" \t\r\n\f\v") + 1;  // 0 where all is blank
    const Tokens prompt = size == 0 ? Tokens() : plain_tokens(tokenizer, context.substr(0, size), where);
    detail::add_question(out, choices[q], q, where, [&](const std::string& option) {
      Tokens ids;
      if (bos || prompt.empty()) ids.push_back(tokenizer.bos());
      const std::size_t kept = ids.size();
      ids.insert(ids.end(), prompt.begin(), prompt.end());
      const Tokens tail = tokens_behind(tokenizer, context.substr(0, size), prompt,
                                        std::string(context.substr(size)) + " " + option, where);
      if (tail.empty())
        fail({choices[q].place.text(q) + ": no tokens in option " + data::detail::excerpt(option), where});
      std::size_t start = ids.size();  // of the option
      ids.insert(ids.end(), tail.begin(), tail.end());
      if (ids.size() > max_length) {
        ++out.cut;
        const std::size_t lost = ids.size() - max_length;
        const auto from = ids.begin() + static_cast<std::ptrdiff_t>(kept);
        ids.erase(from, from + static_cast<std::ptrdiff_t>(lost));
        start -= std::min(start - kept, lost);
      }
      Tokens labels = causal_labels(ids);
      std::fill_n(labels.begin(), std::max<std::size_t>(start, 1) - 1, ignored_label);
      out.types.emplace_back(ids.size(), 0);
      out.ids.push_back(std::move(ids));
      out.labels.push_back(std::move(labels));
    });
  }
  return out;
}

/// Questions for an encoder: each option a pair of the context and the option, cut to `max_length` tokens by the
/// tokenizer's `encode(text, pair, max_length)`.
template <class Tokenizer>
EncodedChoices encode_pairs(const Tokenizer& tokenizer, std::span<const data::Choice> choices, std::size_t max_length,
                            Where where = Where::current()) {
  EncodedChoices out;
  for (std::size_t q = 0; q < choices.size(); ++q)
    detail::add_question(out, choices[q], q, where, [&](const std::string& option) {
      auto one = tokenizer.encode(choices[q].context, option, max_length, where);
      out.ids.push_back(std::move(one.ids));
      out.types.push_back(std::move(one.types));
      if constexpr (requires { one.cut; }) out.cut += one.cut;
    });
  return out;
}

/// The score of each sequence: the sum of its tokens' log-likelihoods where `labels` counts them. `log_likelihoods` has
/// a value for each position of each sequence, end to end; those of positions that do not count are not looked at.
/// Errors: another number of values, a sequence in which nothing counts.
inline std::vector<double> option_scores(std::span<const float> log_likelihoods, std::span<const Tokens> labels,
                                         Where where = Where::current()) {
  std::vector<double> out;
  std::size_t at = 0;
  for (const Tokens& sequence : labels) {
    require(log_likelihoods.size() - at >= sequence.size(),
            {"option_scores: fewer log-likelihoods than positions", where}, log_likelihoods.size());
    double sum = 0;
    std::size_t counted = 0;
    for (const std::int32_t label : sequence) {
      const float value = log_likelihoods[at++];
      if (label == ignored_label) continue;
      sum += static_cast<double>(value);
      ++counted;
    }
    require(counted > 0, {"option_scores: a sequence in which nothing counts", where}, out.size());
    out.push_back(sum);
  }
  require(at == log_likelihoods.size(), {"option_scores: more log-likelihoods than positions", where},
          log_likelihoods.size(), at);
  return out;
}

}  // namespace meft::task
