// Byte-level BPE on small vocabularies: words, merges, files and their errors, pairs, decoding; and the choice of a
// tokenizer. bpe_peer.py compares it with Hugging Face on real ones.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <meft/text/tokenizer.hpp>

#include "folder.hpp"

namespace fs = std::filesystem;
using namespace meft;
using namespace meft::text;
using test::Folder;
using test::message_of;
using Ids = std::vector<std::int32_t>;

namespace {

void check_error(const fs::path& folder, const std::vector<std::string>& parts) {
  test::check_error(parts, [&] { Tokenizer{folder}; });
}

/// `text` with its first `from` changed into `to`.
std::string changed(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  return text.replace(at, from.size(), to);
}

const std::string vocab = R"({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "c": 6, "Ġ": 7, "ab": 8,
                              "Ġab": 9, "abc": 10, "Ġa": 11, "Ã": 12, "©": 13, "Ã©": 14, "<mask>": 15})";
const std::string merges_text = "#version: 0.2\na b\nĠ ab\nab c\nĠ a\nÃ ©\n";

std::string json() {
  return R"({"version": "1.0", "truncation": {"max_length": 3}, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "<s>", "special": true}, {"id": 1, "content": "<pad>", "special": true},
      {"id": 2, "content": "</s>", "special": true}, {"id": 3, "content": "<unk>", "special": true},
      {"id": 15, "content": "<mask>", "special": true, "lstrip": true, "normalized": false},
      {"id": 16, "content": "b b", "special": false, "single_word": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": "",
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": )" +
         vocab + R"(, "merges": ["a b", "Ġ ab", ["ab", "c"], "Ġ a", "Ã ©"]}})";
}

Bpe from_json(const std::string& content) {
  Folder folder;
  return Bpe(folder.with("tokenizer.json", content).path);
}

void check_json_error(const std::string& from, const std::string& to, const std::vector<std::string>& parts) {
  Folder folder;
  check_error(folder.with("tokenizer.json", changed(json(), from, to)).path, parts);
}

Bpe from_files(const std::string& config, const std::string& more = "", const std::string& name = "config.json") {
  Folder folder;
  folder.with("vocab.json", vocab).with("merges.txt", merges_text);
  if (!config.empty()) folder.with("tokenizer_config.json", config);
  if (!more.empty()) folder.with(name, more);
  return Bpe(folder.path);
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> out;
  each_gpt2_word(text, [&](std::string_view word) {
    out.emplace_back(word);
    return true;
  });
  return out;
}
using Words = std::vector<std::string>;

}  // namespace

TEST_CASE("bytes and characters stand for each other") {
  const ByteCharacters characters;
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    CHECK(characters.byte(characters.code(static_cast<unsigned char>(byte))) == byte);
    all.push_back(static_cast<char>(byte));
  }
  std::string back;
  characters.append_bytes(characters.shown(all), back);
  CHECK(back == all);
  CHECK(characters.shown(" a\n\xAD\xFF") == "ĠaĊŃÿ");
  CHECK(characters.byte(' ') == -1);
  CHECK(characters.byte(0x144) == -1);
  CHECK(characters.byte(0x10FFFF) == -1);
  back.clear();
  characters.append_bytes("Ġ b", back);  // a space stands for no byte
  CHECK(back == "Ġ b");
}

TEST_CASE("GPT-2's words") {
  CHECK(words_of("").empty());
  CHECK(words_of("Hello  world") == Words{"Hello", " ", " world"});
  CHECK(words_of("it's they'll I'd we've you're I'm don't") ==
        Words{"it", "'s", " they", "'ll", " I", "'d", " we", "'ve", " you", "'re", " I", "'m", " don", "'t"});
  CHECK(words_of("IT'S 'x 's 'r") == Words{"IT", "'", "S", " '", "x", " '", "s", " '", "r"});
  CHECK(words_of("''s!'s") == Words{"''", "s", "!'", "s"});
  CHECK(words_of("'l'll'") == Words{"'", "l", "'ll", "'"});
  CHECK(words_of("abc123!? x") == Words{"abc", "123", "!?", " x"});
  CHECK(words_of(" \n x\n\n y \t") == Words{" \n", " x", "\n\n", " y", " \t"});
  CHECK(words_of("\nx") == Words{"\n", "x"});
  CHECK(words_of("  ") == Words{"  "});
  CHECK(words_of("a\u00A0\u3000b") == Words{"a", "\u00A0", "\u3000", "b"});
  CHECK(words_of("é中 ½Ⅷ٣ \u0301👍") == Words{"é中", " ½Ⅷ٣", " \u0301👍"});
  CHECK(words_of("x\U00016D40\U00016D70") == Words{"x\U00016D40", "\U00016D70"});  // Unicode 16
  int seen = 0;
  CHECK_FALSE(each_gpt2_word("a b c", [&](std::string_view) { return ++seen < 2; }));
  CHECK(seen == 2);
}

TEST_CASE("Llama 3's and Qwen2's words, and digits apart") {
  const auto words = [](std::string_view text, std::size_t digits = 3) {
    Words out;
    CHECK(each_llama3_word(text, digits, [&](std::string_view word) {
      out.emplace_back(word);
      return true;
    }));
    return out;
  };
  CHECK(words("").empty());
  CHECK(words("Hello  world!") == Words{"Hello", " ", " world", "!"});
  CHECK(words("IT'S 'x 'Re'LL\n don't'\u017fa") ==
        Words{"IT", "'S", " '", "x", " '", "Re", "'LL", "\n", " don", "'t", "'\u017f", "a"});
  CHECK(words("1234567 8") == Words{"123", "456", "7", " ", "8"});
  CHECK(words("1234 8", 1) == Words{"1", "2", "3", "4", " ", "8"});
  CHECK(words("a.b\tc(d") == Words{"a", ".b", "\tc", "(d"});
  CHECK(words(" !?\r\n\nx \n \n  y") == Words{" !?\r\n\n", "x", " \n \n", " ", " y"});
  CHECK(words("  ") == Words{"  "});
  CHECK(words("\n\n  ") == Words{"\n\n", "  "});
  CHECK(words("a\u00A0\u3000b \u00A0!") == Words{"a", "\u00A0", "\u3000b", " ", "\u00A0", "!"});
  Words parts;
  const auto take = [&](std::string_view part) {
    parts.emplace_back(part);
    return parts.size() < 4;
  };
  CHECK_FALSE(each_part_by_digits("a  12½b", false, take));
  CHECK(parts == Words{"a  ", "1", "2", "½"});
  parts.clear();
  CHECK(each_part_by_digits("12½b", true, take));
  CHECK(parts == Words{"12½", "b"});
  std::string room;
  CHECK(composed("e\u0301 \u1112\u1161\u11ab caf\u00e9", room) == "\u00e9 \ud55c caf\u00e9");
  CHECK(composed("caf\u00e9", room).data() != room.data());
}

TEST_CASE("merges: the earliest first, then the leftmost; long words as short ones") {
  Merges merges;
  Ids none{1, 2};
  merges.apply(none, 0);
  CHECK(none == Ids{1, 2});
  merges.add(2, 3, 10);
  merges.add(1, 2, 11);
  merges.add(1, 10, 12);
  merges.add(4, 4, 5);
  merges.add(5, 5, 4);
  auto merged = [&](Ids ids) {
    merges.apply(ids, 0);
    return ids;
  };
  CHECK(merged({}).empty());
  CHECK(merged({1}) == Ids{1});
  CHECK(merged({1, 2, 3}) == Ids{12});
  CHECK(merged({1, 2, 1, 2, 3}) == Ids{11, 12});
  CHECK(merged({4, 4, 4}) == Ids{5, 4});
  CHECK(merged({-1, INT32_MAX}) == Ids{-1, INT32_MAX});
  for (std::size_t count = 1; count < 90; ++count) {  // a merge that makes its own parts again
    Ids ids(count, 4);
    CHECK(merged(ids) == merged(merged(ids)));
  }
  merges.add(1, 2, 20);  // of the same pair the last one counts
  CHECK(merged({1, 2}) == Ids{20});
  CHECK(merged({1, 2, 3}) == Ids{12});
  Ids tail{1, 2, 1, 2};
  merges.apply(tail, 2);
  CHECK(tail == Ids{1, 2, 20});
}

