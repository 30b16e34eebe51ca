// Owns: the text in which a language model is asked for a class: a template with places for the texts and for one word
// a class, and those of known tasks. Masked: Gao, Fisch, Chen, "Making Pre-trained Language Models Better Few-shot
// Learners", ACL 2021, table 1. Must not know tokens, models.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>

namespace meft::task {

/// `{text} It was {label}.` as pieces; `{pair}` is the second text. Blanks before a field go to the field.
struct Template {
  enum class Kind { literal, text, pair, label };
  struct Piece {
    Kind kind;
    std::string words;  // of a literal; before a field, blanks
  };
  std::vector<Piece> pieces;

  /// Errors: a field that is none of the three, a template without {text} or without one {label}, and with or without
  /// {pair} where there are single texts or pairs.
  explicit Template(std::string_view from, bool pairs, Where where = Where::current()) {
    const auto wrong = [&](const std::string& expected) {
      fail({"template: expected " + expected + ", found `" + std::string(from) + "`", where});
    };
    int count[4] = {};
    std::string literal;
    for (std::size_t at = 0; at < from.size();) {
      if (from[at] != '{') {
        literal += from[at++];
        continue;
      }
      const std::size_t end = from.find('}', at);
      const auto field = end == from.npos ? std::string_view() : from.substr(at + 1, end - at - 1);
      if (field != "text" && field != "pair" && field != "label") wrong("{text}, {pair} or {label} in braces");
      const std::size_t blanks = literal.size() - (literal.find_last_not_of(' ') + 1);
      std::string lead = literal.substr(literal.size() - blanks);
      literal.resize(literal.size() - blanks);
      if (!literal.empty()) pieces.push_back({Kind::literal, std::exchange(literal, {})});
      const Kind kind = field == "text" ? Kind::text : field == "pair" ? Kind::pair : Kind::label;
      ++count[static_cast<int>(kind)];
      pieces.push_back({kind, std::move(lead)});
      at = end + 1;
    }
    if (!literal.empty()) pieces.push_back({Kind::literal, std::move(literal)});
    if (count[static_cast<int>(Kind::label)] != 1) wrong("{label} once");
    if (count[static_cast<int>(Kind::text)] == 0) wrong("{text}");
    if ((count[static_cast<int>(Kind::pair)] > 0) != pairs)
      wrong(pairs ? "{pair}, as the task has pairs of texts" : "no {pair}, as the task has single texts");
  }
};

/// How a task asks: of a masked model, and of one that goes on after the question; a word a class.
struct Asking {
  std::string_view task, masked, causal;
  std::vector<std::string> words;
};

/// Of a task by name, where it has one.
inline std::optional<Asking> asking(std::string_view task) {
  static const std::vector<Asking> all{
      {"cola", "{text} This is {label}.", "{text} This is {label}", {"incorrect", "correct"}},
      {"sst2", "{text} It was {label}.", "{text} It was {label}", {"terrible", "great"}},
      {"mrpc",
       "{text} {label}, {pair}",
       "Sentence 1: {text} Sentence 2: {pair} Do they mean the same? {label}",
       {"No", "Yes"}},
      {"qqp",
       "{text} {label}, {pair}",
       "Question 1: {text} Question 2: {pair} Do they mean the same? {label}",
       {"No", "Yes"}},
      {"mnli",
       "{text}? {label}, {pair}",
       "Suppose {text} Can we infer that \"{pair}\"? Yes, No, or Maybe? {label}",
       {"Yes", "Maybe", "No"}},
      {"qnli", "{text}? {label}, {pair}", "{pair} Does this answer \"{text}\"? {label}", {"Yes", "No"}},
      {"rte", "{text}? {label}, {pair}", "{text} Does this mean that \"{pair}\" is true? {label}", {"Yes", "No"}}};
  for (const Asking& one : all)
    if (one.task == task) return one;
  return {};
}

}  // namespace meft::task
