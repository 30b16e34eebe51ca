// Owns: code points: UTF-8 in and out, repair of broken UTF-8, white space, letters and numbers, lower case, canonical
// decomposition. The only user of utf8proc. Must not know: any tokenizer.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace meft::text {

/// What stands for bytes that are not UTF-8.
inline constexpr char32_t replacement = 0xFFFD;

/// A decoded code point and the bytes it took. `valid` is false where `code` is a replacement for broken bytes.
struct Decoded {
  char32_t code;
  std::size_t length;
  bool valid = true;
};

/// Decodes the code point at `text[at]`, `at` < size. Broken UTF-8 gives one U+FFFD for each longest start of a
/// well-formed sequence, else for each byte, as Rust's String::from_utf8_lossy and Python's "replace" do.
/// Source: The Unicode Standard, section 3.9, table 3-7.
inline Decoded decode(std::string_view text, std::size_t at) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  std::size_t length = 0;
  unsigned low = 0x80, high = 0xBF;  // what the second byte may be
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  else if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  else if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  else return {replacement, 1, false};
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i >= text.size() || byte(i) < low || byte(i) > high) return {replacement, i, false};
    code = code << 6 | (byte(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {code, length};
}

/// Appends `code`, a Unicode scalar value, as UTF-8.
inline void append_utf8(std::string& out, char32_t code) {
  auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | (code >> shift & 0x3F))); };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

/// True if the whole of `text` is UTF-8.
inline bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Decoded next = decode(text, i);
    if (!next.valid) return false;
    i += next.length;
  }
  return true;
}

/// `text` with U+FFFD in the place of what is not UTF-8 (see decode).
inline std::string repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const Decoded next = decode(text, i);
    append_utf8(out, next.code);
    i += next.length;
  }
  return out;
}

