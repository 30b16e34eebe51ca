// Owns: what the files beside a vocabulary say of a tokenizer (tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, config.json, and tokenizer.json's added tokens and truncation), and which of them counts.
// Must not know: how text becomes tokens.
// Source: transformers 5.24, tokenization_auto.py, tokenization_utils_base.py and tokenization_utils_tokenizers.py.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
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

/// A folder's tokenizer but for its vocabulary, merges and template.
struct TokenizerFiles {
  /// Whose rules hold. For bert, mpnet, roberta and gpt2 tokenizer.json gives vocabulary, merges and added tokens, and
  /// the rest is what the class makes of tokenizer_config.json; for qwen2 there is no tokenizer.json. plain is
  /// tokenizer.json as it stands, LlamaTokenizer's too: so has it transformers 4. 5 puts Metaspace in the place of that
  /// file's normalizer where config.json's model_type is llama, and for T5, XLM-RoBERTa and CamemBERT its own steps,
  /// all but the file's charsmap: other ids where a text begins or ends with a space, and behind special tokens.
  enum class Kind { plain, bert, mpnet, roberta, gpt2, qwen2 };

  /// A token and, for messages, the file and field that give it. An id of −1: its id in the vocabulary, or the next.
  struct Given {
    AddedToken token;
    std::string source;
  };

  /// Reads the files of `folder` that are there. Throws Error with the file and field at fault, and for a
  /// tokenizer_class whose rules are not known here.
  explicit TokenizerFiles(std::filesystem::path from) : folder(std::move(from)), json(read_json(folder, json_name)) {
    read(read_json(folder, config_name), read_json(folder, "config.json"));
  }
  /// Of a tokenizer.json and a tokenizer_config.json that the file `from` has in other words.
  TokenizerFiles(std::filesystem::path from, nlohmann::json tokenizer, nlohmann::json config)
      : folder(std::move(from)), json(std::move(tokenizer)) {
    read(std::move(config), std::nullopt);
  }

  std::filesystem::path folder;
  std::optional<nlohmann::json> json;  ///< tokenizer.json
  Kind kind = Kind::plain;
  bool bpe = false, unigram = false;                 ///< not WordPiece
  std::map<std::string, Given, std::less<>> named;   ///< by `bos_token`, `pad_token` …
  std::vector<Given> added;                          ///< found in texts as they stand; in the order of their ids
  bool lowercase = true, chinese_characters = true;  ///< bert, mpnet: do_lower_case, tokenize_chinese_chars
  std::optional<bool> strip_accents;                 ///< bert, mpnet
  bool add_prefix_space = false;                     ///< roberta, gpt2, qwen2
  bool add_bos = false, add_eos = false;             ///< gpt2, qwen2 without tokenizer.json
  bool cut_left = false;                             ///< truncation_side
  bool split_special = false;                        ///< special tokens written in a text are text
  bool types = true;                                 ///< a model gets the template's token types, not zeros
  std::size_t longest = SIZE_MAX;                    ///< model_max_length
  std::optional<std::size_t> rows;                   ///< of the model's table: config.json's vocab_size

  std::string path(std::string_view name) const { return (folder / name).string(); }
  /// The root of tokenizer.json, which must be there.
  JsonField root() const { return {*json, path(json_name)}; }

