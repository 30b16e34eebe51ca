// Owns: what a label's cell says: its class, a value, or that there is none; the classes of a file; and the names that
// a data set of the Hub gives its numbers. Must not know splits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/data/form.hpp>
#include <meft/data/table.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data::detail {

/// Cells that stand for no label: nothing, `-` (SNLI and MNLI where annotators disagree), NaN and null (pandas).
inline bool says_none(std::string_view cell) {
  cell = trimmed(cell);
  return cell.empty() || cell == "-" || lower(cell) == "nan" || lower(cell) == "null";
}

/// -1 is the number of no class: what the Hub's data sets have where a label is not told.
inline bool is_minus_one(std::string_view cell) { return number(cell) == -1.0; }

/// The cell of a row's label. Errors: an object or array.
inline std::string_view label_cell(const Source& source, std::size_t row) {
  if (source.table.nested(row, source.at.label)) source.table.bad(row, "expected one label, found an object or array");
  return source.table(row, source.at.label);
}

/// Whether a number says no more than its value: not a code with zeros in front, nor one that a double does not hold.
inline bool plain_number(std::string_view cell) {
  const auto value = number(cell);
  if (cell.starts_with('+') || cell.starts_with('-')) cell.remove_prefix(1);
  return value && std::fabs(*value) < 0x1p53 &&
         !(cell.size() > 1 && cell[0] == '0' && cell[1] >= '0' && cell[1] <= '9');
}

/// The class that a cell names: as it is written, or as a plain number of the same value (1, 1.0, +1).
inline std::optional<std::size_t> class_named(std::string_view cell, const Names& names) {
  cell = trimmed(cell);
  for (std::size_t i = 0; i < names.size(); ++i)
    if (cell == names[i]) return i;
  if (const auto value = number(cell); value && plain_number(cell))
    for (std::size_t i = 0; i < names.size(); ++i)
      if (number(names[i]) == value && plain_number(names[i])) return i;
  return {};
}

/// Whether a name is a number itself: numbers are names then, not places.
inline bool names_a_number(const Names& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return number(name).has_value(); });
}

/// A number from 0 below `count`, or nothing.
inline std::optional<std::size_t> class_number(std::string_view cell, std::size_t count) {
  const auto value = number(cell);
  if (!value || *value != std::floor(*value) || *value < 0 || *value >= static_cast<double>(count)) return {};
  return static_cast<std::size_t>(*value);
}

/// Throws where -1 may be a class as well as no label: beside 0 and 1 alone.
[[noreturn]] inline void ask_minus_one(const Source& source, std::size_t row) {
  source.table.bad(row,
                   "is label `-1` a class beside `0` and `1`, or no label? Say the classes with option label-names: "
                   "-1,0,1 or 0,1");
}

/// The classes of the files of a `tsv` split: plain numbers in order of value if all are, else names in order of bytes.
/// Cells that say none are not counted, nor is -1 beside other numbers from 0 or beside names. Errors: a first row with
/// a label of its own, which is a header taken for a row, unless the options say there is none; -1 beside 0 and 1
/// alone.
inline Names classes(const std::vector<Source>& sources, const LoadOptions& options) {
  const Table& table = sources.at(0).table;
  std::map<std::string_view, std::size_t> found;
  std::size_t labelled = 0, rows = 0, minus_one = 0;
  const Source* with_minus_one = nullptr;
  std::string_view none;
  for (const Source& source : sources) {
    rows += source.table.rows();
    for (std::size_t row = 0; row < source.table.rows(); ++row) {
      const std::string_view cell = trimmed(label_cell(source, row));
      if (says_none(cell)) {
        if (!cell.empty()) none = cell;
        continue;
      }
      if (is_minus_one(cell) && !with_minus_one) with_minus_one = &source, minus_one = row;
      ++labelled;
      ++found[cell];
    }
  }
  if (options.header == Header::automatic && table.header().empty() && table.rows() > 2) {
    const std::string_view first = trimmed(table(0, sources[0].at.label));
    if (!says_none(first) && found[first] == 1 && !number(first))
      table.bad(0, "looks like a header: its label occurs nowhere else (option header says whether there is one)");
  }
  const bool numbers =
      std::all_of(found.begin(), found.end(), [](const auto& entry) { return plain_number(entry.first); });
  std::set<double> values;
  for (const auto& [name, count] : found) {
    const auto value = number(name);
    if (numbers && *value != std::floor(*value))
      fail(table.name() + ": label " + excerpt(name) + " is a fraction: use option regression or option threshold");
    if (value) values.insert(*value);
  }
  Names names;
  if (numbers) {
    if (values.contains(-1) && *values.begin() == -1) {
      const bool coded = values.size() == 2 && values.contains(1);  // -1 and 1
      if (values.size() == 3 && values.contains(0) && values.contains(1)) ask_minus_one(*with_minus_one, minus_one);
      if (!coded) values.erase(-1);
    }
    for (const double value : values) {
      char text[32];
      std::snprintf(text, sizeof text, "%.0f", value == 0 ? 0.0 : value);
      names.emplace_back(text);
    }
  } else {
    for (const auto& [name, count] : found)
      if (!is_minus_one(name)) names.emplace_back(name);
  }
  if (names.size() < 2)
    fail(table.name() + ": a classification needs two labels, found " +
         (names.empty() ? "no rows with a label" : quoted(names, "")) +
         (none.empty() ? "" : "; " + excerpt(none) + " says that there is none (option label-names makes it a class)"));
  if (names.size() > 20 && names.size() * 2 > labelled)
    fail(table.name() + ": expected classes, found " + std::to_string(names.size()) + " different labels in " +
         std::to_string(rows) + " rows (for numbers use option regression or option threshold)");
  return names;
}

