// Owns: a file of rows and columns: separated by tabs (where quotes mean nothing, as in GLUE) or by commas or
// semicolons (where they do), or JSON objects; and errors that name its file and line. Must not know tasks or labels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/data/json_rows.hpp>
#include <meft/data/text_file.hpp>

namespace meft::data {

/// How a file's columns are told apart; commas: or semicolons, as spreadsheets write them where a comma is in numbers.
enum class Columned { tabs, commas, json };

struct TableOptions {
  Encoding encoding = Encoding::utf8;
  bool header = false;       // line 1 holds the columns' names; JSON's keys always are a header
  std::size_t columns = 0;   // 0: as many as line 1 has
  bool at_least = false;     // lines may have more columns than that
  bool blank_rows = false;   // a blank line before the end is a row of one empty column, not an error
  bool lone_blanks = false;  // in a file of one column a blank line is a row wherever it stands, also last
};

/// The rows of a file. `.csv` is comma-separated, or as its first line has it: by tabs, or, where that has no comma but
/// a semicolon without a space behind it, by semicolons; `.json`, `.jsonl` and `.ndjson` hold an object a line, or one
/// array of objects; any other file is tab-separated. Lines end in LF, CR LF or CR; a UTF-8 byte order mark and blank
/// lines at the end are ignored. Errors (all name the file, most the line): an empty file, a blank line before the end,
/// a NUL byte, bytes that are not UTF-8, a wrong number of columns, a quote that is not closed, broken JSON.
class Table {
 public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  static Table read(const std::string& path, const TableOptions& options = {}, Where where = Where::current()) {
    return detail::called_from(where, [&] { return Table(read_file(path), path, options); });
  }

  /// The same from bytes in memory; `name` stands for the file in errors.
  static Table parse(std::string bytes, std::string name, const TableOptions& options = {},
                     Where where = Where::current()) {
    return detail::called_from(where, [&] { return Table(std::move(bytes), std::move(name), options); });
  }

  const std::string& name() const { return *name_; }
  Columned columned() const { return columned_; }
  std::size_t rows() const { return rows_.size() - first_; }

  /// Fields of a row; all rows have the same number unless `at_least` was set.
  std::size_t columns(std::size_t row) const { return columned_ == Columned::json ? header_.size() : at(row).fields; }

  /// Where the row begins.
  Place place(std::size_t row) const { return {name_, at(row).line, array_}; }

  std::string_view operator()(std::size_t row, std::size_t column) const { return cut(field(row, column)); }

  /// A JSON object that has no such key, or null there.
  bool null(std::size_t row, std::size_t column) const { return field(row, column).kind == Kind::null; }
  /// Neither a string nor a number: an object or array of JSON.
  bool nested(std::size_t row, std::size_t column) const { return field(row, column).kind == Kind::nested; }

  /// The row as it stands in the file, without its end.
  std::string_view text(std::size_t row) const { return cut(at(row).text); }

  /// The columns' names, without white space around them; empty without a header.
  const std::vector<std::string>& header() const { return header_; }

  /// Makes the first row the header.
  void take_header() {
    header_.clear();
    for (std::size_t c = 0; c < columns(0); ++c) header_.emplace_back(detail::trimmed((*this)(0, c)));
    ++first_;
  }

  /// Checks the number of columns of every row.
  void expect(std::size_t count, bool at_least = false) const {
    for (std::size_t row = 0; row < rows(); ++row) {
      if (const std::size_t found = columns(row); at_least ? found < count : found != count)
        bad(row, std::string(at_least ? "expected at least " : "expected ") + std::to_string(count) +
                     (count == 1 ? " column" : " columns") + " (separated by " + separators() + "s), found " +
                     std::to_string(found) +
                     (text(row).find('\r') != std::string_view::npos ? " (some lines end in CR alone?)" : ""));
    }
  }

