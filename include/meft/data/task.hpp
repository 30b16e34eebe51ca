// Owns: the reading of a task's examples from files: labels, splits, the held-out tenth.
// Task and LoadOptions are form.hpp's. Must not know tokenizers or models.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
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
#include <meft/data/batches.hpp>
#include <meft/data/form.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// One text or pair of texts (UTF-8). `label` is a class number, a value (regression), or NaN where there is none.
struct Example {
  std::string text{}, pair{};
  float label = std::numeric_limits<float>::quiet_NaN();
};

/// A further set of examples with a name of its own.
struct Split {
  std::string name;
  std::vector<Example> examples;
};

struct Dataset {
  Task task;
  std::vector<Example> train, dev, test;       // test may be empty, and its labels NaN
  bool held_out = false;                       // dev is the held-out tenth of train's file
  std::size_t dropped = 0;                     // rows below the threshold, or (qqp) cut in two by a line break
  std::vector<Split> more_dev{}, more_test{};  // mnli: `mismatched`, where dev and test are the matched ones
};

namespace detail {

/// The classes of a `tsv` file: numbers in order of value if all are, else names in order of bytes.
/// Errors: a first row with a label of its own, which is a header taken for a row, unless the options say there is
/// none.
inline Names classes(const Source& source, const LoadOptions& options) {
  const Table& table = source.table;
  std::map<std::string_view, std::size_t> found;
  for (std::size_t row = 0; row < table.rows(); ++row) ++found[table(row, source.at.label)];
  if (options.header == Header::automatic && table.header().empty() && table.rows() > 2) {
    const std::string_view first = table(0, source.at.label);
    if (found[first] == 1 && !number(first))
      table.bad(0, "looks like a header: its label occurs nowhere else (option header says whether there is one)");
  }
  Names names;
  for (const auto& entry : found) names.emplace_back(entry.first);
  if (std::all_of(names.begin(), names.end(), [](const std::string& name) { return number(name).has_value(); })) {
    for (const std::string& name : names)
      if (*number(name) != std::floor(*number(name)))
        fail(table.name() + ": label " + excerpt(name) + " is a fraction: use option regression or threshold");
    std::stable_sort(names.begin(), names.end(), [](const auto& a, const auto& b) { return *number(a) < *number(b); });
  }
  if (names.size() < 2)
    fail(table.name() + ": a classification needs two labels, found " +
         (names.empty() ? "no rows" : quoted(names, "")));
  if (names.size() > 20 && names.size() * 2 > table.rows())
    fail(table.name() + ": expected classes, found " + std::to_string(names.size()) + " different labels in " +
         std::to_string(table.rows()) + " rows (for numbers use option regression or threshold)");
  return names;
}

/// The label of a row, or nothing if the row is to be dropped.
inline std::optional<float> label_of(const Source& source, std::size_t row, const Task& task,
                                     const LoadOptions& options) {
  const std::string_view cell = source.table(row, source.at.label);
  if (task.regression() || options.threshold) {
    const auto value = number(cell);
    if (!value || std::abs(*value) > std::numeric_limits<float>::max())
      source.table.bad(row, "expected a number as label, found " + excerpt(cell));
    if (task.name == "stsb" && (*value < 0 || *value > 5))
      source.table.bad(row, "expected a score from 0 to 5, found " + excerpt(cell));
    if (!options.threshold) return static_cast<float>(*value);
    if (std::abs(*value) < *options.threshold || *value == 0) return {};
    return *value > 0 ? 1.0f : 0.0f;
  }
  for (std::size_t i = 0; i < task.label_names.size(); ++i)
    if (cell == task.label_names[i] || (task.name != "tsv" && cell == std::to_string(i))) return static_cast<float>(i);
  const Names& names = task.label_names;
  std::string expected =
      quoted(Names(names.begin(), names.begin() + std::min<std::ptrdiff_t>(std::ssize(names), 10)), ", ");
  if (names.size() > 10) expected += ", ... (" + std::to_string(names.size()) + " labels)";
  source.table.bad(row, "unknown label " + excerpt(cell) + ": expected " + expected +
                            (task.name != "tsv" ? " or its number from 0" : ""));
}

/// Appends the rows of a table as examples; `dropped` counts those below the threshold and those cut.
inline void append(std::vector<Example>& out, const Source& source, const Task& task, const LoadOptions& options,
                   bool hidden_labels, std::size_t& dropped) {
  const Table& table = source.table;
  if (table.rows() == 0) fail(table.name() + ": has a header but no rows");
  for (std::size_t row = 0; row < table.rows(); ++row) {
    if (source.columns != 0 && table.columns(row) != source.columns) {
      ++dropped;
      continue;
    }
    Example example{.text = std::string(table(row, source.at.text))};
    if (source.at.pair != Table::none) example.pair = table(row, source.at.pair);
    const bool hidden = hidden_labels && source.at.label != Table::none && table(row, source.at.label) == "-1";
    if (source.at.label != Table::none && !hidden) {
      const auto label = label_of(source, row, task, options);
      if (!label) {
        ++dropped;
        continue;
      }
      example.label = *label;
    }
    out.push_back(std::move(example));
  }
}

/// msr_paraphrase_train.txt holds GLUE's train and dev rows; dev_ids.tsv lists the pairs of dev.
inline void split_by_ids(Dataset& data, const Source& source, const std::string& ids_path) {
  const Table ids = Table::read(ids_path, {.columns = 2});
  std::set<std::pair<std::string_view, std::string_view>> wanted;
  for (std::size_t row = 0; row < ids.rows(); ++row) wanted.emplace(ids(row, 0), ids(row, 1));
  const std::size_t first = source.table.find({"#1 ID"}), second = source.table.find({"#2 ID"});
  if (first == Table::none || second == Table::none) fail(source.table.name() + ":1: no columns `#1 ID` and `#2 ID`");
  std::vector<Example> rest;
  for (std::size_t row = 0; row < source.table.rows(); ++row) {
    const bool dev = wanted.contains({source.table(row, first), source.table(row, second)});
    (dev ? data.dev : rest).push_back(std::move(data.train[row]));
  }
  data.train = std::move(rest);
  if (data.dev.size() != wanted.size())
    fail(ids_path + ": lists " + std::to_string(wanted.size()) + " pairs, " + source.table.name() + " has " +
         std::to_string(data.dev.size()) + " of them");
}

inline Task tsv_task(const LoadOptions& options, const Source& train) {
  Task task{.name = "tsv",
            .labels = 1,
            .pair = !options.pair.empty(),
            .metrics = {"pearson", "spearman", "pearson_spearman"},
            .main_metric = "pearson_spearman"};
  if (options.regression) return task;
  if (!options.label_names.empty()) task.label_names = options.label_names;
  else task.label_names = options.threshold ? Names{"negative", "positive"} : classes(train, options);
  task.labels = static_cast<int>(task.label_names.size());
  if (task.labels < 2 || (options.threshold && task.labels != 2))
    fail(options.threshold ? "task tsv: with a threshold there are two label names, found"
                           : "task tsv: a classification needs at least two label names, found",
         task.labels);
  task.metrics = task.labels == 2 ? Names{"accuracy", "f1"} : Names{"accuracy"};
  task.main_metric = "accuracy";
  return task;
}

inline Dataset load(const std::string& name, const std::string& path, const LoadOptions& options) {
  namespace fs = std::filesystem;
  const Form* form = form_of(name, options);
  const auto open_file = [&](const std::string& file, bool labelled) {
    Table table = open_any(form, file, options);
    return form ? open(*form, std::move(table), labelled) : open(options, std::move(table), labelled);
  };
  const Names train_names = form ? form->train : Names{"train.tsv"}, dev_names = form ? form->dev : Names{"dev.tsv"};
  std::error_code ignored;
  fs::path folder = path;
  const bool single = !fs::is_directory(folder, ignored);
  std::string train = single ? path : first_file(folder, train_names);
  if (train.empty() && form)
    for (const std::string& inner : {form->task.name, form->folder})
      if (train.empty() && !(train = first_file(fs::path(path) / inner, train_names)).empty())
        folder = fs::path(path) / inner;
  if (train.empty()) fail(path + ": no training file of task " + name + ": expected " + quoted(train_names, " or "));

  const Source source = open_file(train, true);
  Dataset data;
  data.task = form ? form->task : tsv_task(options, source);
  const auto add = [&](std::vector<Example>& out, const std::string& file, bool labelled) {
    append(out, open_file(file, labelled), data.task, options, !labelled, data.dropped);
  };
  append(data.train, source, data.task, options, false, data.dropped);
  if (data.train.empty()) fail(train + ": no row reaches the threshold; rows dropped", data.dropped);

  const bool msr = !single && fs::path(train).filename() == "msr_paraphrase_train.txt";
  const std::string dev = single || msr ? "" : first_file(folder, dev_names);
  const std::string ids = msr ? first_file(folder, {"dev_ids.tsv"}) : "";
  if (!dev.empty()) add(data.dev, dev, true);
  else if (!ids.empty()) split_by_ids(data, source, ids);
  else if (data.held_out = single || msr || !form; data.held_out)
    hold_out(data.train, data.dev, train, options.split_seed);
  else fail(folder.string() + ": no development file of task " + name + ": expected " + quoted(dev_names, " or "));
  if (data.dev.empty()) fail(dev + ": no row reaches the threshold; rows dropped", data.dropped);
  if (fs::path(dev).filename() == "in_domain_dev.tsv")
    if (const std::string other = first_file(folder, {"out_of_domain_dev.tsv"}); !other.empty())
      add(data.dev, other, true);
  if (single) return data;
  const std::string test = first_file(folder, form ? form->test : Names{"test.tsv"});
  if (!test.empty()) add(data.test, test, false);
  if (!form) return data;
  const auto add_more = [&](std::vector<Split>& out, const Names& names, bool labelled) {
    if (const std::string file = first_file(folder, names); !file.empty())
      add(out.emplace_back(Split{form->more, {}}).examples, file, labelled);
  };
  add_more(data.more_dev, form->more_dev, true);
  add_more(data.more_test, form->more_test, false);
  return data;
}

inline std::vector<Example> load_inputs(const std::string& name, const std::string& path, const LoadOptions& options) {
  const Form* form = form_of(name, options);
  Table table = open_any(form, path, options);
  const bool pair = form ? form->task.pair : !options.pair.empty();
  const std::size_t texts = pair ? 2 : 1;
  Source source{std::move(table), {0, pair ? 1 : Table::none, Table::none}, 0};
  const Names title = form ? form->text : column_number(options.text) ? Names{} : Names{options.text};
  if (source.table.columns(0) == texts && !first_line_has(source.table, title)) {
    source.table.expect(texts);
    if (options.header == Header::present) source.table.take_header();
  } else if (form) source = open(*form, std::move(source.table), false);
  else source = open(options, std::move(source.table), false);
  source.at.label = Table::none;
  std::vector<Example> out;
  std::size_t dropped = 0;
  append(out, source, Task{}, options, false, dropped);
  return out;
}

}  // namespace detail

