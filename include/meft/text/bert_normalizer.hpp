// Owns: what BERT does to text before it looks for words: cleaning, spaces around ideographs, accents, lower case; and
// what is a word. The same output as Hugging Face tokenizers' BertNormalizer, in one pass.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <meft/text/bert_characters.hpp>
#include <meft/text/unicode.hpp>

namespace meft::text {

struct BertNormalizerOptions {
  bool clean_text = true;            ///< drop controls, U+0000 and U+FFFD; every white space becomes ' '
  bool handle_chinese_chars = true;  ///< a space on both sides of each ideograph
  bool strip_accents = true;         ///< NFD, then drop category Mn
  bool lowercase = true;
};

class BertNormalizer {
 public:
  explicit BertNormalizer(BertNormalizerOptions options = {}) : options_(options) {
    for (unsigned c = 0; c < 128; ++c) {
      unsigned out = options.lowercase ? static_cast<unsigned>(lower(c)) : c;
      if (options.clean_text && is_space(c) && c != 0x0B && c != 0x0C) out = ' ';
      else if (options.clean_text && (c < 0x20 || c == 0x7F)) out = dropped;
      ascii_[c] = static_cast<unsigned char>(out);
    }
  }

  /// Appends the normal form of `text`, which must be UTF-8, to `out`.
  void append(std::string_view text, std::string& out) const {
    Pending pending;
    out.reserve(out.size() + text.size());
    for (std::size_t i = 0; i < text.size();) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if (byte < 0x80) {
        ++i;
        if (ascii_[byte] == dropped) continue;
        if (!pending.empty()) flush(pending, out);
        out.push_back(static_cast<char>(ascii_[byte]));
        continue;
      }
      const Decoded next = decode(text, i);
      i += next.length;
      char32_t c = next.code;
      if (options_.clean_text) {
        if (c == replacement || bert::contains(bert::controls, c)) continue;
        if (is_space(c)) c = ' ';
      }
      if (options_.handle_chinese_chars && bert::contains(bert::ideographs, c)) {
        flush(pending, out);
        out.push_back(' ');
        put(c, out, pending);
        out.push_back(' ');
      } else {
        put(c, out, pending);
      }
    }
    flush(pending, out);
  }

 private:
  struct Mark {
    int order;
    char32_t code;
  };
  using Pending = std::vector<Mark>;  // nonstarters that wait for their canonical order
  static constexpr unsigned char dropped = 0xFF;

  void put(char32_t c, std::string& out, Pending& pending) const {
    if (!options_.strip_accents) return emit(c, out);
    std::array<utf8proc_int32_t, 8> room{static_cast<utf8proc_int32_t>(c)};
    const bool whole = c < 0x80 || (c > 0xFFFF && !bert::contains(bert::decomposable, c));
    for (const utf8proc_int32_t part : whole ? std::span<const utf8proc_int32_t>(room).first(1) : decompose(c, room)) {
      const auto code = static_cast<char32_t>(part);
      const bool accent = code >= 0x300 && bert::contains(bert::accents, code);
      int order = combining_class(code);
      if (!accent && order != 0 && !bert::contains(bert::kept_nonstarters, code)) order = 0;
      if (order == 0) flush(pending, out);
      if (accent) continue;
      if (order == 0) emit(code, out);
      else pending.push_back({order, code});
    }
  }

  void flush(Pending& pending, std::string& out) const {
    if (pending.size() > 1)
      std::stable_sort(pending.begin(), pending.end(), [](Mark a, Mark b) { return a.order < b.order; });
    for (const Mark mark : pending) emit(mark.code, out);
    pending.clear();
  }

  void emit(char32_t c, std::string& out) const {
    append_utf8(out, options_.lowercase ? lower(c) : c);
    if (options_.lowercase && c == 0x130) append_utf8(out, 0x307);
  }

  BertNormalizerOptions options_;
  std::array<unsigned char, 128> ascii_{};
};

namespace bert {

/// What a character is to BertPreTokenizer: it splits at white space, and at punctuation, which it keeps.
enum class Kind : unsigned char { word, space, punctuation };

constexpr Kind kind_above_ascii(char32_t c) {
  if (is_space(c)) return Kind::space;
  return contains(punctuation, c) ? Kind::punctuation : Kind::word;
}

inline constexpr std::array<Kind, 128> ascii_kinds = [] {
  std::array<Kind, 128> kinds{};
  for (char32_t c = 0; c < 128; ++c) {
    if (is_space(c)) kinds[c] = Kind::space;
    else if (c > 0x20 && c < 0x7F && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z'))
      kinds[c] = Kind::punctuation;
  }
  return kinds;
}();

}  // namespace bert

/// Calls `visit(word, code_points)` for each word of a normalized text, until it returns false. Returns whether it went
/// to the end. A word is a run without white space and punctuation, or one character of punctuation.
template <class Visit>
bool each_bert_word(std::string_view text, Visit visit) {
  std::size_t begin = 0, points = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const Decoded next = byte < 0x80 ? Decoded{byte, 1} : decode(text, i);
    const bert::Kind kind = byte < 0x80 ? bert::ascii_kinds[byte] : bert::kind_above_ascii(next.code);
    if (kind == bert::Kind::word) {
      ++points;
    } else {
      if (points > 0 && !visit(text.substr(begin, i - begin), points)) return false;
      if (kind == bert::Kind::punctuation && !visit(text.substr(i, next.length), std::size_t{1})) return false;
      begin = i + next.length;
      points = 0;
    }
    i += next.length;
  }
  return points == 0 || visit(text.substr(begin), points);
}

}  // namespace meft::text
