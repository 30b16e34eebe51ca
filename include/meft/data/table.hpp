// Owns: reading a tab-separated file into rows of fields, and errors that name its file and line.
// Tabs separate, quotes mean nothing (as in GLUE). Must not know tasks or labels.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>

namespace meft::data {

/// How the bytes of a file are read. Text is UTF-8 in memory; latin1 (ISO 8859-1) is converted.
enum class Encoding { utf8, latin1 };

/// The encoding called `name`: utf-8, utf8, latin1, latin-1 or iso-8859-1. Errors: any other name.
inline Encoding encoding(std::string_view name, Where where = Where::current()) {
  if (name == "utf-8" || name == "utf8") return Encoding::utf8;
  if (name == "latin1" || name == "latin-1" || name == "iso-8859-1") return Encoding::latin1;
  fail({"encoding: expected utf-8 or latin1, found `" + std::string(name) + "`", where});
}

struct TableOptions {
  Encoding encoding = Encoding::utf8;
  bool header = false;      // line 1 holds the columns' names
  std::size_t columns = 0;  // 0: as many as line 1 has
  bool at_least = false;    // lines may have more columns than that
  bool blank_rows = false;  // a blank line before the end is a row of one empty column, not an error
};

namespace detail {

/// Bytes of the UTF-8 character at `at`, or 0 where the bytes are not UTF-8 (overlong, surrogate, cut off).
inline std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned a = byte(0), b = byte(1);
  if (a < 0x80u) return 1;
  if (a < 0xC2u || a > 0xF4u || !tail(1)) return 0;
  if (a < 0xE0u) return 2;
  if (!tail(2) || (a == 0xE0u && b < 0xA0u) || (a == 0xEDu && b > 0x9Fu)) return 0;
  if (a < 0xF0u) return 3;
  return !tail(3) || (a == 0xF0u && b < 0x90u) || (a == 0xF4u && b > 0x8Fu) ? 0 : 4;
}

inline std::string hex(char byte) {
  constexpr const char* digits = "0123456789ABCDEF";
  const auto b = static_cast<unsigned char>(byte);
  return {digits[b >> 4], digits[b & 15]};
}

/// The beginning of `text` in backquotes, about 60 characters; tabs and unprintable bytes are escaped.
inline std::string excerpt(std::string_view text) {
  std::string out = "`";
  std::size_t at = 0;
  for (int shown = 0; at < text.size() && shown < 60; ++shown) {
    const std::size_t length = utf8_length(text, at);
    const char c = text[at];
    if (c == '\t') out += "\\t";
    else if (length == 0 || (c >= 0 && c < 0x20) || c == 0x7F) out += "\\x" + hex(c);
    else out += text.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return out + (at < text.size() ? "...`" : "`");
}

/// The finite number in a field (spaces around it and a leading + allowed), or nothing.
inline std::optional<double> number(std::string_view cell) {
  while (!cell.empty() && cell.front() == ' ') cell.remove_prefix(1);
  while (!cell.empty() && cell.back() == ' ') cell.remove_suffix(1);
  if (cell.size() > 1 && cell[0] == '+' && cell[1] != '-') cell.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  if (error != std::errc() || end != cell.data() + cell.size() || !std::isfinite(value)) return {};
  return value;
}

/// Runs `body`; an Error from it points at the caller's place.
template <class Body>
auto called_from(Where where, Body&& body) {
  try {
    return body();
  } catch (Error& error) {
    error.at(where);
    throw;
  }
}

/// All bytes of a file. Errors: as InputFile, or it has more than `most` bytes.
inline std::string read_bytes(const std::string& path, std::size_t most = std::numeric_limits<std::size_t>::max()) {
  return read_file(path, most);
}

/// Errors: a NUL byte, bytes that are not UTF-8. `number` is the line's, from 1, in the file `name`.
inline void check_line(std::string_view line, const std::string& name, std::size_t number) {
  const auto place = [&] { return name + ":" + std::to_string(number) + ": "; };
  if (const std::size_t nul = line.find('\0'); nul != line.npos)
    fail(place() + "byte " + std::to_string(nul + 1) + " of the line is NUL (not a text file?): " + excerpt(line));
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t length = utf8_length(line, at);
    if (length == 0)
      fail(place() + "byte " + std::to_string(at + 1) + " of the line, 0x" + hex(line[at]) +
           ", is not UTF-8 (a Latin-1 file needs encoding latin1): " + excerpt(line));
    at += length;
  }
}

/// `text` without the blank lines (LF or CR LF) at its end.
inline std::string_view without_blank_end(std::string_view text) {
  std::size_t size = text.size();
  while (size > 0 &&
         (text[size - 1] == '\n' || (text[size - 1] == '\r' && (size == text.size() || text[size] == '\n'))))
    --size;
  return text.substr(0, size);
}

/// Runs `take(line, number)` for the lines of `text`, which end in LF or CR LF; numbers count from 1.
template <class Take>
void for_each_line(std::string_view text, Take&& take) {
  for (std::size_t start = 0, number = 1; start < text.size(); ++number) {
    std::size_t end = text.find('\n', start);
    if (end == text.npos) end = text.size();
    const std::size_t next = end + 1;
    if (end > start && text[end - 1] == '\r') --end;
    take(text.substr(start, end - start), number);
    start = next;
  }
}

/// Drops a byte order mark and converts to UTF-8 (whose validity is checked line by line, later).
inline std::string decode(std::string bytes, const std::string& name, Encoding encoding) {
  if (bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF"))
    fail(name + ": starts with a UTF-16 byte order mark; expected UTF-8: convert it first");
  if (bytes.starts_with("\xEF\xBB\xBF")) {
    if (encoding == Encoding::latin1)
      fail(name + ": starts with a UTF-8 byte order mark, but encoding latin1 was asked for");
    bytes.erase(0, 3);
  }
  if (encoding == Encoding::utf8) return bytes;
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 8);
  for (const char c : bytes) {
    const auto b = static_cast<unsigned char>(c);
    if (b < 0x80u) text += c;
    else text += {static_cast<char>(0xC0u | (b >> 6)), static_cast<char>(0x80u | (b & 0x3Fu))};
  }
  return text;
}

}  // namespace detail

