// Owns: the bytes of a text file as UTF-8 lines: encodings, line ends, and how its text is shown in errors.
// Must not know columns.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>

namespace meft::data {

/// How the bytes of a file are read. Text is UTF-8 in memory. As in browsers, both other encodings are Windows-1252,
/// which is Latin-1 with quotes, dashes and the euro in place of the control characters 0x80 to 0x9F.
enum class Encoding { utf8, latin1, windows1252 };

/// The encoding called `name`: utf-8, utf8, latin1, latin-1, iso-8859-1, windows-1252 or cp1252. Errors: other names.
inline Encoding encoding(std::string_view name, Where where = Where::current()) {
  if (name == "utf-8" || name == "utf8") return Encoding::utf8;
  if (name == "latin1" || name == "latin-1" || name == "iso-8859-1") return Encoding::latin1;
  if (name == "windows-1252" || name == "cp1252") return Encoding::windows1252;
  fail({"encoding: expected utf-8, latin1 or windows-1252, found `" + std::string(name) + "`", where});
}

/// Where a row stands: its file, and its line from 1, or its element from 0 of a JSON array.
struct Place {
  std::shared_ptr<const std::string> file{};
  std::size_t number = 0;
  bool element = false;

  /// `train.jsonl:3`, `train.json: element 2`; of no file `row` and its number among what it was given with.
  std::string text(std::size_t row) const {
    return file ? *file + (element ? ": element " : ":") + std::to_string(number) : "row " + std::to_string(row);
  }
};

namespace detail {

using Names = std::vector<std::string>;

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

/// The beginning of `text` in backquotes, about 60 characters; tabs, control characters and broken bytes are escaped.
inline std::string excerpt(std::string_view text) {
  std::string out = "`";
  std::size_t at = 0;
  for (int shown = 0; at < text.size() && shown < 60; ++shown) {
    const std::size_t length = utf8_length(text, at);
    const char c = text[at];
    const bool control = (c >= 0 && c < 0x20) || c == 0x7F ||
                         (length == 2 && c == '\xC2' && static_cast<unsigned char>(text[at + 1]) < 0xA0);
    if (c == '\t') out += "\\t";
    else if (c == '\n') out += "\\n";
    else if (c == '\r') out += "\\r";
    else if (length == 0 || control)
      for (std::size_t i = 0; i < (length == 0 ? 1 : length); ++i) out += "\\x" + hex(text[at + i]);
    else out += text.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  return out + (at < text.size() ? "...`" : "`");
}

/// `a` or `b`: each name as an excerpt, `between` between them.
inline std::string quoted(const Names& names, std::string_view between) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : std::string(between)) + excerpt(name);
  return out;
}

/// Without the white space around it (also no-break spaces).
inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\f\v", wide = "\xC2\xA0";
  const auto blank = [&](char c) { return blanks.find(c) != blanks.npos; };
  while (!text.empty() && (blank(text.front()) || text.starts_with(wide)))
    text.remove_prefix(blank(text.front()) ? 1 : wide.size());
  while (!text.empty() && (blank(text.back()) || text.ends_with(wide)))
    text.remove_suffix(blank(text.back()) ? 1 : wide.size());
  return text;
}

/// ASCII letters in lower case.
inline std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// The finite number in a field (white space around it and a leading + allowed), or nothing.
inline std::optional<double> number(std::string_view cell) {
  cell = trimmed(cell);
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

/// Errors: a NUL byte, bytes that are not UTF-8. `number` is the line's, from 1, in the file `name`.
inline void check_line(std::string_view line, const std::string& name, std::size_t number) {
  const auto place = [&] { return name + ":" + std::to_string(number) + ": "; };
  if (const std::size_t nul = line.find('\0'); nul != line.npos)
    fail(place() + "byte " + std::to_string(nul + 1) + " of the line is NUL (not a text file?): " + excerpt(line));
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t length = utf8_length(line, at);
    if (length == 0) {
      const bool windows = (static_cast<unsigned char>(line[at]) & 0xE0u) == 0x80u;
      fail(place() + "byte " + std::to_string(at + 1) + " of the line, 0x" + hex(line[at]) + ", is not UTF-8 (a " +
           (windows ? "Windows-1252 file needs option encoding windows-1252): "
                    : "Latin-1 file needs option encoding latin1): ") +
           excerpt(line));
    }
    at += length;
  }
}