TEST_CASE("merges: every place of words short and long, against merging one pair after the other") {
  std::uint32_t state = 7;
  const auto draw = [&](std::uint32_t below) { return (state = state * 1664525 + 1013904223) / 65536 % below; };
  for (int round = 0; round < 40; ++round) {
    Merges merges;
    std::vector<std::array<std::int32_t, 3>> list;  // earlier ones first
    for (std::int32_t made = 4; made < 24; ++made) {
      const auto below = static_cast<std::uint32_t>(made);
      const auto left = static_cast<std::int32_t>(draw(below)), right = static_cast<std::int32_t>(draw(below));
      const auto same = [&](const auto& m) { return m[0] == left && m[1] == right; };
      if (std::any_of(list.begin(), list.end(), same)) continue;
      list.push_back({left, right, made});
      merges.add(left, right, made);
    }
    for (std::size_t length = 2; length < 70; length += 1 + length / 12) {
      Ids word(length);
      for (auto& id : word) id = static_cast<std::int32_t>(draw(4));
      Ids expected = word;
      for (bool merged = true; merged;) {
        merged = false;
        for (const auto& [left, right, made] : list) {
          for (std::size_t i = 0; i + 1 < expected.size() && !merged; ++i) {
            if (expected[i] != left || expected[i + 1] != right) continue;
            expected[i] = made;
            expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            merged = true;
          }
          if (merged) break;
        }
      }
      merges.apply(word, 0);
      CHECK(word == expected);
    }
  }
}

TEST_CASE("tokenizer.json as RoBERTa's") {
  const Bpe t = from_json(json());
  CHECK(t.size() == 17);
  CHECK(Ids{t.bos(), t.pad(), t.eos(), t.unk(), t.mask()} == Ids{0, 1, 2, 3, 15});
  CHECK(t.id("Ġab") == 9);
  CHECK(t.id("nothing") == 3);
  CHECK(t.token(16) == "b b");
  CHECK(message_of([&] { t.token(17); }) == "vocabulary: id 17 is out of range: expected 0 to 16");

  CHECK(t.encode("abc ab").ids == Ids{0, 10, 9, 2});
  CHECK(t.encode("abc ab").types == Ids{0, 0, 0, 0});
  CHECK(t.encode("").ids == Ids{0, 2});
  CHECK(t.tokens("").empty());
  CHECK(t.tokens("abé x") == Ids{8, 14, 7, 3});
  CHECK(t.tokens("a  <mask> b</s><s>") == Ids{4, 15, 7, 5, 2, 0});  // lstrip
  CHECK(t.tokens("b b ab b") == Ids{16, 9, 7, 5});                  // single_word
  CHECK(t.encode("\xC3").ids == Ids{0, 3, 3, 3, 2});                // U+FFFD: three unknown bytes
  CHECK(t.encode("a\xFF<ma\x80sk>", 1 << 20).ids.size() == 15);
  CHECK(t.encode("a a a a", 4).ids == Ids{0, 4, 11, 2});
  CHECK(t.encode("a", 2).ids == Ids{0, 2});
  CHECK(message_of([&] { t.encode("a", 1); }) == "encode: max_length is 1, expected at least 2");

  CHECK_FALSE(t.encode("a a", 4).cut);
  CHECK(t.encode("a a a", 4).cut);
  CHECK_FALSE(t.encode("a", "b c", 8).cut);
  CHECK(t.encode("a", "b c", 7).cut);

  const Encoding pair = t.encode("a", "b");
  CHECK(pair.ids == Ids{0, 4, 2, 2, 5, 2});
  CHECK(pair.types == Ids(6, 0));
  CHECK(t.encode("", "").ids == Ids{0, 2, 2, 2});
  CHECK(t.encode("aaaaaa", "b", 7).ids == Ids{0, 4, 4, 2, 2, 5, 2});
  CHECK(t.encode("b", "aaaaaa", 7).ids == Ids{0, 5, 2, 2, 4, 4, 2});
  CHECK(message_of([&] { t.encode("a", "a", 3); }) == "encode: max_length is 3, expected at least 4 for a pair");

  const Bpe prefixed = from_json(changed(json(), "\"add_prefix_space\": false, ", ""));  // true if not given
  CHECK(prefixed.tokens("ab") == Ids{9});
  CHECK(prefixed.tokens(" ab") == Ids{9});
  CHECK(prefixed.tokens("ab<mask>ab") == Ids{9, 15, 9});
  CHECK(prefixed.tokens("").empty());
  CHECK(from_json(changed(json(), "\"use_regex\": true", "\"use_regex\": false")).tokens("ab ab") == Ids{8, 9});
  CHECK(from_json(changed(json(), "\"fuse_unk\": false", "\"fuse_unk\": true")).tokens("xyz") == Ids{3});
  const Bpe fused = from_json(changed(json(), "\"fuse_unk\": false", "\"fuse_unk\": true"));
  CHECK(fused.tokens("xxaxxx") == Ids{3, 4, 3});  // a run of unknown bytes is one
  CHECK(fused.tokens("xx yy") == Ids{3, 7, 3});
  CHECK(from_json(json()).tokens("xxaxxx") == Ids{3, 3, 4, 3, 3, 3});
  CHECK(from_json(changed(json(), "\"unk_token\": \"<unk>\"", "\"unk_token\": null")).tokens("axb") == Ids{8});
  const std::string whole = changed(json(), "\"fuse_unk\": false", "\"ignore_merges\": true");
  CHECK(from_json(changed(whole, "\"a b\", ", "")).tokens("ab abab") == Ids{8, 11, 5, 4, 5});
}

TEST_CASE("post-processors") {
  const std::string roberta =
      R"({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true})";
  const Bpe none = from_json(changed(json(), roberta, "null"));
  CHECK(none.encode("a").ids == Ids{4});
  CHECK(none.encode("a", 0).ids.empty());
  CHECK(none.encode("a", "b").ids == Ids{4, 5});
  CHECK(none.encode("a", "b").types == Ids{0, 1});
  CHECK(none.bos() == 0);
  CHECK(none.eos() == 2);
  const std::string made = R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 1}},
             {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"x": {"id": "x", "ids": [2, 15], "tokens": ["</s>", "<mask>"]}}}]})";
  const Bpe t = from_json(changed(json(), roberta, made));
  CHECK(t.encode("a").ids == Ids{2, 15, 4});
  CHECK(t.encode("a").types == Ids{0, 0, 1});
  CHECK(t.encode("a", "b").ids == Ids{4, 2, 15, 5});
  CHECK(t.encode("a", "b").types == Ids{0, 1, 1, 0});
  CHECK(t.bos() == 2);
  CHECK(t.eos() == 2);

  auto error = [&](const std::string& from, const std::string& to, const std::vector<std::string>& parts) {
    check_json_error(roberta, changed(made, from, to), parts);
  };
  error("[2, 15]", "[2, 17]", {"special_tokens.x.ids[1] is 17, expected an integer from 0 to 16"});
  error("[2, 15]", "[-2]", {"special_tokens.x.ids[0] is -2"});
  error("\"x\": {\"id\"", "\"y\": {\"id\"", {"special_tokens has no member \"x\""});
  error("\"id\": \"B\"", "\"id\": \"C\"", {"pair[2].Sequence.id is \"C\", expected \"A\" or \"B\""});
  error("\"id\": \"B\"", "\"id\": \"A\"", {"pair is an array of 3, expected the texts AB"});
  error("\"type_id\": 1}}],", "\"type_id\": 2}}],", {"single[1].Sequence.type_id is 2"});
  error("\"ByteLevel\"", "\"Other\"", {"processors[0].type is \"Other\""});
  error("{\"type\": \"ByteLevel\"}", roberta, {"processors[1].type is \"TemplateProcessing\", expected \"ByteLevel\""});
  check_json_error("[\"</s>\", 2]", "[\"</s>\", 3]", {"post_processor.sep[1] is 3, expected an integer from 2 to 2"});
  check_json_error("[\"</s>\", 2]", "[\"</t>\", 2]", {"post_processor.sep[0] is \"</t>\", expected a token"});
  check_json_error("[\"</s>\", 2]", "[\"</s>\"]", {"post_processor.sep is an array of 1"});
}

