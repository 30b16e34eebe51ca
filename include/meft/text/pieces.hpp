// Owns: SentencePiece's view of text in Hugging Face's form, as Llama 2, Mistral and Gemma have it: spaces as U+2581,
// characters that a vocabulary lacks as bytes <0x0A>. Must not know: merges. Source: tokenizers' Prepend, Replace,
// Metaspace and ByteFallback; Kudo and Richardson, arXiv 1808.06226.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <meft/base/json.hpp>
#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

class Pieces {
 public:
  static constexpr std::string_view space = "\u2581";

  /// What a tokenizer.json says, where it makes spaces U+2581; nothing for another. Throws Error, with the field, for
  /// what is like it and not supported.
  static std::optional<Pieces> read(const JsonField& root) {
    const auto normalizer = root.find("normalizer"), words = root.find("pre_tokenizer");
    Pieces out;
    if (normalizer) out.read_normalizer(*normalizer);
    const bool meta = words && words->at("type").string() == "Metaspace";
    if (!out.replaces_ && !meta) return std::nullopt;
    if (words && !meta && !(out.replaces_ && splits_spaces(*words)))
      words->at("type").wrong("\"Metaspace\", or no pre-tokenizer");
    if (meta) out.read_metaspace(*words);
    if (const auto decoder = root.find("decoder")) out.joins_bytes_ = false, out.read_decoder(*decoder);
    return out;
  }

  /// The same of what a unigram tokenizer has behind its normalizer: Metaspace, perhaps WhitespaceSplit before it.
  static Pieces read_words(const JsonField& root) {
    Pieces out;
    out.cuts_ = false;
    if (const auto words = root.find("pre_tokenizer")) {
      if (words->at("type").string() == "Sequence") {
        const JsonField list = words->at("pretokenizers");
        const bool two = list.array().size() == 2;
        if (!two || list.at(0).at("type").string() != "WhitespaceSplit") list.wrong("WhitespaceSplit and Metaspace");
        out.parts_ = true;
        out.read_metaspace(list.at(1));
      } else {
        out.read_metaspace(*words);
      }
    }
    if (const auto decoder = root.find("decoder")) out.joins_bytes_ = false, out.read_decoder(*decoder);
    return out;
  }

  /// Told of what each merge makes: where none has a space behind another character, a word can end before one.
  void look_at_merge(std::string_view made) {
    for (std::size_t at = made.find(space); at != made.npos; at = made.find(space, at + 1))
      if (at > 0 && !made.substr(0, at).ends_with(space)) cuts_ = false;
  }

  /// Finds the tokens that stand for bytes, and the first characters. `whole_words`: a word may be a token without
  /// merges. `drops`: characters without a token are left out, and what was around them may merge; with `fallback` only
  /// those without bytes.
  void find_tokens(const Vocab& vocab, bool whole_words, bool drops = false, bool fallback = false) {
    for (unsigned c = 0; c < ascii_.size(); ++c) {
      const char character = static_cast<char>(c);
      ascii_[c] = vocab.find_own({&character, 1});
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      bytes_[byte] = vocab.find_own(name);
      if (bytes_[byte] < 0) fallback = false;
    }
    if (whole_words || vocab.find_own(space) < 0 || (drops && !fallback)) cuts_ = false;
  }

  /// `head`: as in Encoder.
  std::string_view normalized(std::string_view text, std::string& room, std::size_t& head) const {
    if (text.empty() || !(composes_ || prepends_ || replaces_)) return text;
    if (composes_) text = composed(text, room);
    if (prepends_ || replaces_) {
      std::string out(prepends_ ? space : std::string_view());
      if (replaces_) append_replaced(text, out);
      else out += text;
      room = std::move(out);
      text = room;
    }
    const std::size_t before = prepends_ ? space.size() : 0;
    if (head > 0) head = before + decode(text, before).length;
    return text;
  }

  /// Calls visit(word) for each word of a normalized text, until it returns false; returns whether it went to the end.
  /// What begins in the first `head` bytes is the beginning of what is encoded.
  template <class Visit>
  bool each_word(std::string_view text, std::size_t head, const Visit& visit) const {
    if (!parts_) return each_word_of(text, head > 0, visit);
    for (std::size_t at = 0, end = 0; at < text.size(); at = end) {
      const auto length = [&](std::size_t i) { return decode(text, i).length; };
      while (at < text.size() && is_space(decode(text, at).code)) at += length(at);
      for (end = at; end < text.size() && !is_space(decode(text, end).code);) end += length(end);
      if (end > at && !each_word_of(text.substr(at, end - at), at < head, visit)) return false;
    }
    return true;
  }

  /// A word's characters as tokens, before merges. `missing`: the token of a character that is none, −1: it is dropped.
  void append(std::string_view word, const Vocab& vocab, bool fallback, std::int32_t missing, bool fuse,
              std::vector<std::int32_t>& ids) const {
    bool fuses = false;
    for (std::size_t at = 0; at < word.size();) {
      const auto character = word.substr(at, text::decode(word, at).length);
      at += character.size();
      const auto first = static_cast<unsigned char>(character[0]);
      const auto id = first < ascii_.size() ? ascii_[first] : vocab.find_own(character);
      const bool known = id >= 0 || (fallback && has_bytes(character));
      if (id >= 0) ids.push_back(id);
      else if (known) append_bytes(character, ids);
      else if (missing >= 0 && !(fuses && fuse)) ids.push_back(missing);
      fuses = !known;
    }
  }
  /// Whether there are tokens for all bytes of a text, and these.
  bool has_bytes(std::string_view text) const {
    return std::all_of(text.begin(), text.end(), [&](char c) { return bytes_[static_cast<unsigned char>(c)] >= 0; });
  }
  void append_bytes(std::string_view text, std::vector<std::int32_t>& ids) const {
    for (const char c : text) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
  }