  /// The column that has the first of the `names` that one has, or `none`.
  std::size_t find(const std::vector<std::string>& names) const {
    for (const std::string& wanted : names)
      if (const auto found = std::find(header_.begin(), header_.end(), wanted); found != header_.end()) {
        if (std::find(found + 1, header_.end(), wanted) != header_.end())
          fail(*name_ + ":1: two columns are named " + detail::excerpt(wanted));
        return static_cast<std::size_t>(found - header_.begin());
      }
    return none;
  }

  /// Throws `file:line: what: excerpt of the line`.
  [[noreturn]] void bad(std::size_t row, const std::string& what) const {
    fail(place(row).text(row) + ": " + what + (array_ ? "" : ": " + detail::excerpt(text(row))));
  }

 private:
  static constexpr std::size_t most_keys = 1000;
  enum class Kind : std::uint8_t { text, null, nested };
  struct Field {
    std::size_t start = 0, size = 0;
    Kind kind = Kind::text;
    std::uint32_t column = 0;  // of JSON, whose rows have their own keys alone
  };
  struct Row {
    std::size_t field, fields, line;
    Field text;
  };

  Table(std::string bytes, std::string name, const TableOptions& options)
      : name_(std::make_shared<const std::string>(std::move(name))) {
    text_ = detail::decode(std::move(bytes), *name_, options.encoding);
    const std::string end = detail::lower(std::string_view(*name_).substr(name_->rfind('.') + 1));
    const std::string_view first = std::string_view(text_).substr(0, text_.find_first_of("\r\n"));
    if (end == "json" || end == "jsonl" || end == "ndjson") {
      split_json();
    } else {
      if (end == "csv" && first.find('\t') == first.npos) {
        columned_ = Columned::commas;
        const std::size_t other = first.find(';');
        const bool text = other == first.npos || first.substr(other + 1).starts_with(' ');
        separator_ = first.find(',') == first.npos && !text ? ';' : ',';
      }
      split(options);
      const std::size_t columns = options.columns != 0 ? options.columns : this->columns(0);
      expect(columns, options.at_least);
      if (options.header) take_header();
    }
  }

  std::string separators() const { return separator_ == '\t' ? "tab" : separator_ == ',' ? "comma" : "semicolon"; }
  const Row& at(std::size_t row) const { return rows_[first_ + row]; }
  const Field& field(std::size_t row, std::size_t column) const {
    const auto own = std::span(fields_).subspan(at(row).field, at(row).fields);
    if (columned_ != Columned::json) return own[column];
    static constexpr Field absent{0, 0, Kind::null};
    const auto found = std::find_if(own.begin(), own.end(), [&](const Field& f) { return f.column == column; });
    return found == own.end() ? absent : *found;
  }
  std::string_view cut(const Field& field) const { return std::string_view(text_).substr(field.start, field.size); }

  void split(const TableOptions& options) {
    const bool commas = columned_ == Columned::commas;
    const std::string whole = commas ? text_ : std::string();  // fields with doubled quotes are appended to text_
    const std::size_t all = detail::without_blank_end(text_).size();
    if (all == 0 && !(options.lone_blanks && !text_.empty()))
      fail(*name_ + ": is empty: expected rows of " + separators() + "-separated columns");
    const bool cr = detail::ends_in_cr(text_);
    const auto source = [&] { return std::string_view(commas ? whole : text_); };
    const std::size_t length = source().size();
    std::size_t number = 1;
    for (std::size_t start = 0; start < (options.lone_blanks ? length : all);) {
      const std::size_t line = number, first_field = fields_.size();
      auto [end, next] = detail::line_end(source(), start, cr);
      if (end == start && !options.blank_rows && !options.lone_blanks)
        fail(*name_ + ":" + std::to_string(number) + ": the line is blank");
      detail::check_line(source().substr(start, end - start), *name_, number);
      for (std::size_t from = start;;) {
        if (commas && from < end && source()[from] == '"') {
          from = quoted_field(source(), from, end, next, number, cr);
        } else {
          const std::size_t separator = std::min(source().find(separator_, from), end);
          fields_.push_back({from, separator - from});
          from = separator;
        }
        if (from == end) break;
        ++from;
      }
      ++number;
      rows_.push_back({first_field, fields_.size() - first_field, line, {start, end - start}});
      start = next;
    }
    if (options.lone_blanks) drop_blank_end();
  }