  /// The token that one of `keys`, the first that is given, names; nullptr if none is.
  const Given* find(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys)
      if (const auto at = named.find(key); at != named.end()) return &at->second;
    return nullptr;
  }

 private:
  static constexpr std::string_view json_name = "tokenizer.json", config_name = "tokenizer_config.json";
  /// In the order in which those that a vocabulary lacks get ids.
  static constexpr std::array<std::string_view, 7> keys = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                           "pad_token", "cls_token", "mask_token"};

  using Names = std::initializer_list<std::string_view>;
  static bool among(std::string_view name, Names names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  void read(const std::optional<nlohmann::json>& settings, const std::optional<nlohmann::json>& model) {
    const nlohmann::json none = nlohmann::json::object();
    const JsonField config(settings ? *settings : none, path(config_name)),
        checkpoint(model ? *model : none, path("config.json"));
    find_kind(config, checkpoint);
    read_options(config, checkpoint);
    read_tokens(config);
  }

  // ---- the class

  void find_kind(const JsonField& config, const JsonField& checkpoint) {
    if (json) {
      const JsonField model = root().at("model");
      const auto type = model.find("type");
      unigram = type && type->string() == "Unigram";
      if (type && !unigram && type->string() != "WordPiece" && type->string() != "BPE")
        type->wrong("\"WordPiece\", \"BPE\" or \"Unigram\"");
      bpe = type ? type->string() == "BPE" : model.find("merges").has_value();
    } else if (!is_there(path("vocab.txt"))) {
      if (!is_there(path("vocab.json")) || !is_there(path("merges.txt")))
        fail(folder.string() + ": expected tokenizer.json, vocab.txt, or vocab.json and merges.txt in this folder");
      bpe = true;
    }
    std::optional<JsonField> type = config.find("tokenizer_class");
    if (!type) type = checkpoint.find("tokenizer_class");
    std::string name = type ? type->string() : "";
    if (name.ends_with("Fast")) name.resize(name.size() - 4);
    const auto model_field = checkpoint.find("model_type");
    const std::string model = model_field ? model_field->string() : "";

    const bool generic = name.empty() || among(name, {"PreTrainedTokenizer", "TokenizersBackend"});
    const bool like_roberta = among(model, {"roberta", "bart", "longformer"}),
               like_gpt2 = among(model, {"opt", "gpt2"});
    // transformers takes a qwen2's class for wrong, whatever it is.
    const bool like_qwen2 = name == "Qwen2Tokenizer" || model == "qwen2" || (model == "qwen3" && generic);
    types = !like_roberta && !like_gpt2 && !among(model, {"llama", "mistral", "qwen2", "qwen3"});
    auto set = [&](Kind found, bool gives_types) {
      kind = found;
      types = gives_types;
    };
    if (unigram) {
      types = among(model, {"albert", "xlnet"});
      return;
    }
    if (name == "BertJapaneseTokenizer") type->wrong("a class that splits words as BertTokenizer does");
    if (bpe) {
      if (!json && like_qwen2) set(Kind::qwen2, false);
      else if (among(name, {"RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"})) set(Kind::roberta, false);
      else if (name == "GPT2Tokenizer" && !has_words_of_its_own()) set(Kind::gpt2, false);
      else if (json && !name.empty()) return;  // plain
      else if (!generic)
        type->wrong("RobertaTokenizer, BartTokenizer, GPT2Tokenizer or Qwen2Tokenizer, as there is vocab.json");
      else if (like_roberta) set(Kind::roberta, false);
      else if (like_gpt2) set(Kind::gpt2, false);
      else if (!json && !model.empty())
        model_field->wrong("roberta, bart, gpt2, opt, qwen2 or qwen3, as there is vocab.json and no tokenizer.json");
      else if (!json) set(has_roberta_tokens() ? Kind::roberta : Kind::gpt2, false);
      return;
    }
    if (name == "DistilBertTokenizer") set(Kind::bert, false);
    else if (name == "MPNetTokenizer" || (!json && generic && model == "mpnet")) set(Kind::mpnet, false);
    else if (among(name, {"BertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "LayoutLMTokenizer",
                          "SqueezeBertTokenizer", "LxmertTokenizer"}))
      set(Kind::bert, true);
    else if (json && !name.empty()) return;  // plain
    else if (!generic && !among(name, {"ConvBertTokenizer", "RetriBertTokenizer", "DPRContextEncoderTokenizer",
                                       "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer"}))
      type->wrong("BertTokenizer or one that works like it, as there is vocab.txt");
    else if (!json ||
             among(model, {"bert", "distilbert", "electra", "mobilebert", "layoutlm", "squeezebert", "lxmert"}))
      set(Kind::bert, model != "distilbert");
  }

  /// Whether tokenizer.json ends words elsewhere than GPT-2 does, as SmolLM2's.
  bool has_words_of_its_own() const {
    if (!json) return false;
    const auto words = root().find("pre_tokenizer");
    const auto list = words ? words->find("pretokenizers") : std::nullopt;
    return list && list->array().size() > 1;
  }

  bool has_roberta_tokens() const {
    const std::string text = read_file(folder / "vocab.json");
    return text.find("\"<s>\"") != std::string::npos && text.find("\"</s>\"") != std::string::npos;
  }

  // ---- options

  void read_options(const JsonField& config, const JsonField& checkpoint) {
    auto flag = [&](std::string_view key, bool& to) {
      if (const auto field = config.find(key)) to = field->boolean();
    };
    flag("do_lower_case", lowercase);
    flag("tokenize_chinese_chars", chinese_characters);
    if (const auto field = config.find("strip_accents")) strip_accents = field->boolean();
    flag("add_prefix_space", add_prefix_space);
    flag("split_special_tokens", split_special);
    if (!json) {
      flag("add_bos_token", add_bos);
      flag("add_eos_token", add_eos);
    } else if (const auto truncation = root().find("truncation")) {
      if (const auto side = truncation->find("direction")) cut_left = side->string() == "Left";
    }
    if (const auto side = config.find("truncation_side")) {
      cut_left = side->string() == "left";
      if (!cut_left && side->string() != "right") side->wrong("\"left\" or \"right\"");
    }
    auto length = config.find("model_max_length");
    if (!length) length = config.find("max_len");
    if (length) {
      const auto& value = length->value();
      if (!value.is_number()) length->wrong("a number");
      const double most = value.get<double>();
      if (most >= 1 && most < 1e15) longest = static_cast<std::size_t>(most);  // else none
    }
    if (const auto inputs = config.find("model_input_names")) {
      types = false;
      for (std::size_t i = 0; i < inputs->array().size(); ++i) types |= inputs->at(i).string() == "token_type_ids";
    }
    const auto size = checkpoint.find("vocab_size");
    if (size && size->value().is_number_unsigned()) rows = size->value().get<std::size_t>();
  }

  // ---- tokens

  /// A string, which is special, or an object with `content`.
  static AddedToken read_token(const JsonField& field, bool special) {
    if (!field.value().is_object()) return {.content = field.string(), .id = -1};
    auto flag = [&](std::string_view name, bool otherwise) {
      const auto found = field.find(name);
      return found ? found->boolean() : otherwise;
    };
    special = flag("special", special);
    return {.content = field.at("content").string(),
            .id = -1,
            .single_word = flag("single_word", false),
            .lstrip = flag("lstrip", false),
            .rstrip = flag("rstrip", false),
            .normalized = flag("normalized", !special),
            .special = special};
  }

  static std::int32_t read_id(std::string_view key, const JsonField& field) {
    std::int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) field.wrong("an id as its key");
    return id;
  }

  void name_usual() {
    auto name = [&](std::string_view key, std::string_view content) {
      Given& one = named[std::string(key)];
      one.source = folder.string();
      one.token = AddedToken{};
      one.token.content = content;
      one.token.id = -1;
    };
    const bool bert = kind == Kind::bert, mpnet = kind == Kind::mpnet;
    if (kind == Kind::gpt2) name("bos_token", "<|endoftext|>");
    if (kind == Kind::qwen2) name("pad_token", "<|endoftext|>");
    if (kind == Kind::gpt2 || kind == Kind::qwen2)
      name("eos_token", "<|endoftext|>"), name("unk_token", "<|endoftext|>");
    if (kind == Kind::roberta || mpnet) name("bos_token", "<s>"), name("eos_token", "</s>");
    if (!bert && !mpnet && kind != Kind::roberta) return;
    name("unk_token", bert || mpnet ? "[UNK]" : "<unk>");
    name("sep_token", bert ? "[SEP]" : "</s>");
    name("pad_token", bert ? "[PAD]" : "<pad>");
    name("cls_token", bert ? "[CLS]" : "<s>");
    name("mask_token", bert ? "[MASK]" : "<mask>");
    named["mask_token"].token.lstrip = mpnet;
  }

  /// Takes over what `file` names; null takes a name away. Returns its further special tokens.
  std::vector<Given> read_named(const JsonField& file, const std::string& source, std::vector<std::string>& given) {
    std::vector<Given> more, list;
    for (auto at = file.object().begin(); at != file.object().end(); ++at) {
      const bool usual = std::find(keys.begin(), keys.end(), at.key()) != keys.end();
      if (usual && at.value().is_null()) named.erase(at.key());
      const auto field = file.find(at.key());
      if (!field) continue;
      const std::string from = source + ": " + at.key();
      if (usual) {
        AddedToken token = read_token(*field, !field->value().is_object() || !field->find("__type"));
        given.push_back(token.content);
        named.insert_or_assign(at.key(), Given{std::move(token), from});
      } else if (at.key().ends_with("_token") && at.value().is_string()) {
        more.push_back({read_token(*field, true), from});
      } else if (at.key() == "additional_special_tokens" || at.key() == "extra_special_tokens") {
        if (at.value().is_object())
          for (auto one = at.value().begin(); one != at.value().end(); ++one)
            more.push_back({read_token(field->at(one.key()), true), from});
        else
          for (std::size_t i = 0; i < field->array().size(); ++i)
            list.push_back({read_token(field->at(i), true), from});
      }
    }
    more.insert(more.end(), list.begin(), list.end());
    for (const Given& one : more) given.push_back(one.token.content);
    return more;
  }

  void read_tokens(const JsonField& config) {
    name_usual();
    std::vector<std::string> given;
    auto more = read_named(config, path(config_name), given);
    std::map<std::int32_t, Given> numbered;
    std::vector<Given> listed;  // tokenizer.json's
    if (json) {
      if (const auto list = root().find("added_tokens"))
        for (std::size_t i = 0; i < list->array().size(); ++i) {
          AddedToken token = read_token(list->at(i), false);
          token.id = static_cast<std::int32_t>(list->at(i).at("id").integer(0, INT32_MAX));
          listed.push_back({std::move(token), path(json_name) + ": added_tokens[" + std::to_string(i) + "]"});
        }
    }
    if (const auto decoder = config.find("added_tokens_decoder")) {
      for (auto at = decoder->object().begin(); at != decoder->object().end(); ++at) {
        const JsonField field = decoder->at(at.key());
        AddedToken token = read_token(field, false);
        token.id = read_id(at.key(), field);
        numbered.insert_or_assign(token.id, Given{token, path(config_name) + ": added_tokens_decoder"});
      }
    } else {  // the files of before it
      if (const auto map = read_json(folder, "special_tokens_map.json")) {
        const std::string source = path("special_tokens_map.json");
        auto others = read_named(JsonField(*map, source), source, given);
        if (more.empty()) more = std::move(others);
      }
      if (const auto tree = read_json(folder, "added_tokens.json")) {
        const std::string source = path("added_tokens.json");
        const JsonField file(*tree, source);
        for (auto at = file.object().begin(); at != file.object().end(); ++at) {
          const auto id = static_cast<std::int32_t>(file.at(at.key()).integer(0, INT32_MAX));
          const bool special = std::find(given.begin(), given.end(), at.key()) != given.end();
          Given& one = numbered[id];
          one.source = source;
          one.token = AddedToken{};
          one.token.content = at.key();
          one.token.id = id;
          one.token.normalized = !special;
          one.token.special = special;
        }
      }
      for (const Given& one : listed) numbered.insert_or_assign(one.token.id, one);
    }
    if (kind == Kind::plain)
      for (const Given& one : listed) add_or_change(one);
    for (const auto& [id, one] : numbered) add_or_change(one);
    for (const std::string_view key : keys)
      if (const Given* one = find({key})) add(*one).special = true;
    for (const Given& one : more) add(one);
  }

  /// The token of `added` with the content of `one`, which is put there if there is none.
  AddedToken& add(Given one) {
    const auto [at, fresh] = places_.try_emplace(one.token.content, static_cast<std::int32_t>(added.size()));
    if (fresh) added.push_back(std::move(one));
    return added[static_cast<std::size_t>(at->second)].token;
  }

  /// Of a token that is given twice, the later flags count.
  void add_or_change(const Given& one) {
    AddedToken& token = add(one);
    token.single_word = one.token.single_word;
    token.lstrip = one.token.lstrip;
    token.rstrip = one.token.rstrip;
    token.special |= one.token.special;
  }

  TokenMap places_;  // content → place in `added`
};

}  // namespace meft::text
