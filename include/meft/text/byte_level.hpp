// Owns: GPT-2's view of text: each byte as a printable character, and where one word ends and the next begins.
// Must not know: vocabularies and merges.
// Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2, and its encoder.py.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
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

/// What a word is made of: white space `\s`, letters `\p{L}`, numbers `\p{N}`, or the rest.
enum class CharacterClass : std::uint8_t { space, letter, number, other };

namespace detail {

inline CharacterClass class_above_ascii(char32_t c) {
  // Letters and numbers of Unicode 15.1 and 16, as tokenizers has them; tests/bpe_peer.py checks every code point.
  struct Later {
    char32_t first, last;
    CharacterClass kind;
  };
  constexpr auto L = CharacterClass::letter, N = CharacterClass::number;
  static constexpr Later later[] = {
      {0x1C89, 0x1C8A, L},   {0xA7CB, 0xA7CD, L},   {0xA7DA, 0xA7DC, L},   {0x105C0, 0x105F3, L}, {0x10D40, 0x10D49, N},
      {0x10D4A, 0x10D65, L}, {0x10D6F, 0x10D85, L}, {0x10EC2, 0x10EC4, L}, {0x11380, 0x11389, L}, {0x1138B, 0x1138B, L},
      {0x1138E, 0x1138E, L}, {0x11390, 0x113B5, L}, {0x113B7, 0x113B7, L}, {0x113D1, 0x113D1, L}, {0x113D3, 0x113D3, L},
      {0x116D0, 0x116E3, N}, {0x11BC0, 0x11BE0, L}, {0x11BF0, 0x11BF9, N}, {0x13460, 0x143FA, L}, {0x16100, 0x1611D, L},
      {0x16130, 0x16139, N}, {0x16D40, 0x16D6C, L}, {0x16D70, 0x16D79, N}, {0x18CFF, 0x18CFF, L}, {0x1CCF0, 0x1CCF9, N},
      {0x1E5D0, 0x1E5ED, L}, {0x1E5F0, 0x1E5F0, L}, {0x1E5F1, 0x1E5FA, N}, {0x2EBF0, 0x2EE5D, L}};
  if (is_space(c)) return CharacterClass::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return L;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return N;
    case UTF8PROC_CATEGORY_CN: break;  // perhaps assigned since
    default: return CharacterClass::other;
  }
  const auto* at = std::lower_bound(std::begin(later), std::end(later), c,
                                    [](const Later& range, char32_t code) { return range.last < code; });
  return at != std::end(later) && at->first <= c ? at->kind : CharacterClass::other;
}

constexpr std::array<CharacterClass, 128> ascii_classes() {
  std::array<CharacterClass, 128> out{};
  for (char32_t c = 0; c < 128; ++c) {
    const char32_t small = c | 0x20;
    out[c] = is_space(c)                    ? CharacterClass::space
             : small >= 'a' && small <= 'z' ? CharacterClass::letter
             : c >= '0' && c <= '9'         ? CharacterClass::number
                                            : CharacterClass::other;
  }
  return out;
}

/// The length of 's, 't, 're, 've, 'm, 'll or 'd at `text[at]`, an apostrophe; 0 if none stands there.
inline std::size_t contraction(std::string_view text, std::size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0', second = at + 2 < text.size() ? text[at + 2] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  return ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l') ? 3 : 0;
}

}  // namespace detail

inline CharacterClass character_class(char32_t c) {
  static constexpr auto ascii = detail::ascii_classes();
  return c < 128 ? ascii[c] : detail::class_above_ascii(c);
}

/// Calls `visit(word)` for each word of `text`, which must be UTF-8, until it returns false; returns whether it went to
/// the end. The words are the matches of
/// `'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`; together they are the whole text.
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
