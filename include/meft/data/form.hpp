// Owns: what a task is, and how its files look: their names, their columns with a header and without, the options.
// GLUE: Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform", ICLR 2019; files as its archives ship them,
// as their first publishers did (CoLA, MSR paraphrase, STS benchmark), or with columns named as Hugging Face names
// them. Must not know labels' values or how examples are split.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// What is learned and how it is scored. Metrics are names that `task::metrics` knows; `main_metric` picks the epoch.
struct Task {
  std::string name{};
  int labels = 2;                          // 1: regression
  std::vector<std::string> label_names{};  // by class number; empty for regression
  bool pair = false;
  std::vector<std::string> metrics{};
  std::string main_metric{};
  bool regression() const { return labels == 1; }
};

/// Whether line 1 of a `tsv` file names the columns. `automatic`: yes if any column was given by name.
enum class Header { automatic, present, absent };

/// How files are read. `encoding`, `split_seed` and `scored` are for every task, `header` for every one's texts to
/// predict; the rest is for task `tsv`: the other tasks know their columns and labels.
struct LoadOptions {
  Encoding encoding = Encoding::utf8;
  std::string text{}, pair{}, label{};  // a column's name in the header, or its number from 1; empty pair: single texts
  Header header = Header::automatic;
  bool regression = false;            // labels are numbers to be predicted
  std::optional<double> threshold{};  // labels are numbers: the sign is the class (negative 0, positive 1), and rows
                                      // whose |label| is below the threshold, or 0, are dropped
  std::vector<std::string> label_names{};  // fixed classes in order; empty: those in the training file, sorted; where
                                           // none is a number, a label may be a name's number from 0
  bool written = false;                    // the pair is what is to be written; there are no labels
  std::uint64_t split_seed = 0;            // picks the held-out tenth
  bool scored = false;                     // nothing is trained: a folder may have dev alone
  bool header_of_rows = false;             // `header` is of files with labels: texts alone may stand without one
};

namespace detail {

/// Where a task's texts and label stand; `none` for what is absent.
struct Columns {
  std::size_t text = Table::none, pair = Table::none, label = Table::none;
};

/// A named task: its columns' names in a header, and its columns without one.
struct Form {
  Task task;
  std::string folder;  // in GLUE's archives
  Names text, pair, label;
  std::size_t bare_columns = 0;  // without a header; 0: there always is one
  Columns bare{};
  bool cut_rows = false;  // line breaks cut a few rows of the published file in two
};

inline const std::vector<Form>& forms() {
  static const std::vector<Form> all = {
      {{"cola", 2, {"unacceptable", "acceptable"}, false, {"matthews", "accuracy"}, "matthews"},
       "CoLA",
       {"sentence"},
       {},
       {"label"},
       4,
       {3, Table::none, 1}},
      {{"sst2", 2, {"negative", "positive"}, false, {"accuracy"}, "accuracy"}, "SST-2", {"sentence"}, {}, {"label"}},
      {{"mrpc", 2, {"not_equivalent", "equivalent"}, true, {"accuracy", "f1"}, "f1"},
       "MRPC",
       {"#1 String", "sentence1"},
       {"#2 String", "sentence2"},
       {"Quality", "label"}},
      {{"rte", 2, {"entailment", "not_entailment"}, true, {"accuracy"}, "accuracy"},
       "RTE",
       {"sentence1"},
       {"sentence2"},
       {"label"}},
      {{"stsb", 1, {}, true, {"pearson", "spearman", "pearson_spearman"}, "pearson_spearman"},
       "STS-B",
       {"sentence1"},
       {"sentence2"},
       {"score", "label"},
       7,
       {5, 6, 4}},
      {.task = {"qqp", 2, {"not_duplicate", "duplicate"}, true, {"accuracy", "f1"}, "f1"},
       .folder = "QQP",
       .text = {"question1", "sentence1"},
       .pair = {"question2", "sentence2"},
       .label = {"is_duplicate", "label"},
       .cut_rows = true},
      {{"mnli", 3, {"entailment", "neutral", "contradiction"}, true, {"accuracy"}, "accuracy"},
       "MNLI",
       {"sentence1", "premise"},
       {"sentence2", "hypothesis"},
       {"gold_label", "label"}},
      {{"qnli", 2, {"entailment", "not_entailment"}, true, {"accuracy"}, "accuracy"},
       "QNLI",
       {"question", "sentence1"},
       {"sentence", "sentence2"},
       {"label"}}};
  return all;
}

}  // namespace detail

/// The named tasks of texts with labels: cola, sst2, mrpc, …
inline std::vector<std::string> label_tasks() {
  std::vector<std::string> out;
  for (const auto& form : detail::forms()) out.push_back(form.task.name);
  return out;
}

