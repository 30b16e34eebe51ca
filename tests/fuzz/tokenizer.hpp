// Owns: the harness of tokenizers: a folder's files, then texts through what they make.
// The input is parts between 0xFF bytes; a part's first digit says which file it is, 8 that it is the text.
#pragma once

#include "fuzz.hpp"

#include <array>
#include <meft/text/tokenizer.hpp>

namespace meft::fuzz {

/// Texts through a tokenizer.
inline void exercise(const text::Tokenizer& tokenizer, const std::string& text) {
  const auto in_vocabulary = [&](std::int32_t id) {
    return id >= 0 && static_cast<std::size_t>(id) < tokenizer.size();
  };
  const auto check = [&](const auto& encoded) {
    expect(encoded.types.size() == encoded.ids.size());
    for (const std::int32_t id : encoded.ids) expect(in_vocabulary(id));
    (void)tokenizer.decode(encoded.ids);
    (void)tokenizer.decode(encoded.ids, false);
  };
  for (const std::size_t most : {std::size_t{0}, std::size_t{2}, std::size_t{3}, std::size_t{16}, SIZE_MAX}) {
    may_refuse([&] { check(tokenizer.encode(text, most)); });
    may_refuse([&] { check(tokenizer.encode(text, std::string_view(text).substr(text.size() / 2), most)); });
  }
  (void)tokenizer.tokens(text);
  (void)tokenizer.id("ab");
  for (const std::int32_t id : {tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.unk(), tokenizer.mask()})
    expect(id == -1 || in_vocabulary(id));
}

inline constexpr const char* usual_text =
    "Hello, un-affable w\xC3\xB6rld! \xE4\xB8\xAD [MASK] ab abc abab b b  <mask> can't 123 don't\n e\xCC\x81";

inline void tokenizer(std::string_view bytes) {
  static constexpr std::array files = {
      "tokenizer.json",    "tokenizer_config.json",   "vocab.txt",  "vocab.json", "merges.txt",
      "added_tokens.json", "special_tokens_map.json", "config.json"};
  for (const char* name : files) remove(name);
  std::string text = usual_text;
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\xFF'), bytes.size());
    const std::string_view part = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    if (part.empty()) continue;
    const auto number = static_cast<std::size_t>(static_cast<unsigned char>(part[0]) - '0');
    if (number < files.size()) put(files[number], part.substr(1));
    else if (number == files.size()) text = part.substr(1);
  }
  may_refuse([&] { exercise(text::Tokenizer(std::filesystem::path(folder())), text); });
}

}  // namespace meft::fuzz