/// The label of a row; NaN where it has none; nothing if it is below the threshold and to be dropped.
inline std::optional<float> label_of(const Source& source, std::size_t row, const Task& task,
                                     const LoadOptions& options) {
  const std::string_view cell = label_cell(source, row);
  if (task.regression() || options.threshold) {
    if (says_none(cell)) return std::numeric_limits<float>::quiet_NaN();
    const auto value = number(cell);
    if (!value || std::abs(*value) > std::numeric_limits<float>::max())
      source.table.bad(row, "expected a number as label, found " + excerpt(cell));
    if (task.name == "stsb" && (*value < 0 || *value > 5))
      source.table.bad(row, "expected a score from 0 to 5, found " + excerpt(cell));
    if (!options.threshold) return static_cast<float>(*value);
    if (std::abs(*value) < *options.threshold || *value == 0) return {};
    return *value > 0 ? 1.0f : 0.0f;
  }
  const Names& names = task.label_names;
  if (const auto named = class_named(cell, names)) return static_cast<float>(*named);
  const bool numbered = (task.name != "tsv" || !options.label_names.empty()) && !names_a_number(names);
  if (const auto place = class_number(cell, names.size()); numbered && place) return static_cast<float>(*place);
  if (says_none(cell) || is_minus_one(cell)) return std::numeric_limits<float>::quiet_NaN();
  std::string expected =
      quoted(Names(names.begin(), names.begin() + std::min<std::ptrdiff_t>(std::ssize(names), 10)), ", ");
  if (names.size() > 10) expected += ", ... (" + std::to_string(names.size()) + " labels)";
  source.table.bad(
      row, "unknown label " + excerpt(cell) + ": expected " + expected + (numbered ? " or its number from 0" : ""));
}

/// The names of a ClassLabel feature in dataset_info.json, or in dataset_infos.json where all that have it agree.
inline Names names_in_info(const JsonField& info, const std::string& label) {
  const auto features = info.find("features");
  if (!features || !features->value().is_object()) return {};
  const auto column = features->find(label);
  if (!column || !column->value().is_object()) return {};
  auto names = column->find("names");
  if (!names || !names->value().is_array()) return {};
  Names out;
  for (std::size_t i = 0; i < names->value().size(); ++i) out.push_back(names->at(i).string());
  return out;
}

/// The names under `class_label:` of the feature `label` in the YAML at the head of a README.md:
///   - name: label … class_label: … names: … '0': neg
inline Names names_in_card(std::string_view text, const std::string& label) {
  Names out;
  bool head = false, ours = false, names = false;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const std::string_view bare = trimmed(line);
    if (number == 1) head = bare == "---";
    else if (bare == "---") head = false;
    if (!head) return;
    const auto unquoted = [](std::string_view value) {
      value = trimmed(value);
      if (value.size() > 1 && (value.front() == '\'' || value.front() == '"') && value.back() == value.front())
        value = value.substr(1, value.size() - 2);
      return value;
    };
    if (bare.starts_with("- name:")) {
      ours = out.empty() && unquoted(bare.substr(7)) == label;
      names = false;
    } else if (ours && bare == "names:") {
      names = true;
    } else if (names) {
      const std::size_t colon = bare.find(':');
      if (colon == bare.npos || class_number(unquoted(bare.substr(0, colon)), out.size() + 1) != out.size())
        names = false;
      else out.emplace_back(unquoted(bare.substr(colon + 1)));
    }
  });
  return out;
}

/// The names that a data set of the Hub gives the numbers of its column `label`, by what lies beside its files; empty
/// where it gives none.
inline Names hub_names(const std::string& folder, const std::string& label) {
  namespace fs = std::filesystem;
  constexpr std::size_t most = std::size_t{16} << 20;
  for (const fs::path& place : {fs::path(folder), fs::path(folder).parent_path()}) {
    for (const char* name : {"dataset_info.json", "dataset_infos.json"}) {
      const std::string file = (place / name).string();
      if (!is_there(file)) continue;
      const auto tree = parse_json(read_file(file, most), file);
      const JsonField field(tree, file);
      if (!tree.is_object()) continue;
      if (Names names = names_in_info(field, label); !names.empty()) return names;
      Names agreed;
      for (const auto& [key, value] : tree.items())
        if (value.is_object())
          if (Names names = names_in_info(field.at(key), label); !names.empty()) {
            if (!agreed.empty() && agreed != names) return {};
            agreed = std::move(names);
          }
      if (!agreed.empty()) return agreed;
    }
    const std::string card = (place / "README.md").string();
    if (is_there(card))
      if (Names names = names_in_card(read_file(card, most), label); !names.empty()) return names;
    if (place.filename() != "data") break;
  }
  return {};
}

/// hub_names, if none is another one's number and every label of the files is one of their numbers or says none.
inline Names fitting_names(const std::vector<Source>& sources, const std::string& folder, const std::string& label) {
  Names names = hub_names(folder, label);
  if (names.size() < 2) return {};
  for (std::size_t i = 0; i < names.size(); ++i)
    if (const auto value = number(names[i]); value && *value != static_cast<double>(i)) return {};
  for (const Source& source : sources)
    for (std::size_t row = 0; row < source.table.rows(); ++row) {
      const std::string_view cell = label_cell(source, row);
      if (!says_none(cell) && !is_minus_one(cell) && !class_number(cell, names.size())) return {};
    }
  return names;
}

}  // namespace meft::data::detail
