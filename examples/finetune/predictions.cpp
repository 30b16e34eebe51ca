#include "predictions.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string_view>

#include <meft/io/file.hpp>

#include "folder.hpp"
#include "report.hpp"
#include "terminal.hpp"

namespace finetune {

using namespace meft;

namespace {

/// Rows of cells. Tabs, line ends and backslashes within a cell become \t, \n, \r and \\.
class Table {
 public:
  void cell(std::string_view text) {
    if (!begins_) out_ += '\t';
    begins_ = false;
    for (const char c : text) {
      if (c == '\t') out_ += "\\t";
      else if (c == '\n') out_ += "\\n";
      else if (c == '\r') out_ += "\\r";
      else if (c == '\\') out_ += "\\\\";
      else out_ += c;
    }
  }
  void number(const char* form, double value) {
    char text[40];
    std::snprintf(text, sizeof text, form, value);
    cell(text);
  }
  void end_row() {
    out_ += '\n';
    begins_ = true;
  }
  const std::string& text() const { return out_; }

 private:
  std::string out_;
  bool begins_ = true;
};

}  // namespace

void check_predictions(const Flags& flags) {
  namespace fs = std::filesystem;
  const std::string path = flags.predictions_path();
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) throw FlagError("--predictions", "a file", "the folder " + path);
  if (const auto there = fs::status(path, ignored); fs::exists(there) && !fs::is_regular_file(there))
    throw FlagError("--predictions", "a regular file", path);
  auto others = files_of(flags);
  others.push_back(flags.predict);
  for (const auto& other : others)
    if (fs::equivalent(path, other, ignored))
      throw FlagError("--predictions", "another file than what is read, and than the run's own", path);
  if (!flags.overwrite && fs::exists(fs::symlink_status(path, ignored)))
    throw FlagError("--predictions", "a file that is not there yet, or --overwrite", path);
  const auto folder = fs::path(path).parent_path();
  if (!folder.empty() && !fs::is_directory(folder, ignored))
    throw FlagError("--predictions", "a file in a folder that is there", path);
}

bool write_predictions(const Flags& flags, const std::string& table, std::size_t rows) {
  const std::string path = flags.predictions_path();
  io::write_atomically(path, table);
  say(grouped(static_cast<std::int64_t>(rows)) + " predictions in " + path);
  return true;
}

namespace {

/// `input(table, i)` adds the cells of input i, whose columns are `named`.
template <class Input>
std::string classified(const task::Predictions& predictions, const std::vector<std::string>& labels,
                       const std::vector<std::string>& named, const Input& input) {
  Table table;
  table.cell(predictions.labels == 1 ? "value" : "label");
  for (const auto& name : labels) table.cell("p(" + name + ")");
  for (const auto& name : named) table.cell(name);
  table.end_row();
  const auto values = predictions.values();
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    if (predictions.labels == 1) {
      table.number("%.9g", static_cast<double>(values[i]));
    } else {
      table.cell(labels.at(static_cast<std::size_t>(values[i])));
      for (const double p : predictions.probabilities(i)) table.number("%.6f", p);
    }
    input(table, i);
    table.end_row();
  }
  return table.text();
}

}  // namespace

std::string table_of(const task::Predictions& predictions, const std::vector<std::string>& labels,
                     const std::vector<data::Example>& inputs, bool pair) {
  const std::vector<std::string> named =
      pair ? std::vector<std::string>{"text", "text_pair"} : std::vector<std::string>{"text"};
  return classified(predictions, labels, named, [&](Table& table, std::size_t i) {
    table.cell(inputs.at(i).text);
    if (pair) table.cell(inputs.at(i).pair);
  });
}
std::string table_of(const task::Predictions& predictions, const std::vector<std::string>& labels,
                     const std::vector<std::string>& images) {
  return classified(predictions, labels, {"image"}, [&](Table& table, std::size_t i) { table.cell(images.at(i)); });
}

std::string table_of(const std::vector<double>& scores, const std::vector<data::Choice>& questions) {
  std::size_t most = 0;
  for (const auto& q : questions) most = std::max(most, q.options.size());
  const bool ids = std::any_of(questions.begin(), questions.end(), [](const auto& q) { return !q.id.empty(); });
  Table table;
  table.cell("answer");
  table.cell("option");
  for (std::size_t i = 0; i < most; ++i) table.cell("score(" + std::to_string(i) + ")");
  if (ids) table.cell("id");
  table.cell("question");
  table.end_row();
  auto row = scores.begin();
  for (const auto& q : questions) {
    const auto end = row + static_cast<std::ptrdiff_t>(q.options.size());
    const auto best = static_cast<std::size_t>(std::max_element(row, end) - row);
    table.cell(std::to_string(best));
    table.cell(q.options[best]);
    for (; row != end; ++row) table.number("%.9g", *row);
    for (std::size_t i = q.options.size(); i < most; ++i) table.cell("");
    if (ids) table.cell(q.id);
    table.cell(q.context);
    table.end_row();
  }
  return table.text();
}

std::string table_of(const std::vector<std::string>& written, const std::vector<data::Example>& inputs) {
  Table table;
  table.cell("written");
  table.cell("text");
  table.end_row();
  for (std::size_t i = 0; i < written.size(); ++i) {
    table.cell(written[i]);
    table.cell(inputs.at(i).text);
    table.end_row();
  }
  return table.text();
}

std::string table_of(const std::vector<task::LineLikelihood>& found, const std::vector<std::string>& lines) {
  Table table;
  for (const char* name : {"log_likelihood", "tokens", "perplexity", "text"}) table.cell(name);
  table.end_row();
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto count = static_cast<double>(found[i].tokens);
    table.number("%.9g", found[i].log_likelihood);
    table.cell(std::to_string(found[i].tokens));
    table.number("%.9g", found[i].tokens == 0 ? std::numeric_limits<double>::quiet_NaN()
                                              : std::exp(-found[i].log_likelihood / count));
    table.cell(lines.at(i));
    table.end_row();
  }
  return table.text();
}

}  // namespace finetune