TEST_CASE("vocab.json and merges.txt") {
  for (const std::string config : {"{\"tokenizer_class\": \"RobertaTokenizer\"}",
                                   "{\"tokenizer_class\": \"BartTokenizerFast\", \"add_bos_token\": true}", ""}) {
    const Bpe t = from_files(config);
    CHECK(t.encode("ab <mask>").ids == Ids{0, 8, 7, 15, 2});
    CHECK(t.encode("a", "b").ids == Ids{0, 4, 2, 2, 5, 2});
    CHECK(Ids{t.bos(), t.pad(), t.eos(), t.unk(), t.mask()} == Ids{0, 1, 2, 3, 15});
    CHECK(t.tokens("ax") == Ids{4});  // without tokenizer.json nothing stands for an unknown byte
  }
  const std::string opt =
      R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true, "bos_token": {"content": "</s>"},
    "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"})";
  const Bpe t = from_files(opt);
  CHECK(t.encode("ab</s>").ids == Ids{2, 8, 2});
  CHECK(t.encode("a", "b").ids == Ids{2, 4, 2, 5});
  CHECK(t.encode("a", "b").types == Ids{0, 0, 0, 0});  // GPT-2's class gives no types
  CHECK(t.encode("aaa", 2).ids == Ids{2, 4});
  CHECK(Ids{t.bos(), t.pad(), t.eos(), t.unk(), t.mask()} == Ids{2, 1, 2, 2, -1});
  CHECK(from_files(changed(opt, "true", "false")).encode("ab").ids == Ids{8});
  CHECK(from_files(changed(opt, "true", "true, \"add_prefix_space\": true")).encode("ab").ids == Ids{2, 9});
  const std::string named = changed(opt, "\"tokenizer_class\": \"GPT2Tokenizer\", \"add_bos_token\": true, ", "");
  CHECK(from_files(named, "{\"model_type\": \"opt\"}").encode("ab").ids == Ids{8});  // no add_bos_token
  CHECK(from_files(named, "{\"model_type\": \"gpt2\"}").encode("ab").ids == Ids{8});
  CHECK(from_files(named, "{\"model_type\": \"bart\"}").encode("ab").ids == Ids{0, 8, 2});  // cls, not bos
  const Bpe gpt2 = from_files("{\"tokenizer_class\": \"GPT2Tokenizer\"}");
  CHECK(gpt2.encode("ax").ids == Ids{4});
  CHECK(Ids{gpt2.bos(), gpt2.pad(), gpt2.eos(), gpt2.unk(), gpt2.mask()} == Ids{16, -1, 16, 16, -1});
  CHECK(gpt2.tokens("a<|endoftext|>") == Ids{4, 16});
  const Bpe full = from_files("{\"tokenizer_class\": \"GPT2Tokenizer\"}", "{\"vocab_size\": 16}");
  CHECK(Ids{full.bos(), full.pad(), full.eos(), full.unk(), full.mask()} == Ids(5, -1));
  CHECK(full.id("nothing") == -1);

  const Bpe more = from_files("", "{\"b b\": 17, \"c\": 6, \"<x>\": 16}", "added_tokens.json");
  CHECK(more.size() == 18);
  CHECK(more.tokens("b b<x>c") == Ids{17, 16, 6});
  const Bpe map = from_files("", R"({"mask_token": {"content": "c", "rstrip": true}})", "special_tokens_map.json");
  CHECK(map.mask() == 6);
  CHECK(map.tokens("ac  b") == Ids{4, 6, 5});
  const Bpe listed =
      from_files(R"({"added_tokens_decoder": {"15": {"content": "<mask>", "lstrip": false, "special": true},
    "16": {"content": "<y>", "rstrip": true}}})");
  CHECK(listed.tokens("a <mask><y> a") == Ids{4, 7, 15, 16, 4});
  Folder windows;
  windows.with("vocab.json", vocab).with("merges.txt", changed(merges_text, "a b\n", "a b\r\n") + "\r\n\r\n");
  CHECK(Bpe(windows.path).tokens("abc") == Ids{10});
}

TEST_CASE("vocab.json and merges.txt as Qwen2's, and of models that have none") {
  const auto made = [](const std::string& config, const std::string& model, const std::string& first = "a") {
    Folder folder;
    folder.with("vocab.json", changed(R"({"a": 0, "1": 1, "2": 2, "12": 3, "Ã": 4, "©": 5, "Ã©": 6, "e": 7, "Ì": 8,
                                          "ģ": 9})",
                                      "\"a\"", "\"" + first + "\""));
    folder.with("merges.txt", "1 2\nÃ ©\n").with("config.json", model);
    return Bpe(folder.with("tokenizer_config.json", config).path);
  };
  const std::string named = R"({"tokenizer_class": "Qwen2Tokenizer"})", none = "{}";
  for (const auto& [config, model] : {std::pair{named, none},
                                      {named, R"({"model_type": "llama"})"},
                                      {none, R"({"model_type": "qwen2"})"},
                                      {none, R"({"model_type": "qwen3"})"},
                                      {R"({"tokenizer_class": "GPT2Tokenizer"})", R"({"model_type": "qwen2"})"}}) {
    const Bpe t = made(config, model);
    CHECK(t.encode("a12e\u0301<|endoftext|>").ids == Ids{0, 1, 2, 6, 10});
    CHECK(t.encode("a", "a").types == Ids{0, 0});
    CHECK(Ids{t.bos(), t.pad(), t.eos(), t.unk(), t.mask()} == Ids{-1, 10, 10, 10, -1});
  }
  CHECK(made(R"({"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": true})", none, "Ġa").tokens("12") ==
        Ids{1, 2});
  const Bpe gpt2 = made(R"({"tokenizer_class": "GPT2Tokenizer"})", R"({"model_type": "qwen3"})");
  CHECK(gpt2.encode("a12e\u0301").ids == Ids{0, 3, 7, 8, 9});
  for (const std::string type : {"llama", "mistral", "modernbert", "gemma3_text"})
    CHECK(message_of([&] { made(none, "{\"model_type\": \"" + type + "\"}"); })
              .find("config.json: model_type is \"" + type +
                    "\", expected roberta, bart, gpt2, opt, qwen2 or qwen3, as there is vocab.json and no "
                    "tokenizer.json") != std::string::npos);
}

// As in transformers 5.24, whose classes take vocabulary, merges and post-processor of it.
TEST_CASE("of tokenizer.json RoBERTa's and GPT-2's classes take neither normalizer nor pre-tokenizer") {
  const std::string byte = R"({"type": "ByteLevel", "add_prefix_space": true})",
                    digits = R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, )" + byte + "]}";
  const auto made = [](const std::string& type, const std::string& normalizer, const std::string& words) {
    Folder folder;
    folder.with("tokenizer_config.json", "{\"tokenizer_class\": \"" + type + "\"}");
    folder.with("tokenizer.json", R"({"added_tokens": [], "normalizer": )" + normalizer + R"(, "pre_tokenizer": )" +
                                      words + R"(, "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "1": 2,
      "Ġ": 3, "Ġ1": 4, "Ã": 5, "©": 6, "Ã©": 7, "e": 8, "Ì": 9, "ģ": 10}, "merges": ["Ġ 1", "Ã ©"]}})");
    return Bpe(folder.path);
  };
  const std::string nfc = R"({"type": "NFC"})";
  for (const char* type : {"RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"}) {
    CHECK(made(type, nfc, byte).tokens("e\u0301 1") == Ids{8, 9, 10, 4});
    CHECK(made(type, nfc, digits).tokens("e\u0301 1") == Ids{8, 9, 10, 4});
    CHECK(made(type, R"({"type": "NFD"})", "null").tokens("\u00e9 1") == Ids{7, 4});
  }
  CHECK(made("GPT2Tokenizer", nfc, byte).tokens("e\u0301 1") == Ids{8, 9, 10, 4});
  CHECK(made("GPT2Tokenizer", nfc, digits).tokens("e\u0301 1") == Ids{3, 7, 3, 4});  // as SmolLM2's file says
}

