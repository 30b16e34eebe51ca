// Owns: questions with options to choose from: how their files look, and the prompt that each task asks with.
// Prompts are those of the Language Model Evaluation Harness (EleutherAI/lm-evaluation-harness, lm_eval/tasks: arc,
// openbookqa, piqa, sciq). Files are JSON lines (or one JSON array) as their publishers ship them or as Hugging Face
// names their fields. Must not know tokens or scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/data/json_rows.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// A question. The context is followed by a space and one of the options; `answer` is the right one's number, or -1
/// where it is not told (test files).
struct Choice {
  std::string context;
  std::vector<std::string> options;
  std::int32_t answer = -1;
  std::string id{};  // the row's, where it has one
  Place place{};
};

struct ChoiceOptions {
  std::uint64_t split_seed = 0;  // picks the held-out tenth
};

struct ChoiceDataset {
  std::string name;
  std::vector<Choice> train, dev, test;  // test may be empty
  bool held_out = false;                 // train and dev are nine tenths and a tenth of one file
  bool test_labelled = false;            // every row of test has an answer: it is to be scored after training
  std::size_t test_unlabelled = 0;       // rows of test without one
  SplitFiles files{};
};

/// How many questions have the answer at each place: in rows of four options a quarter each is chance.
inline std::vector<std::size_t> class_counts(const std::vector<Choice>& questions) {
  std::vector<std::size_t> out;
  for (const Choice& question : questions) {
    if (question.answer < 0) continue;
    const auto place = static_cast<std::size_t>(question.answer);
    if (place >= out.size()) out.resize(place + 1);
    ++out[place];
  }
  return out;
}