namespace detail {

/// The named task's form, or nothing for `tsv`. Errors: unknown name, options that do not fit the task. With `inputs`,
/// texts to predict, the header may be told.
inline const Form* form_of(const std::string& name, const LoadOptions& options, bool inputs = false) {
  if (name == "tsv") {
    if (options.regression && options.threshold) fail("task tsv: options regression and threshold exclude each other");
    if (options.threshold && !(*options.threshold >= 0 && std::isfinite(*options.threshold)))
      fail("task tsv: option threshold must be a number of at least 0, found", *options.threshold);
    if (options.text.empty()) fail("task tsv: option text is missing: a column's name or its number from 1");
    return nullptr;
  }
  for (const Form& form : forms()) {
    if (form.task.name != name) continue;
    for (const auto& [value, option] : {std::pair(!options.text.empty(), "text"),
                                        {!options.pair.empty(), "text-pair"},
                                        {!options.label.empty(), "label"},
                                        {options.regression, "regression"},
                                        {options.header != Header::automatic && !inputs, "header"},
                                        {options.threshold.has_value(), "threshold"},
                                        {!options.label_names.empty(), "label-names"}})
      if (value) fail("task " + name + " knows its columns and labels: option " + option + " is for task tsv only");
    return &form;
  }
  std::string known;
  for (const Form& form : forms()) known += (known.empty() ? "" : ", ") + form.task.name;
  fail("unknown task `" + name + "`: expected " + known + " or tsv");
}

/// A column's number from 1, or nothing for a name.
inline std::optional<std::size_t> column_number(const std::string& column) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(column.data(), column.data() + column.size(), value);
  if (error != std::errc() || end != column.data() + column.size() || value == 0) return {};
  return value;
}

/// A table and where its columns are.
struct Source {
  Table table;
  Columns at;
  std::size_t columns = 0;  // rows that have another number are dropped; 0: all are as they should be
};

/// Whether the keys of JSON, or the cells of line 1, have one of the `names`.
inline bool first_line_has(const Table& table, const Names& names) {
  if (table.columned() == Columned::json) return table.find(names) != Table::none;
  for (std::size_t c = 0; c < table.columns(0); ++c)
    if (std::find(names.begin(), names.end(), trimmed(table(0, c))) != names.end()) return true;
  return false;
}

/// A table as it is, its number of columns not yet checked. `inputs`: every line of a file of one column is a row.
inline Table open_any(const Form* form, const std::string& path, const LoadOptions& options, bool inputs = false) {
  const bool cut_rows = form && form->cut_rows;
  return Table::read(
      path,
      {.encoding = options.encoding, .columns = 1, .at_least = true, .blank_rows = cut_rows, .lone_blanks = inputs});
}

/// At most one row of a thousand has another number of columns.
inline bool few_cut_rows(const Table& table, std::size_t columns) {
  std::size_t cut = 0;
  for (std::size_t row = 0; row < table.rows(); ++row) cut += table.columns(row) != columns;
  return cut <= table.rows() / 1000;
}

/// What a table has instead of a column that is missed.
inline std::string columns_of(const Table& table) {
  if (table.header().empty()) return std::to_string(table.columns(0)) + " columns, no header";
  std::string out = (table.columned() == Columned::json ? "the keys " : "the header ") + quoted(table.header(), ", ");
  if (out.find("\\r") != out.npos) out += " (some lines end in CR alone?)";
  return out;
}

inline Source open(const Form& form, Table table, bool labelled) {
  const auto column = [&](const Names& names) {
    const std::size_t found = table.find(names);
    if (found == Table::none)
      fail(table.name() + ":1: no column named " + quoted(names, " or ") + " in " + columns_of(table));
    return found;
  };
  const bool json = table.columned() == Columned::json;
  if (json || first_line_has(table, form.text)) {
    if (!json) table.take_header();
    const std::size_t columns = table.header().size();
    const bool drops = form.cut_rows && labelled && few_cut_rows(table, columns);  // a prediction for each input
    if (!drops) table.expect(columns);
    const Columns at{column(form.text), form.task.pair ? column(form.pair) : Table::none,
                     labelled ? column(form.label) : table.find(form.label)};
    return {std::move(table), at, drops ? columns : 0};
  }
  if (form.bare_columns == 0) table.bad(0, "expected a header with a column " + quoted(form.text, " or "));
  table.expect(form.bare_columns, form.task.name == "stsb");  // sts-*.csv: some rows end in two columns of origin
  return {std::move(table), form.bare, 0};
}

/// A `tsv` table by its options. Without `labelled` a label column that is not there is no error.
inline Source open(const LoadOptions& options, Table table, bool labelled) {
  const Names given = {options.text, options.pair, options.label};
  const bool json = table.columned() == Columned::json;
  const bool header = options.header == Header::automatic
                          ? std::any_of(given.begin(), given.end(),
                                        [](const std::string& c) { return !c.empty() && !column_number(c); })
                          : options.header == Header::present;
  const std::size_t columns = table.columns(0);
  table.expect(columns);
  if (header && !json) table.take_header();
  const auto column = [&](const std::string& wanted, const char* option, bool needed) {
    if (wanted.empty() && !needed) return Table::none;
    if (wanted.empty())
      fail(std::string("task tsv: option ") + option + " is missing: a column's name or its number from 1");
    const std::size_t named = table.find({wanted});
    const auto numbered = json ? std::nullopt : column_number(wanted);
    if (named != Table::none) return named;
    if (numbered && *numbered <= columns) return *numbered - 1;
    if (!needed) return Table::none;
    fail(table.name() + ":1: option " + option + ": no column `" + wanted + "`: found " + columns_of(table));
  };
  const bool pair = !options.pair.empty() && (labelled || !options.written);
  const Columns at{column(options.text, "text", true),
                   column(options.pair, options.written ? "label" : "text-pair", pair),
                   column(options.label, "label", labelled && !options.written)};
  return {std::move(table), at, 0};
}

}  // namespace detail

}  // namespace meft::data