TEST_CASE("which file counts, as in transformers") {
  const std::string path = "golden/tokenizers.json";
  const auto cases = parse_json(read_file(path), path);
  CHECK(cases.size() > 40);
  for (const auto& one : cases) {
    INFO(one.at("name"));
    Folder folder;
    for (const auto& [name, content] : one.at("files").items()) folder.with(name, content.get<std::string>());
    const Tokenizer t(folder.path);
    CHECK(t.longest() == (one.at("longest").is_null() ? SIZE_MAX : one.at("longest").get<std::size_t>()));
    for (const auto& text : one.at("texts")) {
      INFO(text);
      const std::size_t length = text.value("max_length", std::size_t{1} << 20);
      const std::string first = text.at("text");
      const Encoding found =
          text.contains("pair") ? t.encode(first, text.at("pair").get<std::string>(), length) : t.encode(first, length);
      CHECK(found.ids == text.at("ids").get<Ids>());
      CHECK(found.types == text.at("types").get<Ids>());
      const Encoding whole = text.contains("pair") ? t.encode(first, text.at("pair").get<std::string>(), 1 << 20)
                                                   : t.encode(first, 1 << 20);
      CHECK(found.cut == (whole.ids.size() > length));
    }
  }
}

TEST_CASE("special tokens that a vocabulary lacks") {
  const std::string list = "[UNK]\n[CLS]\n[SEP]\na\n";
  Folder open, full;
  const Tokenizer free(open.with("vocab.txt", list).path);
  CHECK(free.encode("[MASK][PAD] a").ids == Ids{1, 5, 4, 3, 2});  // the next ids, in transformers' order
  CHECK(free.size() == 6);
  const Tokenizer none(full.with("vocab.txt", list).with("config.json", "{\"vocab_size\": 4}").path);
  CHECK(none.encode("[MASK][PAD] a").ids == Ids{1, 0, 0, 0, 0, 0, 0, 3, 2});  // the model has no row for them
  CHECK(none.size() == 4);
  CHECK(Ids{none.pad(), none.mask(), none.unk()} == Ids{-1, -1, 0});
  full.with("config.json", "{\"vocab_size\": 5}");
  CHECK(Tokenizer(full.path).pad() == 4);
  CHECK(Tokenizer(full.path).mask() == -1);

  Folder unknown;
  const Tokenizer known(unknown.with("vocab.txt", "[CLS]\n[SEP]\na\n").path);
  CHECK(known.encode("a").ids == Ids{0, 2, 1});
  CHECK(message_of([&] { known.encode("a b"); }) ==
        (unknown.path / "vocab.txt").string() + ": no token for the word 'b', and none that stands for unknown words");
  Folder padded;
  padded.with("tokenizer.json", json()).with("tokenizer_config.json", "{\"pad_token\": \"[PAD]\"}");
  CHECK(Tokenizer(padded.path).tokens("a[PAD]") == Ids{4, 17});
  padded.with("config.json", "{\"vocab_size\": 17}");
  CHECK(Tokenizer(padded.path).tokens("a[PAD]") == Ids{4, 3, 3, 3, 3, 3});
  Folder bare;
  bare.with("vocab.json", vocab).with("merges.txt", merges_text).with("config.json", "{\"vocab_size\": 16}");
  bare.with("tokenizer_config.json", "{\"tokenizer_class\": \"GPT2Tokenizer\", \"add_bos_token\": true}");
  check_error(bare.path, {"vocab.json: special token '<|endoftext|>' (bos_token) is missing among 16 tokens"});
  Folder classes;
  check_error(classes.with("vocab.txt", list).with("tokenizer_config.json", R"({"cls_token": null})").path,
              {"no cls_token, which stands around every text"});
  check_error(classes.with("tokenizer_config.json", R"({"tokenizer_class": "BertJapaneseTokenizer"})").path,
              {"tokenizer_class is \"BertJapaneseTokenizer\", expected a class that splits words as BertTokenizer"});
  check_error(classes.with("tokenizer_config.json", R"({"tokenizer_class": "SplinterTokenizer"})").path,
              {"tokenizer_class is \"SplinterTokenizer\", expected BertTokenizer or one that works like it"});
  check_error(classes.with("tokenizer_config.json", R"({"truncation_side": "middle"})").path,
              {"truncation_side is \"middle\", expected \"left\" or \"right\""});
  check_error(classes.with("tokenizer_config.json", R"({"model_max_length": "512"})").path,
              {"model_max_length is \"512\", expected a number"});
  check_error(classes.with("tokenizer_config.json", R"({"strip_accents": 1})").path, {"strip_accents is 1"});
}

TEST_CASE("decoding") {
  const Bpe t = from_json(json());
  const Ids ids{0, 9, 14, 15, 16, 2};
  CHECK(t.decode(ids) == " abéb b");
  CHECK(t.decode(ids, false) == "<s> abé<mask>b b</s>");
  CHECK(t.decode(Ids{12}) == "\uFFFD");  // half a character
  CHECK(t.decode(Ids{12, 4, 13}) == "\uFFFDa\uFFFD");
  CHECK(t.decode(Ids{}).empty());
  CHECK(message_of([&] { t.decode(Ids{17}); }) == "vocabulary: id 17 is out of range: expected 0 to 16");
  CHECK(message_of([&] { t.decode(Ids{-1}); }) == "vocabulary: id -1 is out of range: expected 0 to 16");

  // With a token for each byte, any UTF-8 text comes back.
  const ByteCharacters characters;
  nlohmann::json bytes;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    bytes[characters.shown({&c, 1})] = byte;
  }
  Folder folder;
  folder.with("vocab.json", bytes.dump()).with("merges.txt", "");
  const Bpe all(folder.with("tokenizer_config.json", "{\"tokenizer_class\": \"GPT2Tokenizer\"}").path);
  for (const std::string text :
       {"", " ", "a  b\n\t c", "It's 3.14 – naïve café 中文 👍🏽 \u0301 \u2028x", "\x01\x7F"}) {
    CHECK(all.decode(all.tokens(text)) == text);
    CHECK(all.tokens(text).size() == text.size());
  }
  CHECK(all.decode(all.tokens("a\xFFz")) == "a\uFFFDz");
}

TEST_CASE("a word of a megabyte, copies and threads") {
  const Bpe original = from_json(json());
  const Bpe copy = original;  // NOLINT: a copy has tables of its own
  std::string word;
  while (word.size() < (1 << 20)) word += "abcaab";
  const Ids ids = copy.tokens(word);  // in quadratic time this would not end
  CHECK(ids.size() == word.size() / 2);
  CHECK(Ids(ids.begin(), ids.begin() + 6) == Ids{10, 4, 8, 10, 4, 8});
  CHECK(copy.decode(ids) == word);
  CHECK(copy.encode(std::string(1 << 20, ' '), 100).ids.size() == 100);
  CHECK(copy.tokens(std::string(1 << 20, '\'')).size() == 1 << 20);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) right += copy.encode("abc ab é").ids == Ids{0, 10, 9, 7, 14, 2};
    });
  for (auto& thread : threads) thread.join();
  CHECK(right == 800);
}

TEST_CASE("pieces: spaces are characters, and what is no token is bytes or unknown") {
  Folder folder;
  folder.with("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  folder.with("tokenizer.json", R"({
    "added_tokens": [{"id": 1, "content": "<s>", "normalized": false, "special": true}],
    "post_processor": null, "pre_tokenizer": null,
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "merges": ["▁ a", "▁a b"],
              "vocab": {"<unk>": 0, "<s>": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "a": 5, "b": 6, "▁a": 7, "▁ab": 8}}})");
  const Tokenizer tokenizer{folder.path};
  CHECK(tokenizer.encode("ab é a xx  b").ids == Ids{8, 4, 2, 3, 7, 4, 0, 4, 4, 6});
  CHECK(tokenizer.decode(Ids{8, 4, 2, 3, 7, 2, 5}) == "ab é a\uFFFDa");
  CHECK(tokenizer.encode("").ids.empty());
  // As the file says, of which transformers 5 does not read it: before what begins with a space, and before each part.
  CHECK(tokenizer.encode(" ab").ids == Ids{4, 8});
  CHECK(tokenizer.encode("ab<s>ab").ids == Ids{8, 1, 8});
  CHECK(tokenizer.encode("ab <s> ab").ids == Ids{8, 4, 1, 4, 8});
}

