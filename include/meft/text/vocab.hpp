// Owns: the two-way table of tokens and ids, and reading it from vocab.txt or from a JSON object.
// Must not know: how text becomes tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>
#include <meft/base/json.hpp>
#include <meft/text/unicode.hpp>

namespace meft::text {

/// Lets a map with std::string keys be searched by a string_view.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenMap = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// The bytes of a file. Throws Error if it cannot be read or is larger than 256 MiB.
inline std::string read_file(const std::filesystem::path& path) {
  return meft::read_file(path.string(), std::size_t{256} << 20);
}

/// A token as an error message shows it: in quotes, not longer than 40 bytes.
inline std::string in_quotes(std::string_view token) {
  std::string out = "'";
  for (const char c : token.substr(0, 40)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return repaired(out) + (token.size() > 40 ? "...'" : "'");
}

/// Tokens numbered 0 … size − 1. Some ids may have none: they are never found, and their token is empty.
class Vocab {
 public:
  /// Gives `token` the next id; if it is there already, the earlier id is never found again. An empty one is never
  /// found.
  void put(std::string token) {
    if (!token.empty()) ids_.insert_or_assign(token, static_cast<std::int32_t>(tokens_.size()));
    tokens_.push_back(std::move(token));
  }

  /// The id of `token`, or −1.
  std::int32_t find(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }

  /// From now on tokens that are put are added ones: no word or piece of a text is one.
  void end_own() { own_ = static_cast<std::int32_t>(tokens_.size()); }
  /// The id of `token`, or −1, of those that are not added.
  std::int32_t find_own(std::string_view token) const {
    const auto id = find(token);
    return id < own_ ? id : -1;
  }

  /// The token of `id`. Throws Error if there is none.
  const std::string& token(std::int32_t id, Where where = Where::current()) const {
    if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size())
      throw Error("vocabulary: id " + std::to_string(id) + " is out of range: expected 0 to " +
                      std::to_string(static_cast<std::ptrdiff_t>(tokens_.size()) - 1),
                  where);
    return tokens_[static_cast<std::size_t>(id)];
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  std::size_t size() const { return tokens_.size(); }

 private:
  std::vector<std::string> tokens_;
  TokenMap ids_;
  std::int32_t own_ = INT32_MAX;  // how many are not added
};

/// Reads one token a line, numbered from 0, white space at a line's end left out. Of a token that is there twice the
/// later id counts; a blank line takes a number. Throws Error, with the line, for one that is not UTF-8.
inline Vocab read_vocab(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::size_t end = text.size();
  while (end > 0 && (text[end - 1] == '\n' || text[end - 1] == '\r')) --end;
  require(end > 0, path.string() + ": empty: expected one token a line");
  Vocab vocab;
  for (std::size_t begin = 0; begin <= end;) {
    const std::size_t stop = std::min(text.find('\n', begin), end);
    std::string_view line(text.data() + begin, stop - begin);
    if (!is_utf8(line))
      throw Error(path.string() + ": line " + std::to_string(vocab.size() + 1) + ": not UTF-8: " + in_quotes(line));
    while (!line.empty() && is_space(decode(line, previous(line, line.size())).code))
      line.remove_suffix(line.size() - previous(line, line.size()));
    vocab.put(std::string(line));
    begin = stop + 1;
  }
  return vocab;
}

/// Reads an object of token → id. Ids may be left out, as where vocab.txt had a token twice, up to half of them. Throws
/// Error, with the token, for an id that is no integer, is larger than that or is there twice.
inline Vocab read_vocab(const JsonField& field) {
  const auto& members = field.object();
  std::vector<const std::string*> tokens(2 * members.size(), nullptr);
  for (auto at = members.begin(); at != members.end(); ++at) {
    const auto& id = at.value();
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= tokens.size())
      field.at(at.key()).wrong("an id from 0 to " + std::to_string(tokens.size() - 1) + ", as there are " +
                               std::to_string(members.size()) + " tokens");
    const std::string*& slot = tokens[id.get<std::size_t>()];
    if (slot) field.at(at.key()).wrong("an id of its own: " + in_quotes(*slot) + " has it too");
    slot = &at.key();
  }
  while (!tokens.empty() && !tokens.back()) tokens.pop_back();
  Vocab vocab;
  for (const std::string* token : tokens) vocab.put(token ? *token : std::string());
  return vocab;
}

}  // namespace meft::text
