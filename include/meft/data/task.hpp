// Owns: the reading of a task's examples from files: splits, the held-out tenth, texts to predict.
// Task and LoadOptions are form.hpp's, labels labels.hpp's. Must not know tokenizers or models.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/batches.hpp>
#include <meft/data/form.hpp>
#include <meft/data/labels.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// One text or pair of texts (UTF-8). `label` is a class number, a value (regression), or NaN where there is none.
struct Example {
  std::string text{}, pair{};
  float label = std::numeric_limits<float>::quiet_NaN();
  Place place{};
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
  bool test_labelled = false;                  // every row of test has a label: it is to be scored after training
  std::size_t test_unlabelled = 0;             // rows of test without one
  std::size_t dropped = 0;                     // rows below the threshold, or (qqp) cut in two by a line break
  std::vector<LeftOut> left_out{};             // rows of train and dev without a label, or a text to be written
  std::vector<Split> more_dev{}, more_test{};  // mnli: `mismatched`, where dev and test are the matched ones
  SplitFiles files{};
};

/// How many examples each of `labels` classes has.
inline std::vector<std::size_t> class_counts(const std::vector<Example>& examples, int labels) {
  std::vector<std::size_t> out(static_cast<std::size_t>(std::max(labels, 0)));
  for (const Example& example : examples)
    if (example.label >= 0 && example.label < static_cast<float>(labels))
      ++out[static_cast<std::size_t>(example.label)];
  return out;
}