// Ids of tokenizers 0.23.
TEST_CASE("pieces: each step of a normalizer counts; what is dropped keeps nothing apart") {
  const std::string compose = R"({"type": "NFC"})", prepend = R"({"type": "Prepend", "prepend": "\u2581"})",
                    replace = R"({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})";
  const auto list = [](const std::string& steps) { return R"({"type": "Sequence", "normalizers": [)" + steps + "]}"; };
  const auto meta = [](const std::string& scheme) {
    return R"({"type": "Metaspace", "replacement": "\u2581", "split": false, "prepend_scheme": ")" + scheme + "\"}";
  };
  const auto text_of = [](const std::string& normalizer, const std::string& words, const std::string& unknown) {
    return R"({"added_tokens": [], "post_processor": null, "decoder": null, "normalizer": )" + normalizer +
           R"(, "pre_tokenizer": )" + words + R"(, "model": {"type": "BPE", "unk_token": )" + unknown +
           R"(, "merges": ["\u2581 \u2581"], "vocab": {"<unk>": 0, "\u2581": 1, "a": 2, "e": 3, "\u0301": 4,
           "\u00e9": 5, "\u2581\u2581": 6}}})";
  };
  const auto made = [&](const std::string& normalizer, const std::string& words, const char* unknown = "\"<unk>\"") {
    Folder folder;
    return Bpe(folder.with("tokenizer.json", text_of(normalizer, words, unknown)).path);
  };
  const std::string none = "null", apart = "e\u0301 a";
  CHECK(made(list(compose + ", " + replace), none).tokens(apart) == Ids{5, 1, 2});
  CHECK(made(list(compose + ", " + prepend + ", " + replace), none).tokens(apart) == Ids{1, 5, 1, 2});
  CHECK(made(compose, meta("first")).tokens(apart) == Ids{1, 5, 1, 2});
  CHECK(made(list(compose + ", " + prepend), meta("never")).tokens(apart) == Ids{1, 5, 1, 2});
  CHECK(made(prepend, meta("never")).tokens("a a") == Ids{1, 2, 1, 2});
  CHECK(made(prepend, meta("always")).tokens(" a") == Ids{6, 2});
  CHECK(made(prepend, meta("always")).tokens("a") == Ids{1, 2});
  CHECK(made(prepend, meta("never")).tokens("").empty());
  CHECK(made(list(prepend + ", " + replace), none, "null").tokens("? ?a") == Ids{6, 2});
  CHECK(made(list(prepend + ", " + replace), none).tokens("? ?a") == Ids{1, 0, 1, 0, 2});
  const auto refused = [&](const std::string& normalizer, const std::string& part) {
    Folder wrong;
    check_error(wrong.with("tokenizer.json", text_of(normalizer, meta("first"), "null")).path, {part});
  };
  refused(list(prepend + ", " + prepend), "normalizer.normalizers[1].prepend is");
  refused(list(prepend + ", " + compose), "normalizer.normalizers[1].type is \"NFC\"");
}

// As tokenizers 0.23 has them apart.
TEST_CASE("an added token is no word or character of the model's own") {
  const auto with = [](const std::string& content) {
    return from_json(changed(changed(json(), "\"fuse_unk\": false", "\"ignore_merges\": true"), "\"b b\"", content));
  };
  CHECK(with("\"cab\"").tokens("cab 1cab") == Ids{16, 7, 3, 6, 8});
  CHECK(with("\"d\"").tokens("d da") == Ids{16, 7, 3, 4});
  CHECK(with("\"d\"").id("d") == 16);
  Folder pieces, unigram;
  const std::string around = R"("post_processor": null, "decoder": null,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, "added_tokens": [
      {"id": 4, "content": "é", "single_word": true}, {"id": 5, "content": "d", "single_word": true},
      {"id": 6, "content": "▁da", "single_word": true, "normalized": false}], )";
  pieces.with("tokenizer.json", "{" + around + R"("model": {"type": "BPE", "unk_token": "<unk>", "ignore_merges": true,
    "merges": ["▁ a"], "vocab": {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}}})");
  unigram.with("tokenizer.json", "{" + around + R"("model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0],
    ["▁", -2], ["a", -2], ["▁a", -3]]}})");
  for (const auto* folder : {&pieces, &unigram}) {
    const Tokenizer t(folder->path);
    CHECK(t.tokens("é") == Ids{4});
    CHECK(t.tokens("aé") == Ids{3, 0});
    CHECK(t.tokens("ad") == Ids{3, 0});
    CHECK(t.tokens("da") == Ids{1, 0, 2});
  }
}

