// Owns: plain text as examples of a language model, one a line. Must not know tokens or blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

struct LineOptions {
  Encoding encoding = Encoding::utf8;
  std::uint64_t split_seed = 0;  // picks the held-out tenth
  bool scored = false;           // nothing is trained: a folder may have dev alone
};

/// Lines of text (UTF-8, without their ends). None is blank.
struct LineDataset {
  std::vector<std::string> train, dev, test;  // test may be empty: it is to be scored after training
  bool held_out = false;                      // dev is the held-out tenth of train's file
  SplitFiles files{};
};

namespace detail {

/// Whether a file's texts are the column `text` of a table.
inline bool in_table(const std::string& path) {
  const std::string end = ending(path);
  return end == ".tsv" || end == ".csv" || end == ".jsonl" || end == ".ndjson" || end == ".json";
}

/// A table and its column `text`. Errors: there is none; a row has no text there.
inline std::pair<Table, std::size_t> text_column(const std::string& path, Encoding encoding) {
  Table table = Table::read(path, {.encoding = encoding, .header = true});
  const std::size_t column = table.find({"text"});
  if (column == Table::none) fail(path + ": expected a column `text`, found " + quoted(table.header(), ", "));
  for (std::size_t row = 0; row < table.rows(); ++row)
    if (table.nested(row, column) || table.null(row, column))
      table.bad(row, std::string("expected a text in column `text`, found ") +
                         (table.null(row, column) ? "none" : "an object or array"));
  return {std::move(table), column};
}

/// The lines of a text; of .tsv, .csv, .json and .jsonl those of each row's column `text`.
inline void read_lines(std::vector<std::string>& out, const std::string& path, Encoding encoding) {
  const std::size_t before = out.size();
  const auto take = [&](std::string_view line, std::size_t) {
    if (line.find_first_not_of(" \t\r\f\v") != line.npos) out.emplace_back(line);
  };
  if (in_table(path)) {
    const auto [table, column] = text_column(path, encoding);
    for (std::size_t row = 0; row < table.rows(); ++row) for_each_line(table(row, column), take);
    if (out.size() == before) fail(path + ": has only blank texts");
    return;
  }
  const std::string text = decode(read_file(path), path, encoding);
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    check_line(line, path, number);
    take(line, number);
  });
  if (out.size() == before)
    fail(path + (text.empty() ? ": is empty" : ": has only blank lines") + ": expected lines of text");
}

inline std::vector<std::string> read_lines(const Names& paths, Encoding encoding) {
  std::vector<std::string> out;
  for (const std::string& path : paths) read_lines(out, path, encoding);
  return out;
}

inline LineDataset lines(const std::string& path, const LineOptions& options) {
  static const Names endings = {".txt", ".text", ".raw", ".tokens", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"};
  LineDataset data;
  Names train = {path}, dev;
  if (is_folder(path)) {
    const Splits splits =
        find_splits({path, (std::filesystem::path(path) / "data").string()}, endings, {}, options.scored);
    if (splits.lacks_training(options.scored)) no_training(splits, "text", "`train.txt`");
    train = splits.files(Part::train);
    dev = splits.files(Part::dev);
    data.test = read_lines(splits.files(Part::test), options.encoding);
    data.files = splits.told();
  } else {
    data.files.train = {std::filesystem::path(path).filename().string()};
  }
  data.train = read_lines(train, options.encoding);
  data.dev = read_lines(dev, options.encoding);
  if (data.held_out = dev.empty(); data.held_out) hold_out(data.train, data.dev, train[0], options.split_seed);
  return data;
}

}  // namespace detail

/// Reads plain text: one file, or a folder with train.txt and, if there are, dev.txt (valid, validation, val, eval) and
/// test.txt, by the rules of `load`; also wiki.train.raw and the like, and .tsv, .csv, .jsonl or .json with a column
/// `text`. Of a text without dev a tenth of the lines, fixed by `split_seed`, becomes dev. Lines end in LF, CR LF or
/// CR; blank ones are left out. Errors name the file and line: a file that is empty or blank, a NUL byte, broken UTF-8.
inline LineDataset lines(const std::string& path, const LineOptions& options = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::lines(path, options); });
}

/// Every line of a file, blank ones too, in file order: what is asked about, one answer a line; of .tsv, .csv,
/// .jsonl and .json the column `text`, one a row. Errors as in `lines`.
inline std::vector<std::string> input_lines(const std::string& path, Encoding encoding = Encoding::utf8,
                                            Where where = Where::current()) {
  return detail::called_from(where, [&] {
    std::vector<std::string> out;
    if (detail::in_table(path)) {
      const auto [table, column] = detail::text_column(path, encoding);
      for (std::size_t row = 0; row < table.rows(); ++row) out.emplace_back(table(row, column));
      return out;
    }
    const std::string text = detail::decode(read_file(path), path, encoding);
    detail::for_each_line(text, [&](std::string_view line, std::size_t number) {
      detail::check_line(line, path, number);
      out.emplace_back(line);
    });
    if (out.empty()) fail(path + ": is empty: expected lines of text");
    return out;
  });
}

}  // namespace meft::data
