// Owns: questions with options to choose from: how their files look, and the prompt that each task asks with.
// Prompts are those of the Language Model Evaluation Harness (EleutherAI/lm-evaluation-harness, lm_eval/tasks: arc,
// openbookqa, piqa, sciq). Files are JSON lines (or one JSON array) as their publishers ship them or as Hugging Face
// names their fields. Must not know tokens or scores.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

/// A question. The context is followed by a space and one of the options; `answer` is the right one's number, or -1
/// where it is not told (test files).
struct Choice {
  std::string context;
  std::vector<std::string> options;
  std::int32_t answer = -1;
};

struct ChoiceOptions {
  std::uint64_t split_seed = 0;  // picks the held-out tenth
};

struct ChoiceDataset {
  std::string name;
  std::vector<Choice> train, dev, test;  // test may be empty
  bool held_out = false;                 // train and dev are nine tenths and a tenth of one file
};

namespace detail {

/// A task: how a row is read, its folders in the publishers' archives, its files.
struct ChoiceForm {
  std::string name;
  Choice (*read)(const JsonField& row, bool labelled);
  Names folders, train, dev, test;
};

inline constexpr std::size_t most_options = 26, longest_row = std::size_t{1} << 20;

inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\f\v";
  const std::size_t first = text.find_first_not_of(blanks);
  return first == text.npos ? std::string_view() : text.substr(first, text.find_last_not_of(blanks) + 1 - first);
}

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
  static const std::vector<ChoiceForm> all = [] {
    const Names train = {"train.jsonl", "train.json"},
                dev = {"dev.jsonl", "valid.jsonl", "validation.jsonl", "dev.json", "valid.json", "validation.json"},
                test = {"test.jsonl", "tests.jsonl", "test.json"};
    const auto with = [](Names names, const std::string& more) {
      names.push_back(more);
      return names;
    };
    return std::vector<ChoiceForm>{
        {"openbookqa", openbookqa_of, {"openbookqa", "OpenBookQA-V1-Sep2018/Data/Main", "Data/Main"}, train, dev, test},
        {"piqa", piqa_of, {"piqa", "physicaliqa-train-dev"}, train, dev, test},
        {"arc_easy",
         arc_of,
         {"arc_easy", "ARC-Easy"},
         with(train, "ARC-Easy-Train.jsonl"),
         with(dev, "ARC-Easy-Dev.jsonl"),
         with(test, "ARC-Easy-Test.jsonl")},
        {"arc_challenge",
         arc_of,
         {"arc_challenge", "ARC-Challenge"},
         with(train, "ARC-Challenge-Train.jsonl"),
         with(dev, "ARC-Challenge-Dev.jsonl"),
         with(test, "ARC-Challenge-Test.jsonl")},
        {"sciq", sciq_of, {"sciq", "SciQ dataset-2 3"}, train, dev, test}};
  }();
  return all;
}

/// Runs `take(row)` for each JSON object of a file: one a line, or the elements of one array.
template <class Take>
void for_each_json(const std::string& path, Take&& take) {
  const std::string bytes = decode(read_bytes(path), path, Encoding::utf8);
  const std::string_view text = without_blank_end(bytes);
  if (trimmed(text).empty()) fail(path + ": is empty: expected rows of JSON");
  if (trimmed(text).front() == '[') {
    const auto tree = parse_unique_json(text, path);
    for (std::size_t i = 0; i < tree.size(); ++i)
      take(JsonField(tree[i], path + ": element " + std::to_string(i), "the row"));
    return;
  }
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const std::string place = path + ":" + std::to_string(number);
    if (trimmed(line).empty()) fail(place + ": the line is blank");
    check_line(line, path, number);
    if (line.size() > longest_row)
      fail(place + ": expected a row of at most " + std::to_string(longest_row) + " bytes, found " +
           std::to_string(line.size()));
    const auto tree = parse_unique_json(line, place);
    take(JsonField(tree, place, "the row"));
  });
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
  for_each_json(path, [&](const JsonField& row) { out.push_back(form.read(row, labelled && beside.empty())); });
  if (out.empty()) fail(path + ": is empty: expected rows of JSON");
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

inline ChoiceDataset choices(const std::string& name, const std::string& path, const ChoiceOptions& options) {
  namespace fs = std::filesystem;
  std::string known;
  const ChoiceForm* found = nullptr;
  for (const ChoiceForm& form : choice_forms()) {
    known += (known.empty() ? "" : ", ") + form.name;
    if (form.name == name) found = &form;
  }
  if (!found) fail("unknown task `" + name + "`: expected " + known);
  const ChoiceForm& form = *found;

  std::error_code ignored;
  std::string train = path, dev, test;
  if (fs::is_directory(path, ignored)) {
    std::vector<fs::path> folders = {path};
    for (const std::string& inner : form.folders) folders.push_back(fs::path(path) / inner);
    for (const fs::path& folder : folders) {
      train = first_file(folder, form.train);
      dev = first_file(folder, form.dev);
      test = first_file(folder, form.test);
      if (!train.empty() || !dev.empty()) break;
    }
    if (train.empty()) std::swap(train, dev);
    if (train.empty())
      fail(path + ": no file of task " + name + ": expected " + quoted(form.train, ", ") + " or " +
           quoted(form.dev, ", "));
  }
  ChoiceDataset data{.name = name, .train = read_choices(form, train, true), .dev = {}, .test = {}};
  data.held_out = dev.empty();
  if (data.held_out) hold_out(data.train, data.dev, train, options.split_seed);
  else data.dev = read_choices(form, dev, true);
  if (!test.empty()) data.test = read_choices(form, test, false);
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
/// there is only one labelled file, a tenth of it, fixed by `split_seed`, is dev and the rest is train: `held_out`.
/// train.jsonl, dev.jsonl (valid, validation) and test.jsonl (tests), or .json; ARC's by their own names; PIQA's labels
/// are in the rows or in *-labels.lst. The test file's answers may be missing: -1.
/// Errors name the file, the line (an array's element), the field, what was expected and what was found.
inline ChoiceDataset choices(const std::string& name, const std::string& path, const ChoiceOptions& options = {},
                             Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::choices(name, path, options); });
}

}  // namespace meft::data