TEST_CASE("a token that another took along as its white space is not there once more") {
  const std::string list = R"({"id": 16, "content": "b b", "special": false, "single_word": true})";
  const auto with = [&](const std::string& flag) {
    return from_json(changed(json(), list, R"({"id": 16, "content": "<x>", "rstrip": true},
        {"id": 17, "content": "\n", )" + flag + "}"));
  };
  CHECK(with("\"lstrip\": true").tokens("a<x>\nb") == Ids{4, 16, 5});
  CHECK(with("\"lstrip\": true").tokens("a<x> \n\n b\n") == Ids{4, 16, 5, 17});  // tokenizers 0.23 fails
  CHECK(with("\"lstrip\": true, \"rstrip\": true").tokens("<x>\n \n<x>b") == Ids{16, 16, 5});
  CHECK(with("\"lstrip\": false").tokens("<x>\nb") == Ids{16, 17, 5});
}

TEST_CASE("letters and marks of Unicode 16 are word characters") {
  for (const char32_t c : {U'\U0002EBF0', U'\U0002EE5D', U'\u0897', U'\U0001611E', U'\U000113D2', U'\U00010D40'})
    CHECK(is_word(c));
  for (const char32_t c : {U'\U0002EBEF', U'\U0002EE5E', U'\U000113E3', U'\U0001613A'}) CHECK_FALSE(is_word(c));
  const Bpe t = from_json(json());
  CHECK(t.tokens("b b.") == Ids{16, 3});
  CHECK(t.tokens("b b\U0002EBF0") == Ids{5, 7, 5, 3, 3, 3, 3});
  CHECK(character_class(U'\U0001611E') == CharacterClass::other);
}

TEST_CASE("errors in tokenizer.json name the field") {
  check_json_error("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFD\"}",
                   {"tokenizer.json: normalizer.type is \"NFD\", expected \"NFC\", or \"Prepend\""});
  check_json_error("\"dropout\": null", "\"dropout\": 0.1", {"model.dropout is 0.1, expected none"});
  check_json_error("\"byte_fallback\": false", "\"byte_fallback\": true", {"model.byte_fallback is true"});
  check_json_error("prefix\": \"\"", "prefix\": \"##\"", {"model.continuing_subword_prefix is \"##\""});
  check_json_error("suffix\": null", "suffix\": \"</w>\"", {"model.end_of_word_suffix is \"</w>\""});
  check_json_error("\"unk_token\": \"<unk>\"", "\"unk_token\": \"x\"", {"model.unk_token is \"x\""});
  check_json_error("\"type\": \"BPE\"", "\"type\": \"WordLevel\"",
                   {"model.type is \"WordLevel\", expected \"WordPiece\", \"BPE\" or \"Unigram\""});
  check_json_error("{\"type\": \"ByteLevel\", \"add", "{\"type\": \"Whitespace\", \"add",
                   {"pre_tokenizer.type is \"Whitespace\", expected \"ByteLevel\""});
  check_json_error("{\"type\": \"ByteLevel\", \"add", "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"add",
                   {"pre_tokenizer.replacement is \"_\", expected U+2581"});
  check_json_error("{\"type\": \"ByteLevel\", \"add", "{\"type\": \"Sequence\", \"pretokenizers\": [], \"add",
                   {"pre_tokenizer.pretokenizers is an array of 0"});
  check_json_error("\"pre_tokenizer\"", "\"pre\"", {"the file has no member \"pre_tokenizer\""});
  check_json_error("\"decoder\": {\"type\": \"ByteLevel\"}", "\"decoder\": {\"type\": \"Fuse\"}", {"decoder.type"});
  check_json_error("\"vocab\":", "\"words\":", {"model has no member \"vocab\""});
  check_json_error("\"merges\":", "\"mergers\":", {"model has no member \"merges\""});
  check_json_error("\"model\":", "\"models\":", {"the file has no member \"model\""});
  check_json_error("\"abc\": 10", "\"abc\": 9", {"model.vocab.", "is 9, expected an id of its own"});
  check_json_error("\"abc\": 10", "\"abc\": -1", {"model.vocab.abc is -1"});
  check_json_error("\"abc\": 10", "\"abc\": 32", {"model.vocab.abc is 32, expected an id from 0 to 31"});
  check_json_error("\"abc\": 10", "\"abc\": 99999999999999999999999", {"model.vocab.abc is 9"});
  check_json_error("\"abc\": 10", "\"abc\": \"10\"", {"model.vocab.abc is \"10\""});
  check_json_error("\"abc\": 10", "\"abc\": [[[]]]", {"model.vocab.abc is an array"});
  check_json_error("\"a b\"", "\"a  b\"", {"model.merges[0] is \"a  b\", expected two tokens with a space"});
  check_json_error("\"a b\"", "\"ab\"", {"model.merges[0] is \"ab\""});
  check_json_error("\"a b\"", "\" b\"", {"model.merges[0]"});
  check_json_error("\"a b\"", "\"a \"", {"model.merges[0]"});
  check_json_error("\"a b\"", "\"a x\"", {"model.merges[0] is \"a x\"", "'x' is none"});
  check_json_error("\"a b\"", "\"b b\"", {"model.merges[0]", "'bb' is none"});
  check_json_error("[\"ab\", \"c\"]", "[\"ab\", 3]", {"model.merges[2]", "expected two tokens"});
  check_json_error("[\"ab\", \"c\"]", "[\"ab\"]", {"model.merges[2]", "expected two tokens"});
  check_json_error("[\"ab\", \"c\"]", "[\"ab\", \"\\n\"]", {"model.merges[2]", "'?' is none"});
  check_json_error("\"id\": 16", "\"id\": 17",
                   {"added_tokens[5]: token 'b b' has the id 17, expected 16, the next free id"});
  check_json_error("\"id\": 15", "\"id\": 14",
                   {"added_tokens[4]: token '<mask>' has the id 14, expected 15, its id in the vocabulary"});
  check_json_error("\"id\": 15", "\"id\": 1e99", {"added_tokens[4].id is 1e+99"});
  check_json_error("\"vocab\": {", "\"vocab\": " + std::string(100000, '['), {"JSON is nested too deeply"});
  for (const std::string whole :
       {"", "{", "[1, 2]", "3", "{\"model\": 3}", "{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}"}) {
    Folder folder;
    check_error(folder.with("tokenizer.json", whole).path, {"tokenizer.json: "});
  }
  const std::string good = json();
  for (std::size_t size = 0; size < good.size(); size += 7) {
    Folder folder;
    check_error(folder.with("tokenizer.json", good.substr(0, size)).path, {"tokenizer.json: not JSON: byte"});
  }
}

TEST_CASE("errors in vocab.json, merges.txt and beside them") {
  auto error = [](const std::string& name, const std::string& content, const std::vector<std::string>& parts) {
    Folder folder;
    folder.with("vocab.json", vocab).with("merges.txt", merges_text).with(name, content);
    check_error(folder.path, parts);
  };
  error("vocab.json", "[]", {"vocab.json: the file is an array of 0, expected an object"});
  error("vocab.json", "{}", {"vocab.json: the file is an object, expected at least one token"});
  error("vocab.json", "{\"a\": 2}", {"vocab.json: a is 2, expected an id from 0 to 1"});
  error("vocab.json", "{\"a\": 0, \"b\": 0}", {"vocab.json: b is 0, expected an id of its own: 'a' has it too"});
  error("vocab.json", "{\"a\": -1}", {"vocab.json: a is -1"});
  error("vocab.json", vocab.substr(0, 100), {"vocab.json: not JSON"});
  error("vocab.json", std::string(1000, '{'), {"vocab.json: JSON is nested too deeply"});
  error("merges.txt", "#version: 0.2\na b\n\nab c\n", {"merges.txt: line 3: '', expected two tokens"});
  error("merges.txt", "a b\na b c\n", {"merges.txt: line 2: 'a b c', expected two tokens"});
  error("merges.txt", "a \xFF\n", {"merges.txt: line 1: 'a \uFFFD', expected tokens of the vocabulary"});
  error("merges.txt", "a x\n", {"merges.txt: line 1: 'a x'", "'x' is none"});
  error("tokenizer_config.json", "{\"tokenizer_class\": \"T5Tokenizer\"}",
        {"tokenizer_class is \"T5Tokenizer\", expected RobertaTokenizer, BartTokenizer, GPT2Tokenizer or Qwen2"});
  error("tokenizer_config.json", "{\"mask_token\": 3}", {"tokenizer_config.json: mask_token is 3, expected a string"});
  error("tokenizer_config.json", "{\"mask_token\": {\"content\": \"<mask>\", \"lstrip\": 1}}",
        {"mask_token.lstrip is 1"});
  error("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1x\": {\"content\": \"a\"}}}", {"an id as its key"});
  error("tokenizer_config.json", "{\"added_tokens_decoder\": {\"-1\": {\"content\": \"a\"}}}", {"an id as its key"});
  error("tokenizer_config.json", "{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"a\"}}}", {"as its key"});
  error("tokenizer_config.json", "{\"added_tokens_decoder\": {\"5\": {\"content\": \"a\"}}}",
        {"added_tokens_decoder: token 'a' has the id 5, expected 4, its id in the vocabulary"});
  error("added_tokens.json", "{\"x\": 17}", {"added_tokens.json: token 'x' has the id 17, expected 16, the next free"});
  error("added_tokens.json", "{\"x\": -17}", {"added_tokens.json: x is -17"});
  error("added_tokens.json", "[\"x\"]", {"added_tokens.json: the file is an array"});
  error("special_tokens_map.json", "{", {"special_tokens_map.json: not JSON"});
  error("config.json", "{\"model_type\": 3}", {"config.json: model_type is 3"});
  Folder bare;
  check_error(bare.with("vocab.json", "{\"a\": 0}").path,
              {"expected tokenizer.json, vocab.txt, or vocab.json and merges.txt in this folder"});
  bare.with("tokenizer_config.json", "{\"tokenizer_class\": \"RobertaTokenizer\"}").with("merges.txt", "");
  check_error(bare.path, {"vocab.json: special token '<s>' (cls_token) is missing among 1 tokens"});
}

TEST_CASE("what is no regular file is refused, not waited for") {
  Folder folder;
  const auto refused = [&](const std::string& name) {
    test::refuses_odd_files(folder / name, [&] { Tokenizer{folder.path}; });
  };
  refused("tokenizer.json");
  folder.with("merges.txt", "#version: 0.2\na b\n");
  refused("vocab.json");
  fs::remove(folder.path / "merges.txt");
  folder.with("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4, "<unk>": 5, "<pad>": 6, "<mask>": 7})");
  refused("merges.txt");
  folder.with("merges.txt", "#version: 0.2\na b\n");
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) refused(name);
}

// Ids of tokenizers 0.23.
TEST_CASE("unigram: the best way to cut, runs of unknown characters, spaces; errors name the field") {
  const std::string meta =
      R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true})";
  const std::string text = R"({"added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Strip", "strip_left": false, "strip_right": true},
      {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}, "pre_tokenizer": )" +
                           meta + R"(, "decoder": )" + meta +
                           R"(, "model": {"type": "Unigram", "unk_id": 1, "vocab": [["</s>", 0], ["<unk>", 0],
      ["\u2581", -2], ["a", -3], ["b", -3.25], ["ab", -4], ["\u2581ab", -4.5], ["ba", -3.875], ["\u00e9", -5]]}})";
  Folder folder;
  const Tokenizer unigram(folder.with("tokenizer.json", text).path);
  CHECK(unigram.tokens("ab  ba") == Ids{6, 2, 7});
  CHECK(unigram.tokens("aabab") == Ids{2, 3, 5, 5});
  CHECK(unigram.tokens("a xyz \u00e9b  ") == Ids{2, 3, 2, 1, 2, 8, 4});
  CHECK(unigram.tokens("<unk>a") == Ids{2, 1, 3});
  CHECK(unigram.tokens("").empty());
  CHECK(unigram.decode(unigram.tokens("abba ab")) == "abba ab");
  CHECK(unigram.unk() == 1);
  const auto refused = [&](const std::string& from, const std::string& to, std::vector<std::string> parts) {
    Folder wrong;
    check_error(wrong.with("tokenizer.json", changed(text, from, to)).path, std::move(parts));
  };
  refused("\"unk_id\": 1", "\"unk_id\": 9", {"model.unk_id"});
  refused("[\"a\", -3]", "[\"a\"]", {"model.vocab[3]", "a token and its score"});
  refused(" {2,}", " {3,}", {"Regex"});
  refused("\"Strip\"", "\"NFKC\"", {"normalizer.normalizers[0].type is \"NFKC\""});
  refused("{\"type\": \"Strip\"", "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"",
          {"precompiled_charsmap", "a trie"});
}

