// Owns: which row of a checkpoint's classification head stands for which of a task's classes: by the names that its
// config.json has for the rows. Must not know: models, tasks, tensors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/json.hpp>
#include <meft/base/shape.hpp>
#include <meft/io/config.hpp>

namespace meft::checkpoints {

/// What a config.json says of the checkpoint's head.
struct HeadLabels {
  std::vector<std::string> names;  // one a row; empty where the config has none that can be used
  std::string problem;             // problem_type, or nothing

  /// `id2label`, or the inverse of `label2id` where the former is missing, has another number of rows than the head or
  /// has the library's own LABEL_0, LABEL_1 … alone.
  static HeadLabels read(const io::Config& config, Index rows);
};

/// The rows for our classes, in their order.
struct HeadRows {
  enum class Order { by_name, assumed, others };  // others: the names show that the classes are other ones
  std::vector<std::size_t> rows;
  Order order = Order::assumed;
};

namespace detail {

/// Lower case, with single `_` for spaces, `-` and `_`.
inline std::string folded(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool gap = c == ' ' || c == '-' || c == '_';
    if (!gap) out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    else if (!out.empty() && out.back() != '_') out += '_';
  }
  if (!out.empty() && out.back() == '_') out.pop_back();
  return out;
}

/// The first of the names that data sets and checkpoints have for one class.
inline std::string usual(std::string_view name) {
  static const std::vector<std::vector<std::string_view>> groups = {
      {"negative", "neg"},
      {"positive", "pos"},
      {"neutral", "neu"},
      {"entailment", "entail", "entails", "entailed"},
      {"contradiction", "contradict", "contradicts", "contradictory"},
      {"not_entailment", "notentailment", "non_entailment", "no_entailment", "not_entailed"},
      {"equivalent", "duplicate", "is_duplicate", "paraphrase", "is_paraphrase"},
      {"not_equivalent", "non_equivalent", "not_duplicate", "non_duplicate", "no_duplicate", "not_paraphrase",
       "non_paraphrase", "no_paraphrase"},
      {"acceptable", "grammatical"},
      {"unacceptable", "not_acceptable", "ungrammatical"}};
  const std::string plain = folded(name);
  for (const auto& group : groups)
    for (const auto& other : group)
      if (plain == other) return std::string(group.front());
  return plain;
}

/// The number of a name that is none: `3`, `LABEL_3`.
inline std::optional<std::size_t> number_of(std::string_view name) {
  const std::string plain = folded(name);
  std::string_view digits = plain;
  if (digits.starts_with("label_")) digits.remove_prefix(6);
  if (digits.empty() || digits.size() > 6) return {};
  std::size_t out = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return {};
    out = 10 * out + static_cast<std::size_t>(c - '0');
  }
  return out;
}
inline bool unnamed(const std::vector<std::string>& names) {
  return std::all_of(names.begin(), names.end(), [](const std::string& name) { return number_of(name).has_value(); });
}

/// Name -> place; nothing when two are the same.
template <class Key>
std::optional<std::map<std::string, std::size_t>> places_of(const std::vector<std::string>& names, const Key& key) {
  std::map<std::string, std::size_t> out;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (!out.emplace(key(names[i]), i).second) return {};
  return out;
}

/// Where each of `ours` stands among `theirs`: nothing when one is not there, or names are not unique.
template <class Key>
std::optional<std::vector<std::size_t>> matched(const std::vector<std::string>& ours,
                                                const std::vector<std::string>& theirs, const Key& key) {
  const auto here = places_of(ours, key), there = places_of(theirs, key);
  if (!here || !there) return {};
  std::vector<std::size_t> out;
  for (const auto& name : ours) {
    const auto at = there->find(key(name));
    if (at == there->end()) return {};
    out.push_back(at->second);
  }
  return out;
}

inline std::string label_text(const nlohmann::json& label) {
  return label.is_string() ? label.get<std::string>() : label.dump();
}

}  // namespace detail