/// Reads a task's data. `path` is a folder with the task's files (or the folder above it, as GLUE's archives unpack),
/// or one file, of which a tenth, fixed by `split_seed`, becomes dev. A `tsv` folder holds train.tsv and, if there are,
/// dev.tsv (else a tenth of train.tsv) and test.tsv. Without train.tsv, mrpc takes msr_paraphrase_train.txt, split by
/// dev_ids.tsv if there is one, and cola's dev is in_domain_dev.tsv followed by out_of_domain_dev.tsv. mnli's dev is
/// dev_matched.tsv or dev.tsv; dev_mismatched.tsv goes to more_dev. One in a thousand rows of qqp's train and dev may
/// have another number of columns than the header and is dropped: line breaks cut a few of GLUE's rows.
/// Test labels may be missing or -1: NaN. Errors name the file, and for a bad row its line and beginning.
inline Dataset load(const std::string& name, const std::string& path, const LoadOptions& options = {},
                    Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load(name, path, options); });
}

/// Reads texts to predict, in file order, all labels NaN. The file has the task's columns, with or without the label,
/// or only the text column (for pairs: the two) and then a header only if it names them or `header` is present. Errors
/// as in `load`.
inline std::vector<Example> load_inputs(const std::string& name, const std::string& path,
                                        const LoadOptions& options = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load_inputs(name, path, options); });
}

}  // namespace meft::data