namespace detail {

/// A task: how a row is read, its folders in the publishers' archives.
struct ChoiceForm {
  std::string name;
  Choice (*read)(const JsonField& row, bool labelled);
  Names folders;
};

inline constexpr std::size_t most_options = 26;

inline std::string option_of(const JsonField& field) {
  if (trimmed(field.string()).empty()) field.wrong("a text that is not blank");
  return field.string();
}

/// The option that an answer key names: by its label, or else by its place (A or 1: the first).
inline std::int32_t answer_of(const JsonField& field, const Names& labels, std::size_t options) {
  const std::string_view key = trimmed(field.string());
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (labels[i] == key) return static_cast<std::int32_t>(i);
  if (key.size() == 1) {
    const char c = key[0];
    const int place = c >= 'A' && c <= 'Z' ? c - 'A' : c >= '1' && c <= '9' ? c - '1' : -1;
    if (place >= 0 && static_cast<std::size_t>(place) < options) return place;
  }
  field.wrong(labels.empty() ? "the letter or number of one of " + std::to_string(options) + " options"
                             : "one of the labels " + quoted(labels, ", "));
}

/// A number of an option from `answer` or `label`, or -1 in a row without labels.
inline std::int32_t number_of(const JsonField& row, const char* key, std::size_t options, bool labelled) {
  const auto field = row.find(key);
  if (!field && !labelled) return -1;
  const auto most = static_cast<std::int64_t>(options) - 1;
  return static_cast<std::int32_t>((field ? *field : row.at(key)).integer(labelled ? 0 : -1, most));
}

/// A row of OpenBookQA or ARC in one of three forms: question.stem with question.choices[].text and .label (AI2);
/// question or question_stem with choices.text[] and choices.label[] (Hugging Face); question with choices[] of texts.
/// The answer is answerKey, a label, or answer, a number from 0.
inline Choice question_of(const JsonField& row, bool labelled, const char* before, const char* after) {
  const auto stem = row.find("question_stem");
  const JsonField question = stem ? *stem : row.at("question");
  const bool nested = question.value().is_object();
  Choice out;
  out.context = before + (nested ? question.at("stem") : question).string() + after;

  const JsonField choices = (nested ? question : row).at("choices");
  Names labels;
  const bool columns = choices.value().is_object();
  const JsonField texts = columns ? choices.at("text") : choices;
  const std::size_t count = texts.array().size();
  if (count < 2 || count > most_options) texts.wrong("2 to " + std::to_string(most_options) + " options");
  if (columns && choices.at("label").array().size() != count)
    choices.at("label").wrong("as many labels as options, " + std::to_string(count));
  for (std::size_t i = 0; i < count; ++i) {
    const JsonField one = texts.at(i);
    const bool labelled_option = one.value().is_object();
    out.options.push_back(option_of(labelled_option ? one.at("text") : one));
    if (!columns && !labelled_option) continue;
    const JsonField label = columns ? choices.at("label").at(i) : one.at("label");
    if (std::find(labels.begin(), labels.end(), label.string()) != labels.end()) label.wrong("another label");
    labels.push_back(label.string());
  }
  if (const auto key = row.find("answerKey"); key && (labelled || !trimmed(key->string()).empty()))
    out.answer = answer_of(*key, labels, count);
  else if (row.find("answer")) out.answer = number_of(row, "answer", count, labelled);
  else if (labelled) row.at("answerKey").wrong("a label");
  return out;
}

inline Choice openbookqa_of(const JsonField& row, bool labelled) { return question_of(row, labelled, "", ""); }

inline Choice arc_of(const JsonField& row, bool labelled) {
  return question_of(row, labelled, "Question: ", "\nAnswer:");
}

inline Choice piqa_of(const JsonField& row, bool labelled) {
  Choice out{.context = "Question: " + row.at("goal").string() + "\nAnswer:", .options = {}};
  for (const char* key : {"sol1", "sol2"}) out.options.push_back(option_of(row.at(key)));
  out.answer = number_of(row, "label", 2, labelled);
  return out;
}

/// The right option is the last one, as in the Harness.
inline Choice sciq_of(const JsonField& row, bool) {
  const std::string& support = row.at("support").string();
  const std::size_t start = std::min(support.find_first_not_of(" \t\r\n\f\v"), support.size());
  Choice out{.context = support.substr(start) + "\nQuestion: " + row.at("question").string() + "\nAnswer:",
             .options = {},
             .answer = 3};
  for (const char* key : {"distractor1", "distractor2", "distractor3", "correct_answer"})
    out.options.push_back(option_of(row.at(key)));
  return out;
}

inline const std::vector<ChoiceForm>& choice_forms() {
  static const std::vector<ChoiceForm> all = {
      {"openbookqa", openbookqa_of, {"openbookqa", "OpenBookQA-V1-Sep2018/Data/Main", "Data/Main"}},
      {"piqa", piqa_of, {"piqa", "physicaliqa-train-dev"}},
      {"arc_easy", arc_of, {"arc_easy", "ARC-Easy"}},
      {"arc_challenge", arc_of, {"arc_challenge", "ARC-Challenge"}},
      {"sciq", sciq_of, {"sciq", "SciQ dataset-2 3"}}};
  return all;
}

/// PIQA's labels stand in a file beside the rows: valid.jsonl, valid-labels.lst.
inline std::string labels_beside(const std::string& path) {
  std::filesystem::path file = path;
  file.replace_filename(file.stem().string() + "-labels.lst");
  return is_there(file.string()) ? file.string() : "";
}

inline std::vector<Choice> read_choices(const ChoiceForm& form, const std::string& path, bool labelled) {
  const std::string beside = form.name == "piqa" ? labels_beside(path) : "";
  std::vector<Choice> out;
  const auto file = std::make_shared<const std::string>(path);
  for_each_json(decode(read_file(path), path, Encoding::utf8), path, [&](const JsonField& row, const JsonPlace& at) {
    out.push_back(form.read(row, labelled && beside.empty()));
    out.back().place = {file, at.number, at.line.empty()};
    if (const auto id = row.find("id")) out.back().id = id->value().is_string() ? id->string() : id->value().dump();
  });
  if (beside.empty()) return out;
  const Table labels = Table::read(beside, {.columns = 1});
  if (labels.rows() != out.size())
    fail(beside + ": has " + std::to_string(labels.rows()) + " labels, " + path + " has " + std::to_string(out.size()) +
         " rows");
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto label = trimmed(labels(i, 0));
    if (label != "0" && label != "1") labels.bad(i, "expected label 0 or 1");
    const std::int32_t answer = label == "1";
    if (out[i].answer >= 0 && out[i].answer != answer) labels.bad(i, "the row itself has another label");
    out[i].answer = answer;
  }
  return out;
}

