// Owns: GPT-2's view of text: each byte as a printable character, and where one word ends and the next begins.
// Must not know: vocabularies and merges.
// Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2, and its encoder.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <meft/text/unicode.hpp>

namespace meft::text {

/// The character that stands for a byte in a vocabulary: printable Latin-1 for itself, the other 68 bytes U+0100 on.
class ByteCharacters {
 public:
  ByteCharacters() {
    char32_t next = first_other;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      codes_[byte] = printable ? static_cast<char32_t>(byte) : next++;
    }
    bytes_.fill(-1);
    for (unsigned byte = 0; byte < 256; ++byte) bytes_[codes_[byte]] = static_cast<std::int16_t>(byte);
  }

  /// The character of `byte`.
  char32_t code(unsigned char byte) const { return codes_[byte]; }
  /// The byte of the character `code`, or −1 if it stands for none.
  int byte(char32_t code) const { return code < bytes_.size() ? bytes_[code] : -1; }

  /// `bytes` as characters.
  std::string shown(std::string_view bytes) const {
    std::string out;
    for (const char c : bytes) append_utf8(out, code(static_cast<unsigned char>(c)));
    return out;
  }

  /// Appends the bytes of `token`; a token with any other character, such as an added one with a space, goes as it is.
  void append_bytes(std::string_view token, std::string& out) const {
    const std::size_t before = out.size();
    for (std::size_t i = 0; i < token.size();) {
      const Decoded next = decode(token, i);
      const int found = next.valid ? byte(next.code) : -1;
      if (found < 0) {
        out.resize(before);
        out.append(token);
        return;
      }
      out.push_back(static_cast<char>(found));
      i += next.length;
    }
  }

 private:
  static constexpr char32_t first_other = 0x100;

  std::array<char32_t, 256> codes_{};
  std::array<std::int16_t, first_other + 68> bytes_{};
};

namespace detail {

/// The length of 's, 't, 're, 've, 'm, 'll or 'd at `text[at]`, an apostrophe; 0 if none stands there.
inline std::size_t contraction(std::string_view text, std::size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0', second = at + 2 < text.size() ? text[at + 2] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

}  // namespace detail

/// Calls `visit(word)` for each word of `text`, which must be UTF-8, until it returns false; returns whether it went to
/// the end. Together they are the whole text, and they are the matches of
///
///     '(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
template <class Visit>
bool each_gpt2_word(std::string_view text, Visit visit) {
  struct Next {
    CharacterClass kind;
    std::size_t length;
  };
  auto next_at = [&](std::size_t at) -> Next {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 128) return {character_class(byte), 1};
    const Decoded next = decode(text, at);
    return {character_class(next.code), next.length};
  };
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    if (text[begin] == '\'') end += detail::contraction(text, begin);
    if (end == begin) {
      Next next = next_at(begin);
      end += next.length;
      if (text[begin] == ' ' && end < text.size()) {  // a space goes with the word behind it
        if (const Next behind = next_at(end); behind.kind != CharacterClass::space) {
          next = behind;
          end += behind.length;
        }
      }
      std::size_t last = next.length;
      while (end < text.size()) {
        const Next more = next_at(end);
        if (more.kind != next.kind) break;
        last = more.length;
        end += last;
      }
      // Of white space before a word, the last one is left for it.
      if (next.kind == CharacterClass::space && end < text.size() && end - begin > last) end -= last;
    }
    if (!visit(text.substr(begin, end - begin))) return false;
    begin = end;
  }
  return true;
}

}  // namespace meft::text