/// Whether lines end in CR alone, as old Macs wrote them: more CRs without an LF behind them than LFs.
inline bool ends_in_cr(std::string_view text) {
  std::size_t lone = 0, feeds = 0;
  for (std::size_t at = text.find_first_of("\r\n"); at != text.npos; at = text.find_first_of("\r\n", at + 1)) {
    if (text[at] == '\n') ++feeds;
    else if (at + 1 == text.size() || text[at + 1] != '\n') ++lone;
  }
  return lone > feeds;
}

/// `text` without the blank lines at its end.
inline std::string_view without_blank_end(std::string_view text) {
  const bool cr = ends_in_cr(text);
  std::size_t size = text.size();
  while (size > 0 &&
         (text[size - 1] == '\n' || (text[size - 1] == '\r' && (cr || size == text.size() || text[size] == '\n'))))
    --size;
  return text.substr(0, size);
}

/// Where the line that begins at `start` ends, and where the next one begins. `cr`: as ends_in_cr says of the text.
inline std::pair<std::size_t, std::size_t> line_end(std::string_view text, std::size_t start, bool cr) {
  std::size_t end = cr ? text.find_first_of("\r\n", start) : text.find('\n', start);
  if (end == text.npos) end = text.size();
  std::size_t next = end + 1;
  if (cr && end + 1 < text.size() && text[end] == '\r' && text[end + 1] == '\n') ++next;
  if (!cr && end > start && text[end - 1] == '\r') --end;
  return {end, next};
}

/// Runs `take(line, number)` for the lines of `text`, which end in LF or CR LF, or in CR where most do; numbers count
/// from 1. In a text of LFs a lone CR is a character.
template <class Take>
void for_each_line(std::string_view text, Take&& take) {
  const bool cr = ends_in_cr(text);
  for (std::size_t start = 0, number = 1; start < text.size(); ++number) {
    const auto [end, next] = line_end(text, start, cr);
    take(text.substr(start, end - start), number);
    start = next;
  }
}

/// The Unicode characters of Windows-1252's bytes 0x80 to 0x9F; the five that it leaves out stay control characters.
inline constexpr std::array<std::uint16_t, 32> windows_1252 = {
    0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
    0x2039, 0x0152, 0x8D,   0x017D, 0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};

inline constexpr std::string_view no_columnar = "Parquet and Arrow are not read, convert them to JSON lines",
                                  no_packed = "unpack it first";
/// How files begin that people have data in, and what to do with these.
inline constexpr std::pair<std::string_view, std::string_view> no_text[] = {{"PAR1\x15", no_columnar},
                                                                            {{"ARROW1\0\0", 8}, no_columnar},
                                                                            {"\x1F\x8B", no_packed},
                                                                            {"PK\3\4", no_packed},
                                                                            {"\x28\xB5\x2F\xFD", no_packed}};

/// Drops a byte order mark and converts to UTF-8 (whose validity is checked line by line, later).
inline std::string decode(std::string bytes, const std::string& name, Encoding encoding) {
  for (const auto& [begin, advice] : no_text)
    if (bytes.starts_with(begin)) fail(name + ": is no text: " + std::string(advice));
  if (bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF"))
    fail(name + ": starts with a UTF-16 byte order mark; expected UTF-8: convert it first");
  if (bytes.starts_with("\xEF\xBB\xBF")) {
    if (encoding != Encoding::utf8)
      fail(name + ": starts with a UTF-8 byte order mark, but encoding " +
           (encoding == Encoding::latin1 ? "latin1" : "windows-1252") + " was asked for");
    bytes.erase(0, 3);
  }
  if (encoding == Encoding::utf8) return bytes;
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 8);
  for (const char c : bytes) {
    const unsigned b = static_cast<unsigned char>(c);
    const unsigned code = b >= 0x80 && b < 0xA0 ? windows_1252[b - 0x80] : b;
    if (code < 0x80) text += c;
    else if (code < 0x800) text += {static_cast<char>(0xC0u | (code >> 6)), static_cast<char>(0x80u | (code & 0x3Fu))};
    else
      text += {static_cast<char>(0xE0u | (code >> 12)), static_cast<char>(0x80u | ((code >> 6) & 0x3Fu)),
               static_cast<char>(0x80u | (code & 0x3Fu))};
  }
  return text;
}

}  // namespace detail

}  // namespace meft::data
