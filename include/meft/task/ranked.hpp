// Owns: questions whose answers a language model ranks, as tokens: classes as words at a mask, after a prompt or as a
// decoder's target; options of questions likewise. Must not know files, models, and which tokenizer it was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/choice.hpp>
#include <meft/data/task.hpp>
#include <meft/task/language.hpp>
#include <meft/task/template.hpp>

namespace meft::task {

/// Where an answer's words are predicted: at a mask in the prompt, behind it, or by a decoder that reads it.
enum class Answered { at_mask, behind, by_decoder };

/// A prompt a question; the answers of all end to end: question q's are first[q] … first[q + 1] − 1.
struct RankedQuestions {
  Answered answered = Answered::behind;
  std::vector<Tokens> prompts{}, answers{};
  std::vector<std::int32_t> masks{};  // at_mask: the place in the prompt
  std::vector<std::uint32_t> first{0};
  std::vector<float> labels{};               // the right answer of each question; NaN where it is not told
  std::int32_t skipped = 0;                  // by_decoder: the first tokens of each answer, which are given
  std::size_t cut = 0;                       // how many prompts lost tokens
  std::vector<std::uint32_t> cut_answers{};  // ascending: the questions whose answers that are to be written did

  std::size_t size() const { return prompts.size(); }
  std::uint32_t count(std::size_t q) const { return first.at(q + 1) - first[q]; }

  /// The tokens of the sequences that a model runs for question q.
  std::vector<std::int32_t> sequences(std::size_t q) const {
    const auto prompt = static_cast<std::int32_t>(prompts[q].size());
    if (answered == Answered::at_mask) return {prompt};
    std::vector<std::int32_t> out;
    if (answered == Answered::by_decoder) out.push_back(prompt);
    for (std::size_t i = first[q]; i < first[q + 1]; ++i)
      out.push_back(static_cast<std::int32_t>(answers[i].size()) + (answered == Answered::behind ? prompt : 0));
    return out;
  }
  /// All of them together, by which data::batches groups questions.
  std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (std::size_t q = 0; q < size(); ++q) {
      std::uint32_t sum = 0;
      for (const auto n : sequences(q)) sum += static_cast<std::uint32_t>(n);
      out.push_back(sum);
    }
    return out;
  }
};

/// How questions become tokens: `before` and `after` are the special tokens around a prompt, `start` and `end` those
/// around an answer that a decoder gives; `mask`, the id of [MASK].
struct RankedForm {
  Answered answered = Answered::behind;
  std::size_t max_length = 128;  // of a sequence
  std::size_t max_written = 0;   // of what is written, without special tokens; 0: as WrittenRoom says
  Tokens before{}, after{}, start{}, end{};
  std::int32_t mask = -1;
};

namespace detail {

/// A piece of a prompt: whether it may lose tokens at its end, and whether it is the mask.
struct PromptPiece {
  Tokens ids;
  bool text = false, mask = false;
};

/// Takes tokens off the texts, the longest one first, until `room` tokens are left; false where that is not enough.
inline bool shorten(std::vector<PromptPiece>& pieces, std::size_t room) {
  std::size_t size = 0;
  for (const auto& piece : pieces) size += piece.ids.size();
  for (; size > room; --size) {
    PromptPiece* longest = nullptr;
    for (auto& piece : pieces)
      if (piece.text && !piece.ids.empty() && (!longest || piece.ids.size() > longest->ids.size())) longest = &piece;
    if (!longest) return false;
    longest->ids.pop_back();
  }
  return true;
}

inline void add_prompt(RankedQuestions& out, const RankedForm& form, const std::vector<PromptPiece>& pieces) {
  Tokens ids = form.before;
  for (const auto& piece : pieces) {
    if (piece.mask) out.masks.push_back(static_cast<std::int32_t>(ids.size()));
    ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
  }
  ids.insert(ids.end(), form.after.begin(), form.after.end());
  out.prompts.push_back(std::move(ids));
  out.first.push_back(static_cast<std::uint32_t>(out.answers.size()));
}

/// What a decoder gives: the answer between its special tokens.
inline Tokens target(const RankedForm& form, Tokens answer) {
  if (form.answered != Answered::by_decoder) return answer;
  answer.insert(answer.begin(), form.start.begin(), form.start.end());
  answer.insert(answer.end(), form.end.begin(), form.end.end());
  return answer;
}

/// The tokens of an answer that are not predicted.
inline std::int32_t given(const RankedForm& form) {
  return form.answered == Answered::by_decoder ? static_cast<std::int32_t>(form.start.size()) : 0;
}

/// The tokens that a sequence has beside its prompt's pieces.
inline std::size_t beside(const RankedForm& form, std::size_t longest_answer) {
  return form.before.size() + form.after.size() + (form.answered == Answered::behind ? longest_answer : 0);
}

}  // namespace detail