namespace {

/// A precompiled charsmap of texts and what takes their places: darts-clone's trie, each node's children in 256 units
/// of their own, then the texts.
std::string charsmap_of(const std::vector<std::pair<std::string, std::string>>& list) {
  std::vector<std::uint32_t> units(512);
  std::map<std::string, std::size_t> nodes{{"", 0}}, bases{{"", 256}};
  units[0] = 256u << 10;
  std::string texts;
  for (const auto& [from, to] : list) {
    for (std::size_t i = 1; i <= from.size(); ++i) {
      const std::string key = from.substr(0, i), above = from.substr(0, i - 1);
      if (nodes.contains(key)) continue;
      const std::size_t at = bases.at(above) + static_cast<unsigned char>(from[i - 1]), base = units.size();
      nodes[key] = at, bases[key] = base;
      units.resize(base + 256);
      units[at] = static_cast<std::uint32_t>(at ^ base) << 10 | static_cast<unsigned char>(from[i - 1]);
    }
    units[nodes.at(from)] |= 1u << 8;
    units[bases.at(from)] = static_cast<std::uint32_t>(texts.size()) | 1u << 31;
    texts += to + '\0';
  }
  const auto size = static_cast<std::uint32_t>(units.size() * sizeof units[0]);
  std::string out(sizeof size + size, '\0');
  std::memcpy(out.data(), &size, sizeof size);
  std::memcpy(out.data() + sizeof size, units.data(), size);
  return out + texts;
}

std::string base64(std::string bytes) {
  const std::size_t size = (bytes.size() * 8 + 5) / 6;
  bytes += std::string(2, '\0');
  std::string out;
  for (std::size_t i = 0; i < size; ++i) {
    const auto at = i * 6 / 8;
    const auto two = static_cast<unsigned char>(bytes[at]) << 8 | static_cast<unsigned char>(bytes[at + 1]);
    out += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[two >> (10 - i * 6 % 8) & 63];
  }
  return out;
}

}  // namespace

// As tokenizers' Precompiled does it.
TEST_CASE("charsmap: clusters of less than six bytes as a whole by their shortest known start, else each character") {
  const Charsmap map(charsmap_of({{"\t", " "},
                                  {"\r\n", "\n"},
                                  {"\uFF21", "A"},
                                  {"e\u0301", "\u00E9"},
                                  {"a", "1"},
                                  {"a\u0301", "2"},
                                  {"o", "0"},
                                  {"\u00F6", "x"},
                                  {"\u0302", "^"},
                                  {"\u00AD", ""},
                                  {"\u2065", ""},
                                  {"\u0303", "~"}}));
  const auto mapped = [&](std::string_view text) {
    std::string out;
    map.append(text, out);
    return out;
  };
  CHECK(mapped("") == "");
  CHECK(mapped("\tb\r\nc\r") == " b\nc\r");
  CHECK(mapped("\uFF21b\uFF22") == "Ab\uFF22");
  CHECK(mapped("x\u00ADy") == "xy");
  CHECK(mapped("e\u0301e") == "\u00E9e");
  CHECK(mapped("a\u0301") == "1");                      // the shortest start, and the rest is gone
  CHECK(mapped("o\u0301\u0302") == "0");                // five bytes
  CHECK(mapped("\u00F6\u0301\u0302") == "x\u0301^");    // six
  CHECK(mapped("o\u0301\u0302\u0303") == "0\u0301^~");  // seven
  CHECK(mapped("\u2065\u0303") == "~");                 // a reserved character ends a cluster
  for (const std::string mark : {"\u0897", "\u1ACF", "\U00011F5A", "\U0001E6F5"})  // of Unicode 16 and 17
    CHECK(mapped("o" + mark + "b") == "0b");
  CHECK(mapped("o\u1ADE"
               "b") ==
        "0\u1ADE"
        "b");
  CHECK(map.growth() == 2);
  CHECK(Charsmap(charsmap_of({{"a", std::string(40, 'b')}, {"b", std::string(300, 'b')}})).growth() == 256);
  std::string wrong = charsmap_of({{"a", "\xFF"}});
  CHECK(message_of([&] { Charsmap broken(wrong); }).find("not UTF-8") != std::string::npos);
  wrong[0] = '\x7F', wrong[1] = '\x7F', wrong[2] = '\x7F';
  CHECK(message_of([&] { Charsmap broken(wrong); }).find("has no trie of") != std::string::npos);

  CHECK(from_base64("TWFu") == "Man");
  CHECK(from_base64("TWE=") == "Ma");
  CHECK(from_base64("+/8=") == "\xFB\xFF");
  CHECK_FALSE(from_base64("a b"));
}

// Ids by hand, from the scores.
TEST_CASE("unigram: long words, many branches, ties, bytes of unknown characters, normalizers and what splits words") {
  const auto made = [](const std::string& vocab, const std::string& more = "", const std::string& around = "") {
    Folder folder;
    return Tokenizer(
        folder
            .with("tokenizer.json", R"({"added_tokens": [{"id": 0, "content": "<unk>", "special": true}], )" + around +
                                        R"("model": {"type": "Unigram", )" + more + R"("vocab": [)" + vocab + "]}}")
            .path);
  };
  const std::string letters = R"(["<unk>", 0], ["a", -3], ["b", -3], ["ab", -1], ["ac", -1], ["ad", -1], ["ae", -1],
      ["af", -1], ["ag", -1], ["ah", -1], ["\u2581", -2])";
  const auto branches = made(letters, "\"unk_id\": 0, ");
  CHECK(branches.tokens("acahabagadafae") == Ids{4, 9, 3, 8, 5, 7, 6});
  for (const std::size_t count : {31, 32, 33, 400}) {  // words of 62 bytes and more, then of one more
    std::string word;
    for (std::size_t i = 0; i < count; ++i) word += "ab";
    CHECK(branches.tokens(word) == Ids(count, 3));
    Ids odd(count, 3);
    odd.push_back(1);
    CHECK(branches.tokens(word + "a") == odd);
  }
  CHECK(branches.tokens("zab\u00e9za") == Ids{0, 3, 0, 1});
  // Of ways with one score the first that is found: the longer token in front.
  CHECK(made(R"(["<unk>", 0], ["a", -1], ["b", -1], ["ab", -2])", "\"unk_id\": 0, ").tokens("ab") == Ids{3});
  // An unknown character costs ten more than the worst token.
  CHECK(made(R"(["<unk>", 0], ["ab", -20], ["c", -1], ["bc", -1])", "\"unk_id\": 0, ").tokens("abc") == Ids{1, 2});
  CHECK(made(R"(["<unk>", 0], ["ab", -20], ["c", -12], ["bc", -1])", "\"unk_id\": 0, ").tokens("abc") == Ids{0, 3});

  const std::string bytes = letters + R"(, ["<0xC3>", -9], ["<0xA9>", -9])";
  const auto fallback = made(bytes, R"("unk_id": 0, "byte_fallback": true, )");
  CHECK(fallback.tokens("a\u00e9b\u00e8") == Ids{1, 11, 12, 2, 0});
  CHECK(fallback.decode(Ids{1, 11, 12, 2, 11}) == "a\u00e9b\uFFFD");
  CHECK(message_of([&] { made(letters).tokens("az"); }).find("no token for 'z', and no unk_id") != std::string::npos);

  const auto normal = [&](const std::string& step) {
    return made(letters, "\"unk_id\": 0, ", "\"normalizer\": " + step + ", ");
  };
  CHECK(normal(R"({"type": "Strip", "strip_left": true, "strip_right": false})").tokens(" \u3000a ") == Ids{1, 0});
  CHECK(normal(R"({"type": "Strip", "strip_left": false, "strip_right": true})").tokens(" a \u3000") == Ids{0, 1});
  CHECK(normal(R"({"type": "Replace", "pattern": {"String": "z"}, "content": "ab"})").tokens("zzaz") ==
        Ids{3, 3, 1, 3});

  const auto steps = [](std::size_t count, const std::string& step) {
    std::string list;
    for (std::size_t i = 0; i < count; ++i) list += (i ? ", " : "") + step;
    return R"({"type": "Sequence", "normalizers": [)" + list + "]}";
  };
  const std::string longer = R"({"type": "Replace", "pattern": {"String": "b"}, "content": ")" + std::string(16, 'b') +
                             "\"}",
                    spaces = R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"})",
                    map = R"({"type": "Precompiled", "precompiled_charsmap": ")" +
                          base64(charsmap_of({{"b", std::string(40, 'b')}})) + "\"}";
  CHECK(normal(steps(2, longer)).tokens("ab").size() == 256);
  CHECK(normal(steps(13, spaces)).tokens("a  ab") == Ids{1, 10, 3});
  CHECK(normal(steps(50, R"({"type": "Replace", "pattern": {"String": "zz"}, "content": "a"})")).tokens("zz") ==
        Ids{1});
  CHECK(normal(map).tokens("b").size() == 40);
  const auto refused = [&](std::size_t count, const std::string& step) {
    CHECK(message_of([&] { normal(steps(count, step)); })
              .find("normalizer.normalizers[" + std::to_string(count - 1) +
                    "] is an object, expected steps that together make a text at most 256 times as long") !=
          std::string::npos);
  };
  refused(3, longer);
  refused(14, spaces);
  refused(2, map);

  const auto splits = [&](const std::string& words, const std::string& scheme) {
    const std::string meta = R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": ")" + scheme + "\"}";
    return made(letters, "\"unk_id\": 0, ",
                "\"pre_tokenizer\": " +
                    (words.empty() ? meta : R"({"type": "Sequence", "pretokenizers": [)" + words + ", " + meta + "]}") +
                    ", \"decoder\": " + meta + ", ");
  };
  const auto always = splits("", "always"), never = splits("", "never"), first = splits("", "first"),
             parted = splits(R"({"type": "WhitespaceSplit"})", "always");
  CHECK(always.tokens("ab  a") == Ids{10, 3, 10, 10, 1});
  CHECK(never.tokens("ab a") == Ids{3, 10, 1});
  CHECK(always.tokens("ab<unk>a") == Ids{10, 3, 0, 10, 1});
  CHECK(first.tokens("ab<unk>a") == Ids{10, 3, 0, 1});
  CHECK(parted.tokens(" ab \t a") == Ids{10, 3, 10, 1});
  CHECK(always.decode(Ids{10, 3, 10, 1}) == "ab a");
  CHECK(never.decode(Ids{10, 3, 10, 1}) == " ab a");
}

