// Owns: plain text as examples of a language model, one a line. Must not know tokens or blocks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/data/split.hpp>
#include <meft/data/table.hpp>

namespace meft::data {

struct LineOptions {
  Encoding encoding = Encoding::utf8;
  std::uint64_t split_seed = 0;  // picks the held-out tenth
};

/// Lines of text (UTF-8, without their ends). None is blank.
struct LineDataset {
  std::vector<std::string> train, dev;
  bool held_out = false;  // dev is the held-out tenth of train's file
};

namespace detail {

inline std::vector<std::string> read_lines(const std::string& path, Encoding encoding) {
  const std::string text = decode(read_bytes(path), path, encoding);
  std::vector<std::string> out;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    check_line(line, path, number);
    if (line.find_first_not_of(" \t\r\f\v") != line.npos) out.emplace_back(line);
  });
  if (out.empty()) fail(path + (text.empty() ? ": is empty" : ": has only blank lines") + ": expected lines of text");
  return out;
}

inline LineDataset lines(const std::string& path, const LineOptions& options) {
  const Names train_names = {"train.txt"}, dev_names = {"dev.txt", "valid.txt", "validation.txt"};
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const std::string train = folder ? first_file(path, train_names) : path;
  if (train.empty()) fail(path + ": no training text: expected " + quoted(train_names, " or "));
  LineDataset data{.train = read_lines(train, options.encoding), .dev = {}};
  if (const std::string dev = folder ? first_file(path, dev_names) : ""; !dev.empty()) {
    data.dev = read_lines(dev, options.encoding);
  } else {
    hold_out(data.train, data.dev, train, options.split_seed);
    data.held_out = true;
  }
  return data;
}

}  // namespace detail

/// Reads plain text: a folder with train.txt and, if there is one, dev.txt (valid.txt, validation.txt), or one file. Of
/// a text without a second one a tenth of the lines, fixed by `split_seed`, becomes dev. Lines end in LF or CR LF;
/// blank ones are left out. Errors name the file and line: a file that is empty or blank, a NUL byte, broken UTF-8.
inline LineDataset lines(const std::string& path, const LineOptions& options = {}, Where where = Where::current()) {
  return detail::called_from(where, [&] { return detail::lines(path, options); });
}

}  // namespace meft::data
