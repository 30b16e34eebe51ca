// Owns: tokens that are found in the text as they stand ([MASK], <s>), before any word is looked for.
// Must not know: which model the words go to.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/text/unicode.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  ///< only where no word character stands next to it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< is looked for in the normalized text
  bool special = true;       ///< left out when ids become text
};

/// Splits text at added tokens: the leftmost first, and of those the longest.
/// Source: Hugging Face tokenizers, AddedVocabulary.
class AddedTokens {
 public:
  /// Looks for `pattern`, the content or its normal form. An empty one is never found.
  void add(const std::string& pattern, AddedToken token) {
    if (pattern.empty()) return;
    if (!ids_.try_emplace(pattern, static_cast<std::int32_t>(tokens_.size())).second) return;
    tokens_.push_back(std::move(token));
    auto& lengths = lengths_[static_cast<unsigned char>(pattern[0])];
    const auto at = std::lower_bound(lengths.begin(), lengths.end(), pattern.size(), std::greater<>());
    if (at == lengths.end() || *at != pattern.size()) lengths.insert(at, pattern.size());
  }

  /// From now on special tokens are not found.
  void leave_special() { leaves_special_ = true; }

  /// Calls `visit(part, id)` for each part of `text` in order, id −1 for what is no added token, until it returns
  /// false. No part is empty. Returns whether it went to the end. `text` must be UTF-8.
  template <class Visit>
  bool split(std::string_view text, Visit visit) const {
    std::size_t done = 0;
    for (std::size_t i = 0; i < text.size() && !tokens_.empty();) {
      const Match match = match_at(text, i);
      if (match.length == 0) {
        ++i;
        continue;
      }
      const AddedToken& token = tokens_[static_cast<std::size_t>(match.index)];
      std::size_t begin = i, end = i + match.length;
      i = end;
      if ((token.special && leaves_special_) || (token.single_word && !stands_alone(text, begin, end))) continue;
      if (token.lstrip) begin = std::max(strip_left(text, begin), done);
      if (token.rstrip) end = strip_right(text, end);
      if (begin >= end) continue;  // the token before took it along
      if (done < begin && !visit(text.substr(done, begin - done), -1)) return false;
      if (!visit(text.substr(begin, end - begin), token.id)) return false;
      done = end;
    }
    return done >= text.size() || visit(text.substr(done), -1);
  }

 private:
  struct Match {
    std::int32_t index = -1;
    std::size_t length = 0;
  };

  Match match_at(std::string_view text, std::size_t at) const {
    for (const std::size_t length : lengths_[static_cast<unsigned char>(text[at])]) {
      if (length > text.size() - at) continue;
      if (const auto found = ids_.find(text.substr(at, length)); found != ids_.end()) return {found->second, length};
    }
    return {};
  }

  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_word(decode(text, previous(text, begin)).code)) &&
           (end == text.size() || !is_word(decode(text, end).code));
  }

  static std::size_t strip_left(std::string_view text, std::size_t begin) {
    while (begin > 0 && is_space(decode(text, previous(text, begin)).code)) begin = previous(text, begin);
    return begin;
  }

  static std::size_t strip_right(std::string_view text, std::size_t end) {
    while (end < text.size()) {
      const Decoded next = decode(text, end);
      if (!is_space(next.code)) break;
      end += next.length;
    }
    return end;
  }

  std::vector<AddedToken> tokens_;
  TokenMap ids_;                                         // pattern → place in tokens_
  std::array<std::vector<std::size_t>, 256> lengths_{};  // by first byte, longest first
  bool leaves_special_ = false;
};

}  // namespace meft::text
