// Owns: SentencePiece's precompiled map of characters, as tokenizers' Precompiled applies it. Must not know: tokens.
// Source: Kudo and Richardson, arXiv 1808.06226, section 3.3; the trie is one of darts-clone.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/text/unicode.hpp>

namespace meft::text {

/// The bytes that base64 stands for; nothing where it is none.
inline std::optional<std::string> from_base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if ((count += 6) >= 8) out += static_cast<char>(bits >> (count -= 8) & 0xFF);
  }
  return out;
}

/// Characters, or two and more that belong together, to what takes their place.
class Charsmap {
 public:
  /// Of the map's bytes: how many the trie has, the trie, the texts, each with a zero at its end. Throws Error for what
  /// does not fit.
  explicit Charsmap(const std::string& bytes) {
    std::uint32_t size = 0;
    if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
    if (size == 0 || size % sizeof(std::uint32_t) || size > bytes.size() - sizeof size)
      fail("a precompiled_charsmap of " + std::to_string(bytes.size()) + " bytes has no trie of " +
           std::to_string(size));
    units_.resize(size / sizeof(std::uint32_t));
    std::memcpy(units_.data(), bytes.data() + sizeof size, size);
    texts_ = bytes.substr(sizeof size + size);
    if (!is_utf8(texts_)) fail("the texts of a precompiled_charsmap are not UTF-8");
    for (unsigned c = 0; c < ascii_.size(); ++c) {
      const char one = static_cast<char>(c);
      if (const auto found = find({&one, 1})) ascii_[c] = std::string(*found);
    }
  }

  /// Appends what the map makes of `text`, which must be UTF-8. A grapheme cluster of less than six bytes gives way as
  /// a whole to what its shortest known start stands for; so does each character of another.
  void append(std::string_view text, std::string& out) const {
    each(text, [&](std::string_view, std::string_view to) {
      out += to;
      return true;
    });
  }

