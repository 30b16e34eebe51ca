// Owns: rows of JSON: one object a line, or the elements of one array. Must not know columns.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data::detail {

inline constexpr std::size_t longest_row = std::size_t{1} << 20;

/// Where a row of JSON stands: its line from 1 or its element from 0, and its text, if it is a line.
struct JsonPlace {
  std::size_t number;
  std::string_view line;
};

/// Runs `take(field, place)` for each row of `text`, the whole file `name`. Gives whether it is one array.
/// Errors: no rows, a blank line between them, rows longer than 1 MiB, broken JSON.
template <class Take>
bool for_each_json(std::string_view text, const std::string& name, Take&& take) {
  text = without_blank_end(text);
  if (trimmed(text).empty()) fail(name + ": is empty: expected rows of JSON");
  if (trimmed(text).front() == '[') {
    const auto tree = parse_unique_json(text, name);
    if (tree.empty()) fail(name + ": is empty: expected rows of JSON");
    for (std::size_t i = 0; i < tree.size(); ++i)
      take(JsonField(tree[i], name + ": element " + std::to_string(i), "the row"), JsonPlace{i, {}});
    return true;
  }
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const std::string place = name + ":" + std::to_string(number);
    if (trimmed(line).empty()) fail(place + ": the line is blank");
    check_line(line, name, number);
    if (line.size() > longest_row)
      fail(place + ": expected a row of at most " + std::to_string(longest_row) + " bytes, found " +
           std::to_string(line.size()));
    if (number == 1 && trimmed(line) == "{")
      fail(place + ": expected one JSON object a line, or one array of them; found an object of several lines");
    const auto tree = parse_unique_json(line, place);
    take(JsonField(tree, place, "the row"), JsonPlace{number, line});
  });
  return false;
}

}  // namespace meft::data::detail
