// Owns: the tokenizer that a GGUF file has in its metadata, as Hugging Face's tokenizer.json and tokenizer_config.json
// would say it. Source: llama.cpp's llama-vocab.cpp, transformers' gguf_tokenizer_mapping.py. Must not know: how text
// becomes tokens.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/json.hpp>
#include <meft/checkpoints/gguf_merges.hpp>
#include <meft/io/gguf.hpp>
#include <meft/text/unicode.hpp>

namespace meft::checkpoints {

namespace detail {

/// SentencePiece's merges, and what stands in front of them. A file has a score for each token; Gemma's say nothing of
/// merges, the order of its tokens does.
inline void add_pieces_of_gguf(const io::Gguf& file, const std::vector<std::string_view>& tokens, bool gemma,
                               nlohmann::json& out, Where where) {
  using Json = nlohmann::json;
  std::vector<double> scores;
  file.each_number(
      "tokenizer.ggml.scores", [&](double score) { scores.push_back(score); }, where);
  if (scores.size() != tokens.size())
    fail({"gguf: " + file.path() + ": tokenizer.ggml.scores has " + std::to_string(scores.size()) +
              " elements, expected " + std::to_string(tokens.size()) + ", as there are tokens",
          where});
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!std::isfinite(scores[i])) file.wrong("tokenizer.ggml.scores", "finite numbers", where);
    if (gemma) scores[i] = -static_cast<double>(i);
  }
  auto& merges = (out["model"]["merges"] = Json::array()).get_ref<Json::array_t&>();
  if (!file.count("tokenizer.ggml.merges", where))
    for (const auto& [left, right] : merges_of(tokens, scores))
      merges.push_back(Json::array({std::string(left), std::string(right)}));
  out["model"]["byte_fallback"] = out["model"]["fuse_unk"] = true;
  const Json meta{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  // The prefix stands before each part between added tokens, whether or not that begins with a space.
  const bool prefix = !gemma && file.flag("tokenizer.ggml.add_space_prefix", where).value_or(true);
  const Json spaces{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  Json decoders{meta, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  out["normalizer"] = spaces;
  out["pre_tokenizer"] = nullptr;
  if (prefix) {
    const Json prepend{{"type", "Prepend"}, {"prepend", "\u2581"}};
    out["normalizer"] = {{"type", "Sequence"}, {"normalizers", {prepend, spaces}}};
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  if (gemma) {
    const auto unknown = file.integer("tokenizer.ggml.unknown_token_id", where);
    if (unknown && *unknown >= 0 && static_cast<std::uint64_t>(*unknown) < tokens.size())
      out["model"]["unk_token"] = std::string(tokens[static_cast<std::size_t>(*unknown)]);
  }
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
}

/// What stands in front of merging: a normalizer, and where words end.
inline void add_words_of_gguf(const io::Gguf& file, nlohmann::json& out, Where where) {
  using Json = nlohmann::json;
  constexpr std::string_view key = "tokenizer.ggml.pre";
  const auto level = [](bool words) {
    return Json{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", words}};
  };
  const auto words = [&](const char* pattern) {
    const Json split{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    return Json{{"type", "Sequence"}, {"pretokenizers", {split, level(false)}}};
  };
  out["model"]["merges"] = Json::array();
  out["normalizer"] = nullptr;
  const std::string pre(file.text(key, where).value_or("default"));
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), pre) != names.end();
  };
  if (pre == "smollm") {
    const Json digits{{"type", "Digits"}, {"individual_digits", true}};
    out["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {digits, level(true)}}};
  } else if (is({"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "smaug-bpe",
                 "dbrx"})) {
    out["pre_tokenizer"] = words(
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
    if (!is({"smaug-bpe", "dbrx"})) out["model"]["ignore_merges"] = true;
  } else if (is({"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"})) {
    out["normalizer"] = {{"type", "NFC"}};
    out["pre_tokenizer"] = words(
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
  } else if (pre == "gpt-2") {
    out["pre_tokenizer"] = level(true);
  } else {
    file.wrong(key, "smollm, llama-bpe, qwen2, gpt-2 or a name of one of their kinds", where);
  }
  out["decoder"] = level(true);
}

}  // namespace detail

/// tokenizer.json of the file's tables. Throws Error for a kind of tokenizer that is not supported, and for tables that
/// are not UTF-8, have a token twice or differ in length.
inline nlohmann::json gguf_tokenizer(const io::Gguf& file, Where where = Where::current()) {
  using Json = nlohmann::json;
  const std::string what = "gguf: " + file.path() + ": ";
  const auto kind = file.text("tokenizer.ggml.model", where);
  const bool pieces = kind == "llama",
             gemma = pieces && std::string(file.text("general.architecture", where).value_or("")).starts_with("gemma");
  if (kind != "gpt2" && !pieces) file.wrong("tokenizer.ggml.model", "gpt2 or llama", where);
  std::vector<std::string_view> tokens;
  std::deque<std::string> respelled;
  const auto check = [&](std::string_view found, const char* of) {
    if (!text::is_utf8(found)) fail({what + of + ": " + show_name(found) + " is not UTF-8", where});
  };
  tokens.reserve(static_cast<std::size_t>(file.count("tokenizer.ggml.tokens", where).value_or(0)));
  file.each_text(
      "tokenizer.ggml.tokens",
      [&](std::string_view token) {
        check(token, "tokenizer.ggml.tokens");
        if (gemma && !token.empty() && token.find_first_not_of(' ') == token.npos) {
          auto& spaces = respelled.emplace_back();
          for (std::size_t i = 0; i < token.size(); ++i) spaces += "\u2581";
          token = spaces;
        }
        tokens.push_back(token);
      },
      where);
  if (tokens.empty()) fail({what + "tokenizer.ggml.tokens is missing or empty", where});

  Json out{{"added_tokens", Json::array()}, {"model", {{"type", "BPE"}}}};
  auto& vocab = (out["model"]["vocab"] = Json::object()).get_ref<Json::object_t&>();
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (!vocab.insert_or_assign(std::string(tokens[i]), i).second && !gemma)
      fail({what + "tokenizer.ggml.tokens: " + show_name(tokens[i]) + " is there twice", where});
  if (pieces) detail::add_pieces_of_gguf(file, tokens, gemma, out, where);
  else detail::add_words_of_gguf(file, out, where);
  auto& merges = out["model"]["merges"].get_ref<Json::array_t&>();
  merges.reserve(static_cast<std::size_t>(file.count("tokenizer.ggml.merges", where).value_or(0)));
  const bool merged = file.each_text(
      "tokenizer.ggml.merges",
      [&](std::string_view merge) {
        check(merge, "tokenizer.ggml.merges");
        merges.emplace_back(std::string(merge));
      },
      where);
  if (!merged && !pieces) file.wrong("tokenizer.ggml.merges", "", where);

  // Kinds of tokens: 3 is found in texts and special, 4 found alone.
  const auto kinds = file.count("tokenizer.ggml.token_type", where);
  if (kinds && *kinds != tokens.size())
    fail({what + "tokenizer.ggml.token_type has " + std::to_string(*kinds) + " elements, expected " +
              std::to_string(tokens.size()) + ", as there are tokens",
          where});
  std::size_t id = 0;
  file.each_number(
      "tokenizer.ggml.token_type",
      [&](double kind) {
        if (kind == 3 || kind == 4)
          out["added_tokens"].push_back({{"id", id},
                                         {"content", tokens[id]},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", kind == 3}});
        ++id;
      },
      where);
  const bool begun = pieces || out["model"].contains("ignore_merges");  // as Llama 3's is: where the file does not say
  Json single = Json::array(), pair = Json::array(), special = Json::object();
  const auto add = [&](const char* flag, const char* key, int type) {
    if (!file.flag(flag, where).value_or(begun && key == std::string_view("tokenizer.ggml.bos_token_id"))) return;
    const auto at = file.integer(key, where);
    if (!at || *at < 0 || static_cast<std::uint64_t>(*at) >= tokens.size()) file.wrong(key, "the id of a token", where);
    const std::string name(tokens[static_cast<std::size_t>(*at)]);
    special[name] = {{"id", name}, {"ids", {*at}}, {"tokens", {name}}};
    const Json piece{{"SpecialToken", {{"id", name}, {"type_id", type}}}};
    pair.push_back(piece);
    if (type == 0) single.push_back(piece);
  };
  for (const int text : {0, 1}) {
    add("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", text);
    const Json piece{{"Sequence", {{"id", text ? "B" : "A"}, {"type_id", text}}}};
    pair.push_back(piece);
    if (text == 0) single.push_back(piece);
    add("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", text);
  }
  out["post_processor"] = nullptr;
  if (!special.empty())
    out["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  return out;
}

/// tokenizer_config.json: the special tokens by their names there, and the longest text.
inline nlohmann::json gguf_tokenizer_config(const io::Gguf& file, Where where = Where::current()) {
  nlohmann::json out{{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"model_input_names", {"input_ids", "attention_mask"}}};
  constexpr std::array<std::pair<const char*, const char*>, 4> named{
      {{"bos_token", "tokenizer.ggml.bos_token_id"},
       {"eos_token", "tokenizer.ggml.eos_token_id"},
       {"unk_token", "tokenizer.ggml.unknown_token_id"},
       {"pad_token", "tokenizer.ggml.padding_token_id"}}};
  std::array<std::int64_t, named.size()> ids;
  for (std::size_t k = 0; k < named.size(); ++k) ids[k] = file.integer(named[k].second, where).value_or(-1);
  std::int64_t id = 0;
  file.each_text(
      "tokenizer.ggml.tokens",
      [&](std::string_view token) {
        for (std::size_t k = 0; k < named.size(); ++k)
          if (ids[k] == id) out[named[k].first] = token;
        ++id;
      },
      where);
  if (const auto architecture = file.text("general.architecture", where))
    if (const auto length = file.integer(std::string(*architecture) + ".context_length", where))
      out["model_max_length"] = *length;
  return out;
}

}  // namespace meft::checkpoints