/// The byte at which the code point that ends before `end` begins, `end` > 0; `text` must be UTF-8.
inline std::size_t previous(std::string_view text, std::size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

/// Unicode's property White_Space.
constexpr bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

/// What a word is made of: white space `\s`, letters `\p{L}`, numbers `\p{N}`, or the rest.
enum class CharacterClass : std::uint8_t { space, letter, number, other };

namespace detail {

/// Letters, numbers and marks (other) of Unicode 15.1 and 16, as tokenizers has them; tests/text/bpe_peer.py checks
/// every code point.
struct Later {
  char32_t first, last;
  CharacterClass kind;
};
/// Which of them `c` is among, or null.
inline const Later* later(char32_t c) {
  constexpr auto L = CharacterClass::letter, N = CharacterClass::number, O = CharacterClass::other;
  static constexpr Later ranges[] = {
      {0x897, 0x897, O},     {0x1C89, 0x1C8A, L},   {0xA7CB, 0xA7CD, L},   {0xA7DA, 0xA7DC, L},   {0x105C0, 0x105F3, L},
      {0x10D40, 0x10D49, N}, {0x10D4A, 0x10D65, L}, {0x10D69, 0x10D6D, O}, {0x10D6F, 0x10D85, L}, {0x10EC2, 0x10EC4, L},
      {0x10EFC, 0x10EFC, O}, {0x11380, 0x11389, L}, {0x1138B, 0x1138B, L}, {0x1138E, 0x1138E, L}, {0x11390, 0x113B5, L},
      {0x113B7, 0x113B7, L}, {0x113B8, 0x113C0, O}, {0x113C2, 0x113C2, O}, {0x113C5, 0x113C5, O}, {0x113C7, 0x113CA, O},
      {0x113CC, 0x113D0, O}, {0x113D1, 0x113D1, L}, {0x113D2, 0x113D2, O}, {0x113D3, 0x113D3, L}, {0x113E1, 0x113E2, O},
      {0x116D0, 0x116E3, N}, {0x11BC0, 0x11BE0, L}, {0x11BF0, 0x11BF9, N}, {0x11F5A, 0x11F5A, O}, {0x13460, 0x143FA, L},
      {0x16100, 0x1611D, L}, {0x1611E, 0x1612F, O}, {0x16130, 0x16139, N}, {0x16D40, 0x16D6C, L}, {0x16D70, 0x16D79, N},
      {0x18CFF, 0x18CFF, L}, {0x1CCF0, 0x1CCF9, N}, {0x1E5D0, 0x1E5ED, L}, {0x1E5EE, 0x1E5EF, O}, {0x1E5F0, 0x1E5F0, L},
      {0x1E5F1, 0x1E5FA, N}, {0x2EBF0, 0x2EE5D, L}};
  const auto* at = std::lower_bound(std::begin(ranges), std::end(ranges), c,
                                    [](const Later& range, char32_t code) { return range.last < code; });
  return at != std::end(ranges) && at->first <= c ? at : nullptr;
}

inline CharacterClass class_above_ascii(char32_t c) {
  if (is_space(c)) return CharacterClass::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CharacterClass::number;
    case UTF8PROC_CATEGORY_CN: break;  // perhaps assigned since
    default: return CharacterClass::other;
  }
  const auto* found = later(c);
  return found ? found->kind : CharacterClass::other;
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

}  // namespace detail

inline CharacterClass character_class(char32_t c) {
  static constexpr auto ascii = detail::ascii_classes();
  return c < 128 ? ascii[c] : detail::class_above_ascii(c);
}

/// What a regular expression calls `\w`: letters, marks, decimal digits, letter numbers, connectors, joiners and the
/// circled, squared and negative Latin capitals (Unicode Technical Standard 18, annex C).
inline bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    case UTF8PROC_CATEGORY_CN: return detail::later(c) != nullptr;  // perhaps assigned since
    default:
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

/// Simple lower case, Unicode 17: utf8proc's, and the letters that came after Unicode 15. U+0130 (capital I with a dot)
/// has two: the caller adds U+0307 after the i.
inline char32_t lower(char32_t c) {
  struct Shift {
    char32_t first, last, to;
  };
  constexpr Shift later[] = {{0x1C89, 0x1C89, 0x1C8A},   {0xA7CB, 0xA7CB, 0x0264}, {0xA7CC, 0xA7CC, 0xA7CD},
                             {0xA7CE, 0xA7CE, 0xA7CF},   {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
                             {0xA7DA, 0xA7DA, 0xA7DB},   {0xA7DC, 0xA7DC, 0x019B}, {0x10D50, 0x10D65, 0x10D70},
                             {0x16EA0, 0x16EB8, 0x16EBB}};
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c == 0x130) return 'i';
  for (const Shift& shift : later)
    if (c >= shift.first && c <= shift.last) return shift.to + (c - shift.first);
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

/// The canonical combining class: 0 for a starter.
inline int combining_class(char32_t c) {
  return c < 0x300 ? 0 : utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

/// The full canonical decomposition of one code point, before any reordering; `room` holds it.
inline std::span<const utf8proc_int32_t> decompose(char32_t c, std::array<utf8proc_int32_t, 8>& room) {
  int boundary = 0;
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), room.data(),
                                             static_cast<utf8proc_ssize_t>(room.size()), UTF8PROC_DECOMPOSE, &boundary);
  if (count < 1 || count > static_cast<utf8proc_ssize_t>(room.size())) {  // not a scalar value
    room[0] = static_cast<utf8proc_int32_t>(c);
    return std::span(room).first(1);
  }
  return std::span(room).first(static_cast<std::size_t>(count));
}

/// Whether a character that tokenizers does not move or compose, since its tables are Unicode 9's, came later as a mark
/// or as a part of another; tests/text/bpe_peer.py checks every code point.
inline bool composes_later(char32_t c) {
  static constexpr char32_t ranges[][2] = {
      {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
      {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},
      {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EFF}, {0x10F46, 0x10F50},
      {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11380, 0x113FF}, {0x1145E, 0x1145E},
      {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
      {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D45}, {0x11D97, 0x11D97},
      {0x11F41, 0x11F42}, {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
      {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5D0, 0x1E5FF}};
  if (c < ranges[0][0]) return false;
  const auto* at = std::lower_bound(std::begin(ranges), std::end(ranges), c,
                                    [](const char32_t(&range)[2], char32_t code) { return range[1] < code; });
  return at != std::end(ranges) && (*at)[0] <= c;
}

/// Canonical composition (NFC) of UTF-8 as tokenizers has it: `text` itself where it is composed already, else what
/// `room` then holds.
inline std::string_view composed(std::string_view text, std::string& room) {
  // What begins below U+0300 is composed, and composes with nothing before it.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; })) return text;
  std::string out;
  const auto add = [&](std::string_view part) {
    utf8proc_uint8_t* found = nullptr;
    const auto length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(part.data()), static_cast<utf8proc_ssize_t>(part.size()),
                     &found, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (length < 0) out += part;
    else out.append(reinterpret_cast<const char*>(found), static_cast<std::size_t>(length));
    std::free(found);
  };
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto next = decode(text, at);
    if (composes_later(next.code)) {
      if (at > done) add(text.substr(done, at - done));
      out += text.substr(at, next.length);
      done = at + next.length;
    }
    at += next.length;
  }
  if (done < text.size()) add(text.substr(done));
  room = std::move(out);
  return room;
}

}  // namespace meft::text