  /// Appends a token's text to `out`; of bytes it waits for those that follow.
  void append_token(std::string_view token, std::string& bytes, std::string& out) const {
    if (joins_bytes_ && token.size() == 6 && token.starts_with("<0x") && token.back() == '>') {
      const int high = digit(token[3]), low = digit(token[4]);
      if (high >= 0 && low >= 0) {
        bytes += static_cast<char>(high * 16 + low);
        return;
      }
    }
    end_bytes(bytes, out);
    for (std::size_t at = 0; at < token.size();)
      if (token.substr(at).starts_with(space)) out += ' ', at += space.size();
      else out += token[at++];
  }
  /// Bytes that are not UTF-8 are U+FFFD, each.
  void end_bytes(std::string& bytes, std::string& out) const {
    if (is_utf8(bytes)) out += bytes;
    else
      for (std::size_t i = 0; i < bytes.size(); ++i) append_utf8(out, replacement);
    bytes.clear();
  }
  /// Whether a text's first space is left out when it is made of tokens.
  bool strips() const { return strips_; }

 private:
  enum class Scheme { always, first, never };

  template <class Visit>
  bool each_word_of(std::string_view text, bool first, const Visit& visit) const {
    std::string out;
    if (meta_) {
      append_replaced(text, out);
      if ((scheme_ == Scheme::always || (scheme_ == Scheme::first && first)) && !out.starts_with(space))
        out.insert(0, space);
      text = out;
    }
    const bool each_space = meta_ && splits_;
    if (!each_space && !cuts_) return visit(text);
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = std::min(text.find(space, begin + 1), text.size());
      while (!each_space && end < text.size() && text.substr(0, end).ends_with(space))
        end = std::min(text.find(space, end + 1), text.size());
      if (!visit(text.substr(begin, end - begin))) return false;
    }
    return true;
  }

  /// Gemma's, which finds none: they are U+2581 by then.
  static bool splits_spaces(const JsonField& field) {
    if (field.at("type").string() != "Split") return false;
    const auto space = field.at("pattern").find("String");
    return space && space->string() == " ";
  }
  static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }
  static void append_replaced(std::string_view text, std::string& out) {
    for (const char c : text)
      if (c == ' ') out += space;
      else out += c;
  }
  void read_normalizer(const JsonField& field) {
    const JsonField type = field.at("type");
    if (type.string() == "Sequence") {
      const JsonField list = field.at("normalizers");
      for (std::size_t i = 0; i < list.array().size(); ++i) read_normalizer(list.at(i));
    } else if (type.string() == "Prepend") {
      const bool usual = field.at("prepend").string() == space && !prepends_ && !replaces_;
      if (!usual) field.at("prepend").wrong("U+2581, once, before it takes the place of spaces");
      prepends_ = true;
    } else if (type.string() == "Replace") {
      const bool usual = field.at("pattern").at("String").string() == " " && field.at("content").string() == space;
      if (!usual) field.at("content").wrong("U+2581 in the place of a space");
      replaces_ = true;
    } else {
      composes_ = type.string() == "NFC" && !prepends_ && !replaces_;
      if (!composes_) type.wrong("\"NFC\", or \"Prepend\" and \"Replace\", or no normalizer");
    }
  }

  void read_metaspace(const JsonField& field) {
    meta_ = true;
    if (field.at("replacement").string() != space) field.at("replacement").wrong("U+2581");
    if (const auto scheme = field.find("prepend_scheme")) {
      const auto& name = scheme->string();
      if (name != "always" && name != "first" && name != "never") scheme->wrong("\"always\", \"first\" or \"never\"");
      scheme_ = name == "always" ? Scheme::always : name == "first" ? Scheme::first : Scheme::never;
    } else if (const auto prefix = field.find("add_prefix_space")) {
      scheme_ = prefix->boolean() ? Scheme::always : Scheme::never;
    }
    if (const auto split = field.find("split")) splits_ = split->boolean();
  }

  void read_decoder(const JsonField& field) {
    const JsonField type = field.at("type");
    if (type.string() == "Sequence") {
      const JsonField list = field.at("decoders");
      for (std::size_t i = 0; i < list.array().size(); ++i) read_decoder(list.at(i));
    } else if (type.string() == "Metaspace") {
      const auto scheme = field.find("prepend_scheme");
      strips_ = !scheme || scheme->string() != "never";
    } else if (type.string() == "Strip") {
      const bool usual = field.at("content").string() == " " && field.at("stop").integer(0, 0) == 0;
      if (!usual) field.at("content").wrong("a space");
      strips_ = field.at("start").integer(0, 1) == 1;
    } else if (type.string() == "ByteFallback") {
      joins_bytes_ = true;
    } else if (type.string() != "Replace" && type.string() != "Fuse") {
      type.wrong("\"Replace\", \"ByteFallback\", \"Fuse\", \"Strip\" or \"Metaspace\"");
    }
  }

  std::array<std::int32_t, 256> bytes_{};
  std::array<std::int32_t, 128> ascii_{};
  Scheme scheme_ = Scheme::always;
  bool composes_ = false, prepends_ = false, replaces_ = false;
  bool meta_ = false, splits_ = true, strips_ = false;
  bool cuts_ = true;         // no merge goes over the beginning of a word
  bool parts_ = false;       // white space ends a word, and is in none
  bool joins_bytes_ = true;  // tokens of bytes are shown as these
};

}  // namespace meft::text