// Ids of tokenizers 0.23, which asks where the first byte of a word comes from.
TEST_CASE("unigram: the beginning of a text is what comes from its first character") {
  const auto made = [](const std::string& steps, bool parted = false) {
    const std::string meta = R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"})";
    Folder folder;
    folder.with(
        "tokenizer.json",
        R"({"added_tokens": [{"id": 0, "content": "<unk>", "special": true}], "normalizer": {"type": "Sequence",
      "normalizers": [)" +
            steps + R"(]}, "pre_tokenizer": )" +
            (parted ? R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, )" + meta + "]}" : meta) +
            R"(, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["\u2581", -2], ["a", -3],
      ["b", -3], ["c", -3]]}})");
    return Unigram(folder.path);
  };
  const auto replace = [](const std::string& from, const std::string& to) {
    return R"({"type": "Replace", "pattern": {"String": ")" + from + R"("}, "content": ")" + to + "\"}";
  };
  const auto strip = [](const std::string& left) {
    return R"({"type": "Strip", "strip_right": false, "strip_left": )" + left + "}";
  };
  const std::string map = R"({"type": "Precompiled", "precompiled_charsmap": ")" +
                          base64(charsmap_of({{"b", " c"}, {"\x01", ""}, {"\u00bd", "ac"}})) + "\"}";
  const auto stripped = made(strip("true")), shorter = made(replace("bb", "a"));
  CHECK(stripped.tokens("a") == Ids{1, 2});
  CHECK(stripped.tokens(" a") == Ids{2});
  CHECK(stripped.tokens("<unk>a") == Ids{0, 2});
  CHECK(made(strip("false")).tokens(" a") == Ids{1, 2});
  CHECK(shorter.tokens("bba") == Ids{2, 2});
  CHECK(shorter.tokens("abba") == Ids{1, 2, 2, 2});
  CHECK(made(replace("b", "  "), true).tokens("ba") == Ids{2});
  const auto mapped = made(map, true), then_stripped = made(map + ", " + strip("true")),
             then_shorter = made(map + ", " + replace("ac", "b"));
  CHECK(mapped.tokens("ba") == Ids{1, 4, 2});
  CHECK(mapped.tokens("\x01"
                      "a") == Ids{1, 2});
  CHECK(mapped.tokens("\x01 a") == Ids{2});
  CHECK(mapped.tokens("\u00bdb") == Ids{1, 2, 4, 4});
  CHECK(then_stripped.tokens("ba") == Ids{1, 4, 2});
  CHECK(then_shorter.tokens("\u00bd") == Ids{1, 3});
  CHECK(then_shorter.tokens("\u00bd\x01") == Ids{3});
}

TEST_CASE("BPE: digits are parts of their own, each or in runs") {
  const auto made = [](const char* each) {
    Folder folder;
    folder.with("tokenizer.json",
                std::string(R"({"added_tokens": [], "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": )") +
                    each +
                    R"(}, {"type": "ByteLevel", "add_prefix_space": false}]}, "model": {"type": "BPE",
      "vocab": {"1": 0, "2": 1, "12": 2, "a": 3, "a1": 4}, "merges": ["1 2", "a 1"]}})");
    return Bpe(folder.path);
  };
  CHECK(made("false").tokens("a12a1") == Ids{3, 2, 3, 0});
  CHECK(made("true").tokens("a12a1") == Ids{3, 0, 1, 3, 0});
}

TEST_CASE("Tokenizer takes either") {
  Folder bpe, pieces, files;
  const Tokenizer a(bpe.with("tokenizer.json", json()).with("vocab.txt", "x").path);
  CHECK(std::holds_alternative<Bpe>(a.kind()));
  CHECK(a.encode("abc").ids == Ids{0, 10, 2});
  CHECK(a.encode("a", "b").ids == Ids{0, 4, 2, 2, 5, 2});
  CHECK(a.tokens("abc") == Ids{10});
  CHECK(a.decode(Ids{0, 10}) == "abc");
  CHECK(Ids{a.bos(), a.pad(), a.eos(), a.unk(), a.mask()} == Ids{0, 1, 2, 3, 15});
  CHECK(a.size() == 17);
  CHECK(a.id("abc") == 10);
  CHECK(a.token(10) == "abc");
  const std::string list = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##aff\n##able\nhe\n'\ns\n.\n##.\n";
  Tokenizer b(pieces.with("vocab.txt", list).with("vocab.json", vocab).with("merges.txt", "").path);
  CHECK(std::holds_alternative<WordPiece>(b.kind()));
  CHECK(b.encode("unaffable").ids == Ids{2, 5, 6, 7, 3});
  CHECK(b.encode("un", "he").types == Ids{0, 0, 0, 1, 1});
  CHECK(b.tokens("unaffable") == Ids{5, 6, 7});
  CHECK(Ids{b.bos(), b.pad(), b.eos(), b.unk(), b.mask()} == Ids{2, 0, 3, 1, 4});
  CHECK(b.decode(Ids{2, 5, 6, 7, 8, 9, 11, 12, 3}) == "unaffable he '..");
  CHECK(b.decode(Ids{2, 6, 6, 3}, false) == "[CLS]affaff [SEP]");
  CHECK(b.decode(Ids{6, 5}) == "##aff un");
  CHECK(message_of([&] { b.decode(Ids{13}); }) == "vocabulary: id 13 is out of range: expected 0 to 12");
  CHECK(std::holds_alternative<Bpe>(
      Tokenizer(files.with("vocab.json", vocab).with("merges.txt", merges_text).path).kind()));
  b = a;
  CHECK(b.encode("abc").ids == a.encode("abc").ids);
  CHECK(b.tokens("ab") == Tokenizer(from_json(json())).tokens("ab"));
  Folder empty;
  check_error(empty.path, {"expected tokenizer.json, vocab.txt, or vocab.json and merges.txt in this folder"});
  Folder untyped;
  untyped.with("tokenizer.json", changed(json(), "\"type\": \"BPE\", ", ""));
  CHECK(std::holds_alternative<Bpe>(Tokenizer(untyped.path).kind()));
}