namespace detail {

/// Whether a test file's labels are not told, as the Hub has it: -1 in each row that says something.
inline bool all_minus_one(const Source& source) {
  std::size_t found = 0;
  for (std::size_t row = 0; row < source.table.rows(); ++row) {
    const std::string_view cell = label_cell(source, row);
    if (!says_none(cell) && !is_minus_one(cell)) return false;
    found += !says_none(cell);
  }
  return found > 0;
}

/// Appends the rows of a table as examples; counts those below the threshold and those cut. Where the labels are told,
/// rows that have none are left out and counted too; `hidden_labels`: they stay, with NaN, or nothing to be written.
inline void append(std::vector<Example>& out, const Source& source, const Task& task, const LoadOptions& options,
                   bool hidden_labels, Dataset& counts) {
  const Table& table = source.table;
  if (table.rows() == 0) fail(table.name() + ": has a header but no rows");
  LeftOut left{table.name(), options.written ? "text to be written" : "label"};
  // -1 is a value, or a class's name, of a tsv file; never of a named task, whose scores and classes begin at 0.
  const bool untold = hidden_labels && source.at.label != Table::none && (task.name != "tsv" || all_minus_one(source));
  const auto text_of = [&](std::size_t row, std::size_t column) {
    if (table.null(row, column) || table.nested(row, column))
      table.bad(row, "expected a text in column " + excerpt(table.header().at(column)) +
                         (table.null(row, column) ? ", found none" : ", found an object or array"));
    return std::string(table(row, column));
  };
  for (std::size_t row = 0; row < table.rows(); ++row) {
    if (source.columns != 0 && table.columns(row) != source.columns) {
      ++counts.dropped;
      continue;
    }
    Example example{.text = text_of(row, source.at.text), .place = table.place(row)};
    if (source.at.pair != Table::none && (!options.written || !table.null(row, source.at.pair)))
      example.pair = text_of(row, source.at.pair);
    if (options.written && source.at.pair != Table::none && trimmed(example.pair).empty()) {
      example.pair.clear();
      if (!hidden_labels) {
        left.rows.push_back(table.place(row));
        continue;
      }
    }
    const std::string_view cell = source.at.label == Table::none ? "" : label_cell(source, row);
    if (source.at.label != Table::none && !(hidden_labels && (says_none(cell) || (untold && is_minus_one(cell))))) {
      const auto label = label_of(source, row, task, options);
      if (!label) {
        ++counts.dropped;
        continue;
      }
      if (std::isnan(*label) && !hidden_labels) {
        left.rows.push_back(table.place(row));
        if (left.cell.empty()) left.cell = trimmed(cell);
        continue;
      }
      example.label = *label;
    }
    out.push_back(std::move(example));
  }
  if (!left.rows.empty()) counts.left_out.push_back(std::move(left));
}

/// msr_paraphrase_train.txt holds GLUE's train and dev rows; dev_ids.tsv lists the pairs of dev.
inline void split_by_ids(Dataset& data, const Source& source, const std::string& ids_path) {
  const Table ids = Table::read(ids_path, {.columns = 2});
  std::set<std::pair<std::string_view, std::string_view>> wanted;
  for (std::size_t row = 0; row < ids.rows(); ++row) wanted.emplace(ids(row, 0), ids(row, 1));
  const std::size_t first = source.table.find({"#1 ID"}), second = source.table.find({"#2 ID"});
  if (first == Table::none || second == Table::none) fail(source.table.name() + ":1: no columns `#1 ID` and `#2 ID`");
  std::vector<Example> rest;
  std::set<std::size_t> lines;
  for (std::size_t row = 0; row < source.table.rows(); ++row)
    if (wanted.contains({source.table(row, first), source.table(row, second)}))
      lines.insert(source.table.place(row).number);
  for (Example& example : data.train)
    (lines.contains(example.place.number) ? data.dev : rest).push_back(std::move(example));
  data.train = std::move(rest);
  if (data.dev.size() != wanted.size())
    fail(ids_path + ": lists " + std::to_string(wanted.size()) + " pairs, " + source.table.name() + " has " +
         std::to_string(data.dev.size()) + " of them");
}

inline Task tsv_task(const LoadOptions& options, const std::vector<Source>& train) {
  Task task{.name = "tsv",
            .labels = 1,
            .pair = !options.pair.empty(),
            .metrics = {"pearson", "spearman", "pearson_spearman"},
            .main_metric = "pearson_spearman"};
  if (options.regression) return task;
  if (options.written) {
    task.labels = 0;
    task.metrics = {"log_likelihood", "perplexity", "exact_match"};
    task.main_metric = "log_likelihood";
    return task;
  }
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

/// Files with rows and columns.
inline const Names& table_endings() {
  static const Names all = {".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".txt"};
  return all;
}

/// The files of a task's splits: of `path`, its folder data, or the folders that GLUE's archives have. mnli's
/// mismatched splits are put last in `more`, and cola's out-of-domain dev file behind the other.
struct TaskFiles {
  Names train, dev, test, more_dev, more_test;
  std::string ids{};  // mrpc: dev_ids.tsv
  SplitFiles told{};
};

inline TaskFiles task_files(const Form* form, const std::string& name, const std::string& path, bool scored) {
  namespace fs = std::filesystem;
  if (!is_folder(path)) return {{path}, {}, {}, {}, {}, {}, {{fs::path(path).filename().string()}, {}, {}, {}}};
  Names folders = {path};
  if (form)
    for (const std::string& inner : {form->task.name, form->folder})
      folders.push_back((fs::path(path) / inner).string());
  folders.push_back((fs::path(path) / "data").string());
  const bool mrpc = form && form->task.name == "mrpc";
  Splits splits = find_splits(folders, table_endings(), mrpc ? Names{"dev_ids.tsv"} : Names{}, scored);
  const std::size_t txt = table_endings().size() - 1;  // rows only beside train.txt, else notes
  if (const auto& train = splits.of(Part::train); !train.empty() && train[0].kind != txt)
    splits.leave_out([&](const Found& found) { return found.kind == txt; });
  if (splits.lacks_training(scored)) no_training(splits, "file of task " + name, "`train.tsv`, .csv, .jsonl or .json");
  TaskFiles out{
      splits.files(Part::train), splits.files(Part::dev), splits.files(Part::test), {}, {}, {}, splits.told()};
  const auto use = [&](Part part, const char* first, const char* further, Names& files, Names& told) {
    const auto& found = splits.of(part);
    for (std::size_t i = 1; i < found.size(); ++i)
      if (lower(found[0].stem).find(first) != std::string::npos && found[i].kind == found[0].kind &&
          lower(found[i].stem).find(further) != std::string::npos && files.empty()) {
        files = found[i].files;
        for (const std::string& used : found[i].names) {
          std::erase(out.told.unused, used);
          told.push_back(used);
        }
      }
  };
  use(Part::dev, "_matched", "_mismatched", out.more_dev, out.told.dev);
  use(Part::test, "_matched", "_mismatched", out.more_test, out.told.test);
  Names other;
  use(Part::dev, "in_domain_dev", "out_of_domain_dev", other, out.told.dev);
  out.dev.insert(out.dev.end(), other.begin(), other.end());
  if (std::error_code ignored; mrpc && fs::exists(fs::path(splits.folder) / "dev_ids.tsv", ignored)) {
    const bool msr = out.dev.empty() && fs::path(out.train[0]).filename() == "msr_paraphrase_train.txt";
    (msr ? out.told.dev : out.told.unused).push_back("dev_ids.tsv");
    if (msr) out.ids = (fs::path(splits.folder) / "dev_ids.tsv").string();
  }
  return out;
}

/// Whether the first line, where no column is named as the run's, might be names all the same: a few words without the
/// marks of a sentence, which no later line repeats.
inline bool may_be_header(const Table& table) {
  if (table.rows() < 2) return false;
  for (std::size_t c = 0; c < table.columns(0); ++c) {
    const std::string_view cell = trimmed(table(0, c));
    constexpr std::string_view marks = ".,;:!?\"'";
    if (cell.empty() || cell.size() > 60 || marks.find(cell.back()) != marks.npos) return false;
    if (std::count(cell.begin(), cell.end(), ' ') > 2) return false;
    for (std::size_t row = 1; row < table.rows(); ++row)
      if (c < table.columns(row) && trimmed(table(row, c)) == cell) return false;
  }
  return true;
}

/// Throws where texts to be written may stand under a header that the options do not tell of: it would be learned.
inline void ask_header(const Source& source, const LoadOptions& options) {
  const bool unsaid = options.header == Header::automatic && source.table.header().empty();
  if (options.written && unsaid && may_be_header(source.table))
    source.table.bad(0,
                     "is this line a text or the names of the columns? Say with option header (yes or no) whether "
                     "line 1 is a header");
}

inline Dataset load(const std::string& name, const std::string& path, const LoadOptions& given) {
  const Form* form = form_of(name, given);
  LoadOptions options = given;
  TaskFiles files = task_files(form, name, path, options.scored);
  Dataset data;
  data.files = std::move(files.told);
  const auto open_file = [&](const std::string& file, bool labelled) {
    Table table = open_any(form, file, options);
    return form ? open(*form, std::move(table), labelled) : open(options, std::move(table), labelled);
  };
  const auto add = [&](std::vector<Example>& out, const Names& from, bool labelled) {
    for (const std::string& file : from) append(out, open_file(file, labelled), data.task, options, !labelled, data);
  };
  const auto need_rows = [&](const std::vector<Example>& rows, const std::string& file) {
    if (!rows.empty()) return;
    if (data.dropped > 0) fail(file + ": no row reaches the threshold; rows dropped", data.dropped);
    fail(file + ": no row has a label");
  };

  const bool lone = files.train.empty();  // dev alone, to be scored
  const Names& first = lone ? files.dev : files.train;
  std::vector<Source> sources;
  for (const std::string& file : first) ask_header(sources.emplace_back(open_file(file, true)), options);
  if (!form && !options.regression && !options.threshold && !options.written && options.label_names.empty())
    options.label_names = fitting_names(sources, std::filesystem::path(first[0]).parent_path().string(), options.label);
  data.task = form ? form->task : tsv_task(options, sources);
  auto& rows = lone ? data.dev : data.train;
  for (const Source& source : sources) append(rows, source, data.task, options, false, data);
  need_rows(rows, first[0]);

  if (!files.ids.empty()) split_by_ids(data, sources[0], files.ids);
  else if (data.held_out = files.dev.empty(); data.held_out)
    hold_out(data.train, data.dev, files.train[0], options.split_seed);
  else if (!lone) add(data.dev, files.dev, true);
  need_rows(data.dev, files.dev.empty() ? first[0] : files.dev[0]);
  add(data.test, files.test, false);
  for (const Example& e : data.test) data.test_unlabelled += options.written ? e.pair.empty() : std::isnan(e.label);
  data.test_labelled = !data.test.empty() && data.test_unlabelled == 0;
  if (!files.more_dev.empty()) add(data.more_dev.emplace_back(Split{"mismatched", {}}).examples, files.more_dev, true);
  if (!files.more_test.empty())
    add(data.more_test.emplace_back(Split{"mismatched", {}}).examples, files.more_test, false);
  return data;
}

inline std::vector<Example> load_inputs(const std::string& name, const std::string& path, const LoadOptions& options) {
  const Form* form = form_of(name, options, true);
  Table table = open_any(form, path, options, true);
  const bool pair = form ? form->task.pair : !options.pair.empty() && !options.written;
  const std::size_t texts = pair ? 2 : 1;
  Source source{std::move(table), {0, pair ? 1 : Table::none, Table::none}, 0};
  const Names title = form ? form->text : column_number(options.text) ? Names{} : Names{options.text};
  const bool lone = source.table.columned() != Columned::json && source.table.columns(0) == texts;
  if (lone && !first_line_has(source.table, title)) {
    source.table.expect(texts);
    const auto titled = [&](const std::string& t) { return lower(t) == lower(trimmed(source.table(0, 0))); };
    const bool other_case = std::any_of(title.begin(), title.end(), titled);
    const bool elsewhere = options.header_of_rows && options.header == Header::present;
    const Header header = elsewhere ? Header::automatic : options.header;
    if (header == Header::automatic && !other_case && (elsewhere || !title.empty()) && may_be_header(source.table))
      source.table.bad(0, "is this line a text or the name of a column? The run's column is " +
                              (title.empty() ? options.text : quoted(title, " or ")) +
                              ": say with option header (yes or no) whether line 1 is a header");
    if (header == Header::present || (header == Header::automatic && other_case)) source.table.take_header();
  } else if (lone && options.header == Header::absent) {
    source.table.expect(texts);
  } else if (form) {
    source = open(*form, std::move(source.table), false);
  } else {
    source = open(options, std::move(source.table), false);
  }
  source.at.label = Table::none;
  if (options.written) source.at.pair = Table::none;  // what the file has of it is not read
  std::vector<Example> out;
  Dataset counts;
  append(out, source, Task{}, options, false, counts);
  return out;
}

}  // namespace detail

/// Reads a task's data. `path` is a folder, or one file, of which a tenth, fixed by `split_seed`, becomes dev. In a
/// folder (or in its folder data, or the ones that GLUE's archives unpack to) the splits are told by their names, as
/// files or folders: train; dev, valid, validation, val or eval; test; with other words around them, in parts
/// (train-00000-of-00002.jsonl), as .tsv, .csv, .jsonl or .json. Without a dev split a tenth of train is held out:
/// test is never one to choose by, but scored at the end where its labels are told. For mrpc
/// msr_paraphrase_train.txt is split by dev_ids.tsv if there is one; cola's dev is in_domain_dev.tsv followed by
/// out_of_domain_dev.tsv; dev_matched's partner dev_mismatched goes to more_dev. One in a thousand rows of qqp's train
/// and dev may have another number of columns than the header and is dropped: line breaks cut a few of GLUE's rows.
/// Classes are labels without the white space around them. A label that says none (empty, `-`, NaN, and -1 among
/// classes numbered from 0) leaves its row out of train and dev: left_out; so does an empty text to be written. Test
/// labels may be missing, or -1 where that is neither a class nor a value, or in each row: NaN.
/// Numbers get the names that dataset_info.json or README.md beside the files give them.
/// Errors name the file, and for a bad row its line and beginning.
inline Dataset load(const std::string& name, const std::string& path, const LoadOptions& options = {},
                    Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load(name, path, options); });
}

/// Reads texts to predict, one example a row, in file order, all labels NaN. The file has the task's columns, with or
/// without the label, or only the text column (for pairs: the two), where a blank line is an empty text. Such a file's
/// line 1 is a header if it names the run's column or `header` is present; where it may be one by another name, an
/// error asks for `header`. Errors as in `load`.
inline std::vector<Example> load_inputs(const std::string& name, const std::string& path,
                                        const LoadOptions& options = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::load_inputs(name, path, options); });
}

}  // namespace meft::data