inline const ChoiceForm& choice_form(const std::string& name) {
  std::string known;
  for (const ChoiceForm& form : choice_forms()) {
    if (form.name == name) return form;
    known += (known.empty() ? "" : ", ") + form.name;
  }
  fail("unknown task `" + name + "`: expected " + known);
}

inline ChoiceDataset choices(const std::string& name, const std::string& path, const ChoiceOptions& options) {
  namespace fs = std::filesystem;
  const ChoiceForm& form = choice_form(name);
  ChoiceDataset data{.name = name, .train = {}, .dev = {}, .test = {}};
  const auto read = [&](std::vector<Choice>& out, const Names& files, bool labelled) {
    for (const std::string& file : files) {
      auto rows = read_choices(form, file, labelled);
      std::move(rows.begin(), rows.end(), std::back_inserter(out));
    }
  };
  Names train = {path}, dev;
  if (is_folder(path)) {
    Names folders = {path};
    for (const std::string& inner : form.folders) folders.push_back((fs::path(path) / inner).string());
    folders.push_back((fs::path(path) / "data").string());
    const Splits splits = find_splits(folders, {".jsonl", ".ndjson", ".json"}, {}, true);
    train = splits.files(Part::train);
    dev = splits.files(Part::dev);
    data.files = splits.told();
    if (train.empty()) std::swap(train, dev), std::swap(data.files.train, data.files.dev);
    if (train.empty()) no_training(splits, "file of task " + name, "`train.jsonl` or .json");
    read(data.test, splits.files(Part::test), false);
    for (const std::string& file : train)
      if (const std::string labels = form.name == "piqa" ? labels_beside(file) : ""; !labels.empty())
        std::erase(data.files.unused, fs::path(labels).filename().string());
    for (const std::string& file : dev)
      if (const std::string labels = form.name == "piqa" ? labels_beside(file) : ""; !labels.empty())
        std::erase(data.files.unused, fs::path(labels).filename().string());
  } else {
    data.files.train = {fs::path(path).filename().string()};
  }
  read(data.train, train, true);
  read(data.dev, dev, true);
  if (data.held_out = dev.empty(); data.held_out) hold_out(data.train, data.dev, train[0], options.split_seed);
  for (const Choice& question : data.test) data.test_unlabelled += question.answer < 0;
  data.test_labelled = !data.test.empty() && data.test_unlabelled == 0;
  return data;
}

}  // namespace detail

/// The tasks that `choices` reads: openbookqa, piqa, arc_easy, arc_challenge, sciq.
inline std::vector<std::string> choice_tasks() {
  std::vector<std::string> out;
  for (const auto& form : detail::choice_forms()) out.push_back(form.name);
  return out;
}

/// Reads a task's questions. `path` is a folder with the task's files (or the folder above it), or one file. Where
/// there is no dev split, or no train split, a tenth of the other, fixed by `split_seed`, is dev and the rest is train:
/// `held_out`. Splits are told by their names as in `load`: train.jsonl, dev.jsonl (valid, validation), test.jsonl, or
/// .json; PIQA's labels are in the rows or in *-labels.lst. The test file's answers may be missing: -1.
/// Errors name the file, the line (an array's element), the field, what was expected and what was found.
inline ChoiceDataset choices(const std::string& name, const std::string& path, const ChoiceOptions& options = {},
                             Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::choices(name, path, options); });
}

/// Reads questions to answer, in file order; answers may be missing. Errors as in `choices`.
inline std::vector<Choice> choice_inputs(const std::string& name, const std::string& path,
                                         Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::read_choices(detail::choice_form(name), path, false); });
}

}  // namespace meft::data