/// The rows of a tab-separated file. Lines end in LF or CR LF, the last one with or without; a UTF-8 byte order mark
/// and blank lines at the end are ignored. Errors (all name the file, most the line): an empty file, a blank line
/// before the end, a NUL byte, bytes that are not UTF-8, a wrong number of columns.
class Table {
 public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  static Table read(const std::string& path, const TableOptions& options = {}, Where where = Where::current()) {
    return detail::called_from(where, [&] { return Table(detail::read_bytes(path), path, options); });
  }

  /// The same from bytes in memory; `name` stands for the file in errors.
  static Table parse(std::string bytes, std::string name, const TableOptions& options = {},
                     Where where = Where::current()) {
    return detail::called_from(where, [&] { return Table(std::move(bytes), std::move(name), options); });
  }

  const std::string& name() const { return name_; }
  std::size_t rows() const { return rows_.size() - 1 - first_; }

  /// Fields of a row; all rows have the same number unless `at_least` was set.
  std::size_t columns(std::size_t row) const { return rows_[first_ + row + 1] - rows_[first_ + row]; }

  /// The row's line in the file, from 1.
  std::size_t line(std::size_t row) const { return first_ + row + 1; }

  std::string_view operator()(std::size_t row, std::size_t column) const {
    const std::size_t field = rows_[first_ + row] + column;
    return std::string_view(text_).substr(fields_[field].start, fields_[field].size);
  }

  /// The whole line, without its end.
  std::string_view text(std::size_t row) const {
    const Field& last = fields_[rows_[first_ + row + 1] - 1];
    const std::size_t start = fields_[rows_[first_ + row]].start;
    return std::string_view(text_).substr(start, last.start + last.size - start);
  }

  /// The columns' names; empty without a header.
  const std::vector<std::string>& header() const { return header_; }

  /// Makes the first row the header.
  void take_header() {
    header_.clear();
    for (std::size_t c = 0; c < columns(0); ++c) header_.emplace_back((*this)(0, c));
    ++first_;
  }

  /// Checks the number of columns of every row.
  void expect(std::size_t count, bool at_least = false) const {
    for (std::size_t row = 0; row < rows(); ++row) {
      if (const std::size_t found = columns(row); at_least ? found < count : found != count)
        bad(row, std::string(at_least ? "expected at least " : "expected ") + std::to_string(count) +
                     (count == 1 ? " column" : " columns") + " (separated by tabs), found " + std::to_string(found));
    }
  }

  /// The first column that has one of the `names`, or `none`.
  std::size_t find(const std::vector<std::string>& names) const {
    for (const std::string& wanted : names)
      for (std::size_t c = 0; c < header_.size(); ++c)
        if (header_[c] == wanted) return c;
    return none;
  }

  /// Throws `file:line: what: excerpt of the line`.
  [[noreturn]] void bad(std::size_t row, const std::string& what) const {
    fail(name_ + ":" + std::to_string(line(row)) + ": " + what + ": " + detail::excerpt(text(row)));
  }

 private:
  struct Field {
    std::size_t start, size;
  };

  Table(std::string bytes, std::string name, const TableOptions& options)
      : name_(std::move(name)), text_(detail::decode(std::move(bytes), name_, options.encoding)) {
    split(options.blank_rows);
    const std::size_t columns_of_first = columns(0);
    if (options.header) take_header();
    expect(options.columns == 0 ? columns_of_first : options.columns, options.at_least);
  }

  void split(bool blank_rows) {
    const std::string_view text = detail::without_blank_end(text_);
    if (text.empty()) fail(name_ + ": is empty: expected rows of tab-separated columns");
    detail::for_each_line(text, [&](std::string_view line, std::size_t number) {
      if (line.empty() && !blank_rows) fail(name_ + ":" + std::to_string(number) + ": the line is blank");
      detail::check_line(line, name_, number);
      rows_.push_back(fields_.size());
      const auto start = static_cast<std::size_t>(line.data() - text.data());
      for (std::size_t at = 0;;) {
        const std::size_t tab = line.find('\t', at);
        fields_.push_back({start + at, (tab == line.npos ? line.size() : tab) - at});
        if (tab == line.npos) break;
        at = tab + 1;
      }
    });
    rows_.push_back(fields_.size());
  }

  std::string name_, text_;
  std::vector<Field> fields_;
  std::vector<std::size_t> rows_;  // each line's first field, then the number of all
  std::vector<std::string> header_;
  std::size_t first_ = 0;  // 1 with a header
};

}  // namespace meft::data
