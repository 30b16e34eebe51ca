// Owns: the special tokens that the files next to a vocabulary name: tokenizer_config.json, special_tokens_map.json and
// added_tokens.json.
// Must not know: how text becomes tokens.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>
#include <meft/base/json.hpp>
#include <meft/text/added_tokens.hpp>
#include <meft/text/vocab.hpp>

namespace meft::text {

/// The tree of `folder`/`name`; nothing if there is no such file.
inline std::optional<nlohmann::json> read_json(const std::filesystem::path& folder, std::string_view name) {
  const std::filesystem::path path = folder / name;
  if (!is_there(path.string())) return std::nullopt;
  return parse_json(read_file(path), path.string());
}

/// What a folder says of its special tokens.
struct SpecialTokens {
  /// The token (id −1) and, for messages, the file and field that name it.
  struct Named {
    AddedToken token;
    std::string source;
  };
  /// By `bos_token`, `pad_token` …
  std::map<std::string, Named, std::less<>> named;
  std::vector<AddedToken> added;  ///< tokenizer_config.json's added_tokens_decoder, with ids, in no order
  std::optional<bool> add_bos, add_prefix_space;
  std::string tokenizer_class;  ///< without Fast; empty if not given

  /// Reads tokenizer_config.json and then special_tokens_map.json, each where it is there; the first to name a token
  /// counts. Throws Error with the field at fault.
  static SpecialTokens read(const std::filesystem::path& folder) {
    SpecialTokens out;
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
      const auto tree = read_json(folder, name);
      if (!tree) continue;
      const JsonField root(*tree, (folder / name).string());
      for (const char* key :
           {"bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token", "mask_token"}) {
        const auto field = root.find(key);
        if (!field || out.named.contains(key)) continue;
        out.named.emplace(key, Named{read_token(*field, key), (folder / name).string() + ": " + key});
      }
      if (const auto field = root.find("added_tokens_decoder")) {
        for (auto at = field->object().begin(); at != field->object().end(); ++at) {
          AddedToken token = read_token(field->at(at.key()), "");
          token.id = read_id(at.key(), field->at(at.key()));
          const auto is_special = field->at(at.key()).find("special");
          token.special = is_special && is_special->boolean();
          out.added.push_back(std::move(token));
        }
      }
      if (const auto field = root.find("add_bos_token")) out.add_bos = field->boolean();
      if (const auto field = root.find("add_prefix_space")) out.add_prefix_space = field->boolean();
      if (const auto field = root.find("tokenizer_class")) {
        out.tokenizer_class = field->string();
        if (out.tokenizer_class.ends_with("Fast")) out.tokenizer_class.resize(out.tokenizer_class.size() - 4);
      }
    }
    return out;
  }

  /// The token that one of `keys`, the first that is given, names; nullptr if none is.
  const Named* find(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const auto at = named.find(key); at != named.end()) return &at->second;
    return nullptr;
  }

 private:
  static std::int32_t read_id(std::string_view key, const JsonField& field) {
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) field.wrong("an id as its key");
    return id;
  }

  /// A string or an object with `content`; <mask> as a string takes the white space before it along.
  static AddedToken read_token(const JsonField& field, std::string_view key) {
    if (!field.value().is_object()) return {.content = field.string(), .id = -1, .lstrip = key == "mask_token"};
    auto flag = [&](std::string_view name) {
      const auto found = field.find(name);
      return found && found->boolean();
    };
    return {.content = field.at("content").string(),
            .id = -1,
            .single_word = flag("single_word"),
            .lstrip = flag("lstrip"),
            .rstrip = flag("rstrip"),
            .normalized = flag("normalized")};
  }
};

/// Adds to `vocab` the tokens that it lacks of `known` (SpecialTokens::added) and of added_tokens.json (token → id), if
/// that is there, and returns both. Throws Error for an id that is not the token's in the vocabulary, or else not the
/// next one.
inline std::vector<AddedToken> add_tokens(const std::filesystem::path& folder, const std::vector<AddedToken>& known,
                                          Vocab& vocab) {
  std::vector<std::pair<AddedToken, std::string>> tokens;  // and where it stands
  for (const AddedToken& token : known)
    tokens.emplace_back(token, (folder / "tokenizer_config.json").string() + ": added_tokens_decoder");
  if (const auto tree = read_json(folder, "added_tokens.json")) {
    const JsonField root(*tree, (folder / "added_tokens.json").string());
    for (auto at = root.object().begin(); at != root.object().end(); ++at) {
      const auto id = static_cast<std::int32_t>(root.at(at.key()).integer(0, INT32_MAX));
      tokens.emplace_back(AddedToken{.content = at.key(), .id = id, .normalized = true, .special = false},
                          (folder / "added_tokens.json").string());
    }
  }
  std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.first.id < b.first.id; });
  std::vector<AddedToken> out;
  for (auto& [token, source] : tokens) {
    const std::int32_t present = vocab.find(token.content);
    const std::int32_t expected = present >= 0 ? present : static_cast<std::int32_t>(vocab.size());
    if (token.id != expected)
      throw Error(source + ": token " + in_quotes(token.content) + " has the id " + std::to_string(token.id) +
                  ", expected " + std::to_string(expected) +
                  (present >= 0 ? ", its id in the vocabulary" : ", the next free id"));
    if (present < 0) vocab.add(token.content, source);
    out.push_back(std::move(token));
  }
  return out;
}

}  // namespace meft::text
