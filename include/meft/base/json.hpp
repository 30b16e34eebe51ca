// Owns: turning JSON text into a tree, with a depth limit and errors that name the source, the byte and what was found.
// Must not know: files, and what the tree means.
#pragma once

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include <meft/base/error.hpp>

namespace meft {

namespace detail {

/// A byte as an error message shows it: `'x'` or `0x1b`.
inline std::string show_byte(char c) {
  if (c >= 0x20 && c < 0x7f) return {'\'', c, '\''};
  constexpr std::string_view digits = "0123456789abcdef";
  auto value = static_cast<unsigned char>(c);
  return {'0', 'x', digits[value >> 4], digits[value & 15]};
}

/// Throws Error at the first bracket that opens more than `limit` levels.
inline void check_json_depth(std::string_view text, std::string_view source, std::size_t limit, Where where) {
  std::size_t depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit) {
        throw Error(std::string(source) + ": JSON is nested too deeply: byte " + std::to_string(i) + ": found " +
                    show_byte(c) + " at depth " + std::to_string(depth) + ", expected at most " +
                    std::to_string(limit),
                    where);
      }
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
}

}  // namespace detail

/// The tree of `text`, one whole JSON value. `source` (a file name) stands first in every message. Bytes count from 0.
/// Throws Error for text that is not JSON, is not UTF-8, holds a number out of range, or nests deeper than 64 levels.
inline nlohmann::json parse_json(std::string_view text, std::string_view source, Where where = Where::current()) {
  detail::check_json_depth(text, source, 64, where);
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    const std::size_t at = error.byte == 0 ? 0 : std::min(error.byte - 1, text.size());
    std::string why = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (auto end = why.find("column "); end != std::string::npos && (end = why.find(": ", end)) != std::string::npos)
      why.erase(0, end + 2);
    for (char& c : why)
      if (c < 0x20 || c >= 0x7f) c = '?';  // it quotes what was read, broken UTF-8 too
    constexpr std::size_t longest = 240;
    if (why.size() > longest) why = why.substr(0, longest) + "...";
    throw Error(std::string(source) + ": not JSON: byte " + std::to_string(at) + ": found " +
                (at < text.size() ? detail::show_byte(text[at]) : "the end") + " (" + why + ")",
                where);
  } catch (const nlohmann::json::exception& error) {
    std::string why = error.what();
    throw Error(std::string(source) + ": JSON: " + why.substr(std::min(why.size(), why.find("] ") + 2)), where);
  }
}

}  // namespace meft
