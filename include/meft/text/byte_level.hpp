// Owns: byte-level views of text: each byte as a printable character, and where one word ends and the next begins, by
// the patterns of GPT-2, Llama 3 and Qwen2. Must not know: vocabularies and merges.
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

namespace detail {

struct NextCharacter {
  CharacterClass kind;
  std::size_t length;
};
inline NextCharacter next_character(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return {character_class(byte), 1};
  const Decoded next = decode(text, at);
  return {character_class(next.code), next.length};
}
/// The end of the run of that class from `at` on.
inline std::size_t run_end(std::string_view text, std::size_t at, CharacterClass kind) {
  while (at < text.size()) {
    const auto next = next_character(text, at);
    if (next.kind != kind) break;
    at += next.length;
  }
  return at;
}

/// The same as `contraction` in any case: 'S, 'Re, and 'ſ, whose lower case is an s.
inline std::size_t any_contraction(std::string_view text, std::size_t at) {
  const auto small = [&](std::size_t i) {
    return i < text.size() ? static_cast<char>(static_cast<unsigned char>(text[i]) | 0x20) : '\0';
  };
  if (text.substr(at + 1).starts_with("\xC5\xBF")) return 3;
  const char folded[] = {'\'', small(at + 1), small(at + 2)};
  return contraction({folded, 3}, 0);
}

}  // namespace detail

/// Calls `visit(part)` for the parts of `text` that are numbers and those between; each digit is one, unless `runs`.
/// Returns as each_gpt2_word does.
template <class Visit>
bool each_part_by_digits(std::string_view text, bool runs, const Visit& visit) {
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    const auto first = detail::next_character(text, begin);
    end = begin + first.length;
    const bool number = first.kind == CharacterClass::number;
    while (end < text.size() && !(number && !runs)) {
      const auto next = detail::next_character(text, end);
      if ((next.kind == CharacterClass::number) != number) break;
      end += next.length;
    }
    if (!visit(text.substr(begin, end - begin))) return false;
  }
  return true;
}

/// The words of Llama 3 and Qwen2 in the same way, with up to `digits` numbers in one:
///
///     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
///     \s+(?!\S)|\s+
template <class Visit>
bool each_llama3_word(std::string_view text, std::size_t digits, const Visit& visit) {
  const auto is_break = [&](std::size_t at) { return text[at] == '\r' || text[at] == '\n'; };
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = begin;
    if (text[begin] == '\'') end += detail::any_contraction(text, begin);
    if (end == begin) {
      using detail::next_character, detail::run_end;
      const auto first = next_character(text, begin);
      end = begin + first.length;
      const auto kind_at = [&](std::size_t at) {
        return at < text.size() ? next_character(text, at).kind : CharacterClass::space;
      };
      if (first.kind == CharacterClass::letter ||
          (first.kind != CharacterClass::number && !is_break(begin) && kind_at(end) == CharacterClass::letter)) {
        end = run_end(text, end, CharacterClass::letter);
      } else if (first.kind == CharacterClass::number) {
        for (std::size_t n = 1; n < digits && kind_at(end) == CharacterClass::number; ++n)
          end += next_character(text, end).length;
      } else if (first.kind == CharacterClass::other ||
                 (text[begin] == ' ' && end < text.size() && kind_at(end) == CharacterClass::other)) {
        end = run_end(text, end, CharacterClass::other);
        while (end < text.size() && is_break(end)) ++end;
      } else {  // white space: to its last line break, or else all but the last before a word
        end = run_end(text, end, CharacterClass::space);
        std::size_t last = end;
        while (last > begin && !is_break(last - 1)) --last;
        if (last > begin) end = last;
        else if (const std::size_t before = previous(text, end); end < text.size() && before > begin) end = before;
      }
    }
    if (!visit(text.substr(begin, end - begin))) return false;
  }
  return true;
}

/// Calls `visit(word)` for each word of `text`, which must be UTF-8, until it returns false; returns whether it went to
/// the end. Together they are the whole text, and they are the matches of
///
///     '(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
template <class Visit>
bool each_gpt2_word(std::string_view text, Visit visit) {
  using Next = detail::NextCharacter;
  auto next_at = [&](std::size_t at) { return detail::next_character(text, at); };
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