  /// The field that opens with a quote at `from`; gives the place behind it. The row's end moves where a line break
  /// stands within the quotes.
  std::size_t quoted_field(std::string_view whole, std::size_t from, std::size_t& end, std::size_t& next,
                           std::size_t& number, bool cr) {
    const std::size_t opened = number;
    const auto wrong = [&](const std::string& what) {
      fail(*name_ + ":" + std::to_string(opened) + ": " + what + ": " +
           detail::excerpt(whole.substr(from, std::min<std::size_t>(end - from, 200))));
    };
    bool doubled = false;
    std::size_t at = from + 1;
    while (true) {
      if (const std::size_t quote = whole.substr(at, end - std::min(at, end)).find('"'); quote != whole.npos) {
        at += quote + 1;
        if (at < end && whole[at] == '"') {
          doubled = true;
          ++at;
          continue;
        }
        break;
      }
      if (next >= whole.size()) wrong("a quote is not closed before the file's end");
      at = next;
      const auto [later, after] = detail::line_end(whole, next, cr);
      detail::check_line(whole.substr(next, later - next), *name_, ++number);
      end = later, next = after;
    }
    if (at < end && whole[at] != separator_) wrong("a quote closes within a column (quotes inside of one are doubled)");
    const std::string_view inner = whole.substr(from + 1, at - from - 2);
    if (!doubled) {
      fields_.push_back({from + 1, inner.size()});
      return at;
    }
    const std::size_t begin = text_.size();
    for (std::size_t i = 0; i < inner.size(); ++i) {
      text_ += inner[i];
      if (inner[i] == '"') ++i;
    }
    fields_.push_back({begin, text_.size() - begin});
    return at;
  }

  /// In a file of several columns blank lines at the end are no rows, and others are errors.
  void drop_blank_end() {
    bool lone = true;
    for (const Row& row : rows_) lone = lone && row.fields == 1;
    if (lone) return;
    while (!rows_.empty() && rows_.back().text.size == 0) rows_.pop_back();
    for (std::size_t row = 0; row < rows_.size(); ++row)
      if (rows_[row].text.size == 0) fail(place(row).text(row) + ": the line is blank");
  }

  void split_json() {
    columned_ = Columned::json;
    const std::string whole = text_;  // cells are appended to text_
    array_ = detail::for_each_json(whole, *name_, [&](const JsonField& row, const detail::JsonPlace& place) {
      const Field line{place.line.empty() ? 0 : static_cast<std::size_t>(place.line.data() - whole.data()),
                       place.line.size()};
      rows_.push_back({fields_.size(), row.object().size(), place.number, line});
      for (const auto& [key, value] : row.object().items()) {
        std::size_t column = 0;
        while (column < header_.size() && header_[column] != key) ++column;
        if (column == header_.size()) header_.push_back(key);
        if (column >= most_keys) fail(*name_ + ": has rows with more than " + std::to_string(most_keys) + " keys");
        const std::string cell = value.is_string() ? value.template get<std::string>()
                                 : value.is_null() ? std::string()
                                                   : value.dump();
        const Kind kind = value.is_null() ? Kind::null : value.is_structured() ? Kind::nested : Kind::text;
        fields_.push_back({text_.size(), cell.size(), kind, static_cast<std::uint32_t>(column)});
        text_ += cell;
      }
    });
  }

  std::shared_ptr<const std::string> name_;
  std::string text_;  // the file, then the fields that do not stand in it as they are
  Columned columned_ = Columned::tabs;
  char separator_ = '\t';
  bool array_ = false;
  std::vector<Field> fields_;
  std::vector<Row> rows_;
  std::vector<std::string> header_;
  std::size_t first_ = 0;  // 1 when a row became the header
};

}  // namespace meft::data