  /// How many bytes at the beginning of what the map makes of `text` tokenizers takes for those of its first `head`
  /// bytes. There each character put in stands for the next of the text, more than were there for what came before,
  /// and fewer have the last one before them stand for the others too; where none is before them these are forgotten.
  std::size_t head(std::string_view text, std::size_t head) const {
    std::size_t now = 0, at = 0, size = 0;
    std::ptrdiff_t stands_for = 0;  // characters of the text, for the last one put in, of `size` bytes
    const auto add_last = [&] {
      if (size == 0) return true;
      if (stands_for > 0 ? at >= head : at > head) return false;
      now += size;
      for (; stands_for > 0 && at < text.size(); --stands_for) at += decode(text, at).length;
      return true;
    };
    const auto count = [](std::string_view part) {
      return std::count_if(part.begin(), part.end(),
                           [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
    };
    if (head == 0) return 0;
    const bool whole = each(text, [&](std::string_view from, std::string_view to) {
      std::ptrdiff_t left = count(from);
      for (std::size_t i = 0; i < to.size(); --left) {
        if (!add_last()) return false;
        size = decode(to, i).length;
        stands_for = left > 0 ? 1 : 0;
        i += size;
      }
      stands_for += std::max<std::ptrdiff_t>(left, 0);
      return true;
    });
    if (whole) add_last();
    return now;
  }

  /// How many bytes take one's place at most.
  std::size_t growth() const {
    std::size_t most = 1;
    for (std::size_t begin = 0; begin < texts_.size();) {
      const auto end = std::min(texts_.find('\0', begin), texts_.size());
      most = std::max(most, std::min(end - begin, longest));
      begin = end + 1;
    }
    return most;
  }

  static constexpr std::size_t longest = 256;  // text; more is none

 private:
  /// Calls visit(part, what takes its place) for each part of `text`, until it returns false; returns whether it went
  /// to the end.
  template <class Visit>
  bool each(std::string_view text, const Visit& visit) const {
    for (std::size_t at = 0; at < text.size();) {
      const auto byte = static_cast<unsigned char>(text[at]);
      const auto next = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0u;
      if (byte < 0x80 && next < 0x80 && byte != '\r') {
        const auto character = text.substr(at++, 1);
        if (!visit(character, ascii_[byte] ? std::string_view(*ascii_[byte]) : character)) return false;
        continue;
      }
      const auto cluster = text.substr(at, cluster_length(text, at));
      at += cluster.size();
      if (cluster.size() < 6)
        if (const auto found = find(cluster)) {
          if (!visit(cluster, *found)) return false;
          continue;
        }
      for (std::size_t i = 0; i < cluster.size();) {
        const auto character = cluster.substr(i, decode(cluster, i).length);
        if (!visit(character, find(character).value_or(character))) return false;
        i += character.size();
      }
    }
    return true;
  }

  /// What is kept for characters that will be ignored: no cluster goes over it, as over a control character (UAX 29,
  /// GraphemeBreakProperty.txt), which utf8proc does not know of what is unassigned.
  static bool reserved(char32_t code) {
    return code == 0x2065 || (code >= 0xFFF0 && code <= 0xFFF8) || code == 0xE0000 ||
           (code >= 0xE0002 && code <= 0xE001F) || (code >= 0xE0080 && code <= 0xE00FF) ||
           (code >= 0xE01F0 && code <= 0xE0FFF);
  }

  /// A code point as utf8proc has it: marks of Unicode 16 and 17, which it does not know of, as another mark.
  static utf8proc_int32_t known(char32_t code) {
    static constexpr char32_t marks[][2] = {
        {0x897, 0x897},     {0x1ACF, 0x1ADD},   {0x1AE0, 0x1AEB},   {0x10D69, 0x10D6D}, {0x10EFA, 0x10EFC},
        {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0},
        {0x113D2, 0x113D2}, {0x113E1, 0x113E2}, {0x11B60, 0x11B67}, {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F},
        {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3}, {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}};
    const auto* at = std::lower_bound(std::begin(marks), std::end(marks), code,
                                      [](const char32_t(&range)[2], char32_t c) { return range[1] < c; });
    const bool later = at != std::end(marks) && (*at)[0] <= code;
    return static_cast<utf8proc_int32_t>(later ? 0x300 : code);
  }

  static std::size_t cluster_length(std::string_view text, std::size_t at) {
    auto last = decode(text, at);
    std::size_t end = at + last.length;
    utf8proc_int32_t state = 0;
    while (end < text.size()) {
      const auto next = decode(text, end);
      if (reserved(last.code) || reserved(next.code) ||
          utf8proc_grapheme_break_stateful(known(last.code), known(next.code), &state))
        break;
      end += next.length;
      last = next;
    }
    return end - at;
  }

  /// What the shortest start of `key` that the trie has stands for.
  std::optional<std::string_view> find(std::string_view key) const {
    const auto offset = [](std::uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
    std::size_t node = offset(units_[0]);
    for (const char c : key) {
      const auto byte = static_cast<unsigned char>(c);
      node ^= byte;
      if (byte == 0 || node >= units_.size()) return std::nullopt;
      const std::uint32_t unit = units_[node];
      if ((unit & (1u << 31 | 0xFFu)) != byte) return std::nullopt;
      node ^= offset(unit);
      if (node >= units_.size()) return std::nullopt;
      if (unit >> 8 & 1) return text_at(units_[node] & 0x7FFFFFFFu);
    }
    return std::nullopt;
  }
  std::optional<std::string_view> text_at(std::size_t begin) const {
    if (begin >= texts_.size() || (static_cast<unsigned char>(texts_[begin]) & 0xC0) == 0x80) return std::nullopt;
    const auto end = std::min(texts_.find('\0', begin), texts_.size());
    if (end - begin > longest) return std::nullopt;
    return std::string_view(texts_).substr(begin, end - begin);
  }

  std::vector<std::uint32_t> units_;
  std::string texts_;
  std::array<std::optional<std::string>, 128> ascii_{};
};

}  // namespace meft::text