inline HeadLabels HeadLabels::read(const io::Config& config, Index rows) {
  const auto count = static_cast<std::size_t>(rows);
  const auto put = [&](std::vector<std::optional<std::string>>& names, const std::string& number, std::string name) {
    const auto at = detail::number_of(number);
    if (at && *at < names.size()) names[*at] = std::move(name);
  };
  const auto listed = [&](const char* key) {
    std::vector<std::optional<std::string>> names(count);
    const auto at = config.tree().find(key);
    if (at == config.tree().end() || !at->is_structured() || at->size() != count) return std::vector<std::string>{};
    std::size_t place = 0;
    if (at->is_array())
      for (const auto& name : *at) names[place++] = detail::label_text(name);
    else
      for (const auto& [one, other] : at->items()) {
        const bool by_number = std::string_view(key) == "id2label";
        put(names, by_number ? one : detail::label_text(other), by_number ? detail::label_text(other) : one);
      }
    std::vector<std::string> out;
    for (auto& name : names)
      if (name) out.push_back(*std::move(name));
    return out.size() == count ? out : std::vector<std::string>{};
  };
  HeadLabels out{listed("id2label"), config.text("problem_type", std::string())};
  if (auto other = listed("label2id"); out.names.empty() || (detail::unnamed(out.names) && !other.empty()))
    out.names = std::move(other);
  return out;
}

/// Names are the same when they are equal, or, where that is unambiguous, equal but for case and `_`, `-` or space, or
/// usual names of one class (`neg`, NEGATIVE). Names that are numbers, or LABEL_3, say the class's number. Otherwise
/// the order is assumed, but where one name is left it is the last class's, and where names that are the same stand at
/// different places the classes are others.
inline HeadRows head_rows(const std::vector<std::string>& ours, const std::vector<std::string>& theirs) {
  using Order = HeadRows::Order;
  const auto exact = [](const std::string& name) { return name; };
  HeadRows out;
  for (std::size_t i = 0; i < ours.size(); ++i) out.rows.push_back(i);
  if (theirs.size() != ours.size()) return out;
  for (auto& found : {detail::matched(ours, theirs, exact), detail::matched(ours, theirs, detail::folded),
                      detail::matched(ours, theirs, detail::usual)})
    if (found) return {*found, Order::by_name};
  if (detail::unnamed(theirs)) {
    std::vector<std::size_t> rows(ours.size(), ours.size());
    for (std::size_t row = 0; row < theirs.size(); ++row)
      if (const auto number = *detail::number_of(theirs[row]); number < rows.size()) rows[number] = row;
    if (std::find(rows.begin(), rows.end(), ours.size()) == rows.end()) out.rows = rows;
    return out;
  }
  if (detail::unnamed(ours)) return out;
  const auto here = detail::places_of(ours, detail::usual), there = detail::places_of(theirs, detail::usual);
  if (!here || !there) return out;
  std::vector<std::size_t> rows(ours.size(), ours.size()), left;
  std::size_t elsewhere = 0;
  for (const auto& [name, row] : *there)
    if (const auto at = here->find(name); at != here->end()) rows[at->second] = row, elsewhere += at->second != row;
    else left.push_back(row);
  if (elsewhere == 0) return out;
  if (left.size() > 1) return {out.rows, Order::others};
  *std::find(rows.begin(), rows.end(), ours.size()) = left[0];
  return {rows, Order::assumed};
}

/// The rows for a task's classes where a head is kept in a checkpoint's order, by what its config.json names them.
inline std::vector<std::size_t> rows_in(const io::Config& config, const std::vector<std::string>& ours) {
  return head_rows(ours, HeadLabels::read(config, static_cast<Index>(ours.size())).names).rows;
}

/// `neg = pos (row 0), …`, for what is said of a head: our class, the checkpoint's name, the row.
inline std::string show_rows(const std::vector<std::string>& ours, const std::vector<std::string>& theirs,
                             const std::vector<std::size_t>& rows) {
  std::string out;
  for (std::size_t i = 0; i < ours.size() && i < 4; ++i) {
    out += (i ? ", " : "") + show_name(ours[i]);
    if (theirs.size() == ours.size() && theirs[rows[i]] != ours[i]) out += " = " + show_name(theirs[rows[i]]);
    out += " (row " + std::to_string(rows[i]) + ")";
  }
  return out + (ours.size() > 4 ? ", ... (" + std::to_string(ours.size()) + ")" : "");
}

}  // namespace meft::checkpoints