/// Examples with a class, asked by `from`: `words` are the classes' in order. A text that stands behind the label is a
/// part of the answer where the answer comes behind the prompt; a decoder is asked by what stands before the label.
/// Texts are cut at their ends, the longest first, so that a sequence has at most form.max_length tokens.
/// Errors: a word without tokens, or where a mask stands for it with several or one that another class has; a template
/// for which there is no room.
template <class Tokenizer>
RankedQuestions rank_classes(const Tokenizer& tokenizer, std::span<const data::Example> examples, const Template& from,
                             std::span<const std::string> words, const RankedForm& form,
                             Where where = Where::current()) {
  using Kind = Template::Kind;
  RankedQuestions out{.answered = form.answered, .skipped = detail::given(form)};
  const bool masked = form.answered == Answered::at_mask;
  std::vector<Tokens> labels;
  std::string lead, leading;  // the blanks before the label, and the words before these
  for (std::size_t i = 0; i < from.pieces.size(); ++i)
    if (from.pieces[i].kind == Kind::label && i > 0) {
      lead = from.pieces[i].words;
      if (form.answered == Answered::behind && !lead.empty())
        leading = from.pieces[i - 1].kind == Kind::literal ? from.pieces[i - 1].words : words.front();
    }
  for (const std::string& word : words) {
    const Tokens ids = tokens_behind(tokenizer, leading, lead + word, where);
    if (ids.empty() || (masked && ids.size() != 1))
      fail({"label words: expected " + std::string(masked ? "one token" : "tokens") + " for `" + word + "`, found " +
                std::to_string(ids.size()),
            where});
    if (masked && std::find(labels.begin(), labels.end(), ids) != labels.end())
      fail({"label words: expected another token than the other classes' for `" + word + "`, found token", where},
           ids[0]);
    labels.push_back(ids);
  }
  for (const auto& example : examples) {
    std::vector<detail::PromptPiece> pieces, behind;
    auto* to = &pieces;
    std::string before;  // the last words that stand before a piece
    for (const auto& piece : from.pieces) {
      if (piece.kind == Kind::label) {
        if (masked) pieces.push_back({{form.mask}, false, true});
        else to = &behind;
        before = masked ? "" : words.front();
        continue;
      }
      const bool text = piece.kind != Kind::literal;
      std::string own = piece.words;
      if (text) own += piece.kind == Kind::text ? example.text : example.pair;
      to->push_back({tokens_behind(tokenizer, before, own, where), text});
      if (!own.empty()) before = std::move(own);
    }
    if (form.answered == Answered::by_decoder) behind.clear();
    std::size_t longest = 0;
    for (const auto& label : labels) longest = std::max(longest, label.size());
    const std::size_t special = detail::beside(form, longest), prompt = pieces.size();
    std::size_t size = 0;
    for (auto& piece : behind) pieces.push_back(std::move(piece));
    for (const auto& piece : pieces) size += piece.ids.size();
    if (size + special > form.max_length) {
      ++out.cut;
      if (special > form.max_length || !detail::shorten(pieces, form.max_length - special))
        fail({"template: no room for it in sequences of " + std::to_string(form.max_length) + " tokens", where});
    }
    Tokens tail;
    for (std::size_t i = prompt; i < pieces.size(); ++i)
      tail.insert(tail.end(), pieces[i].ids.begin(), pieces[i].ids.end());
    pieces.resize(prompt);
    for (Tokens answer : labels) {
      answer.insert(answer.end(), tail.begin(), tail.end());
      out.answers.push_back(detail::target(form, std::move(answer)));
    }
    detail::add_prompt(out, form, pieces);
    out.labels.push_back(example.label);
  }
  return out;
}

/// Questions with options, each behind the context or as a decoder's target; blanks at the context's end go to the
/// option. Contexts lose tokens at their beginning. Errors: those of data::Choice, an option without tokens or with no
/// room, a masked model.
template <class Tokenizer>
RankedQuestions rank_options(const Tokenizer& tokenizer, std::span<const data::Choice> choices, const RankedForm& form,
                             Where where = Where::current()) {
  require(form.answered != Answered::at_mask,
          {"ranked answers: a mask stands for one word, and the options are texts", where});
  RankedQuestions out{.answered = form.answered, .skipped = detail::given(form)};
  for (std::size_t q = 0; q < choices.size(); ++q) {
    const auto& [context, options, answer, id, place] = choices[q];
    const auto count = static_cast<std::int64_t>(options.size());
    require(count > 0 && answer >= -1 && answer < count, {"ranked answers: an answer is not among the options", where},
            q, answer, count);
    const std::size_t end = context.find_last_not_of(" \t\r\n\f\v") + 1;
    Tokens prompt = plain_tokens(tokenizer, context.substr(0, end), where);
    const std::string_view before = std::string_view(context).substr(0, form.answered == Answered::behind ? end : 0);
    std::size_t longest = 0;
    for (const std::string& option : options) {
      Tokens ids =
          detail::target(form, tokens_behind(tokenizer, before, prompt, context.substr(end) + " " + option, where));
      if (ids.size() == form.start.size() + form.end.size())
        fail({place.text(q) + ": expected options of at least one token, found " + data::detail::excerpt(option),
              where});
      longest = std::max(longest, ids.size());
      out.answers.push_back(std::move(ids));
    }
    const std::size_t special = detail::beside(form, longest);
    if (const std::size_t needed = std::max(special, longest) + 1; needed > form.max_length)
      fail({place.text(q) + ": no room beside the longest option: expected option max-length of at least " +
                std::to_string(needed) + ", found " + std::to_string(form.max_length),
            where});
    if (const std::size_t room = form.max_length - special; prompt.size() > room) {
      ++out.cut;
      prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(room));
    }
    detail::add_prompt(out, form, {detail::PromptPiece{std::move(prompt)}});
    out.labels.push_back(answer < 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(answer));
  }
  return out;
}

}  // namespace meft::task
