// The tokenizer on small vocabularies: code points, normalization, WordPiece, pairs, and errors in files.
// tokenizer_peer.py compares it with Hugging Face on real ones.
#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <meft/text/wordpiece.hpp>

#include "folder.hpp"

namespace fs = std::filesystem;
using namespace meft;
using namespace meft::text;
using test::Folder;
using test::message_of;
using Ids = std::vector<std::int32_t>;

namespace {

const std::string specials = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";                        // ids 0 to 4
const std::string words = specials + "un\n##aff\n##able\nhe\n##llo\n,\n中\n##e\na\n##a\n";  // ids 5 to 14

void check_error(const Folder& folder, const std::vector<std::string>& parts) {
  test::check_error(parts, [&] { WordPiece{folder.path}; });
}

/// A tokenizer.json; `replace` changes its first `from` into `to`.
struct Json {
  std::string text = R"({
    "version": "1.0", "truncation": {"max_length": 3}, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "[PAD]", "special": true}, {"id": 1, "content": "[UNK]", "special": true},
      {"id": 2, "content": "<cls>", "special": true}, {"id": 3, "content": "<sep>", "special": true},
      {"id": 4, "content": "[MASK]", "special": true, "lstrip": true, "normalized": false},
      {"id": 9, "content": "Word", "normalized": true, "single_word": true, "special": false}],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                   "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<cls>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "<sep>", "type_id": 0}}],
      "pair": [{"SpecialToken": {"id": "<cls>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "<sep>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
               {"SpecialToken": {"id": "<sep>", "type_id": 1}}],
      "special_tokens": {"<cls>": {"id": "<cls>", "ids": [2], "tokens": ["<cls>"]},
                         "<sep>": {"id": "<sep>", "ids": [3], "tokens": ["<sep>"]}}},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "@@",
              "max_input_chars_per_word": 4,
              "vocab": {"[PAD]": 0, "[UNK]": 1, "<cls>": 2, "<sep>": 3, "[MASK]": 4, "a": 5, "@@b": 6, "ab": 7, "w": 8}}
  })";
  Json& replace(const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, from);
    text.replace(at, from.size(), to);
    return *this;
  }
};

void check_json_error(Json& json, const std::vector<std::string>& parts) {
  Folder folder;
  check_error(folder.with("tokenizer.json", json.text), parts);
}

std::string normal(std::string_view text, BertNormalizerOptions options = {}) {
  std::string out;
  BertNormalizer(options).append(text, out);
  return out;
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> out;
  each_bert_word(text, [&](std::string_view word, std::size_t points) {
    out.push_back(std::string(word) + "/" + std::to_string(points));
    return true;
  });
  return out;
}

}  // namespace

TEST_CASE("UTF-8: broken bytes become U+FFFD as in Rust and Python") {
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(repaired("caf\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80") == "caf\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80");
  CHECK(repaired("\xFF") == bad);
  CHECK(repaired("\xC0\xAF") == bad + bad);                      // overlong
  CHECK(repaired("\xE2\x82|") == bad + "|");                     // a longest start counts once
  CHECK(repaired("\xF0\x9F\x98") == bad);                        // cut off at the end
  CHECK(repaired("\xED\xA0\x80") == bad + bad + bad);            // a surrogate
  CHECK(repaired("\xF4\x90\x80\x80") == bad + bad + bad + bad);  // above U+10FFFF
  CHECK(repaired("\xF0\x80\x80") == bad + bad + bad);
  CHECK(repaired("\xC3\xC3\xA9") == bad + "\xC3\xA9");
  CHECK(is_utf8("\xF4\x8F\xBF\xBF"));
  CHECK_FALSE(is_utf8("a\x80"));
  for (char32_t c : {0x0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF}) {
    std::string text;
    append_utf8(text, c);
    CHECK(decode(text, 0).code == c);
    CHECK(decode(text, 0).length == text.size());
    CHECK(previous("a" + text, 1 + text.size()) == 1);
  }
}

TEST_CASE("normalization: cleaning, accents, lower case, ideographs") {
  CHECK(normal("Hello\tWorld\n") == "hello world ");
  CHECK(normal(std::string_view("a\0b\x01\x7F\xEF\xBF\xBD", 8)) == "ab");
  CHECK(normal("\xC2\xA0\xE3\x80\x80") == "  ");
  CHECK(normal("Ångström naïve É") == "angstrom naive e");
  CHECK(normal("e\u0301\u0323") == "e");
  CHECK(normal("x中文y") == "x 中  文 y");
  CHECK(normal("\uAC01") == "\u1100\u1161\u11A8");  // Hangul comes apart
  CHECK(normal("ΣΑΣ") == "σασ");                    // no final sigma
  CHECK(normal("\u00AD\u200D\uFEFFx") == "x");
  CHECK(normal("\U00010D50") == "\U00010D70");                  // lower case of Unicode 16
  CHECK(normal("\U00011938") == "\U00011938");                  // NFD of Unicode 9
  CHECK(normal("a\u302E\U0001D165b") == "a\U0001D165\u302Eb");  // kept marks in canonical order: 224 after 216
  CHECK(normal("É中", {.strip_accents = false}) == "é 中 ");
  CHECK(normal("\u0130", {.strip_accents = false}) == "i\u0307");
  CHECK(normal("É", {.lowercase = false}) == "E");
  CHECK(normal("\tÉ中",
               {.clean_text = false, .handle_chinese_chars = false, .strip_accents = false, .lowercase = false}) ==
        "\tÉ中");
}

TEST_CASE("words: white space goes, punctuation stands alone") {
  CHECK(split("").empty());
  CHECK(split(" \t\u3000").empty());
  CHECK(split("don't stop.") == std::vector<std::string>{"don/3", "'/1", "t/1", "stop/4", "./1"});
  CHECK(split("é中—$") == std::vector<std::string>{"é中/2", "—/1", "$/1"});
  int seen = 0;
  CHECK_FALSE(each_bert_word("a b c", [&](std::string_view, std::size_t) { return ++seen < 2; }));
  CHECK(seen == 2);
}

TEST_CASE("WordPiece from vocab.txt") {
  Folder folder;
  const WordPiece tokenizer(folder.with("vocab.txt", words).path);
  CHECK(tokenizer.size() == 15);
  CHECK(tokenizer.pad() == 0);
  CHECK(tokenizer.unk() == 1);
  CHECK(tokenizer.cls() == 2);
  CHECK(tokenizer.sep() == 3);
  CHECK(tokenizer.mask() == 4);
  CHECK(tokenizer.id("##able") == 7);
  CHECK(tokenizer.id("nothing") == 1);
  CHECK(tokenizer.token(5) == "un");
  CHECK(message_of([&] { tokenizer.token(15); }) == "vocabulary: id 15 is out of range: expected 0 to 14");
  CHECK(message_of([&] { tokenizer.token(-1); }) == "vocabulary: id -1 is out of range: expected 0 to 14");

  CHECK(tokenizer.encode("Unaffable, hello").ids == Ids{2, 5, 6, 7, 10, 8, 9, 3});
  CHECK(tokenizer.encode("").ids == Ids{2, 3});
  CHECK(tokenizer.encode("unx he").ids == Ids{2, 1, 8, 3});  // one unknown piece: the whole word is unknown
  CHECK(tokenizer.encode("a[MASK]a [SEP] [mask]").ids == Ids{2, 13, 4, 13, 3, 1, 1, 1, 3});
  CHECK(tokenizer.encode("[\x80MASK]").ids == Ids{2, 1, 1, 1, 3});  // broken inside a special token
  CHECK(tokenizer.encode("h\xE9\x65 中a").ids == Ids{2, 8, 11, 13, 3});
  CHECK(tokenizer.encode(std::string(100, 'a')).ids.size() == 102);
  CHECK(tokenizer.encode(std::string(101, 'a')).ids == Ids{2, 1, 3});  // longer than max_input_chars_per_word
  CHECK(tokenizer.encode("a a a a", 4).ids == Ids{2, 13, 13, 3});
  CHECK(tokenizer.encode("aaaa", 4).ids == Ids{2, 13, 14, 3});
  CHECK(tokenizer.encode("a", 2).ids == Ids{2, 3});
  CHECK(tokenizer.encode("a").types == Ids{0, 0, 0});

  CHECK_FALSE(tokenizer.encode("a a a", 5).cut);
  CHECK(tokenizer.encode("a a a a", 5).cut);
  CHECK_FALSE(tokenizer.encode("", 2).cut);
  CHECK(tokenizer.encode("a", 2).cut);
  CHECK_FALSE(tokenizer.encode("a he", "hello", 7).cut);
  CHECK(tokenizer.encode("a he", "hello", 6).cut);

  const Encoding pair = tokenizer.encode("a he", "hello");
  CHECK(pair.ids == Ids{2, 13, 8, 3, 8, 9, 3});
  CHECK(pair.types == Ids{0, 0, 0, 0, 1, 1, 1});
  CHECK(tokenizer.encode("", "").ids == Ids{2, 3, 3});
  CHECK(tokenizer.encode("", "").types == Ids{0, 0, 1});
  CHECK(tokenizer.encode("a a a a a a", "he", 7).ids == Ids{2, 13, 13, 13, 3, 8, 3});
  CHECK(tokenizer.encode("he", "a a a a a a", 7).ids == Ids{2, 8, 3, 13, 13, 13, 3});
  CHECK(tokenizer.encode("a a a a", "he he he", 6).ids == Ids{2, 13, 13, 3, 8, 3});  // the longer gets the odd one
  CHECK(tokenizer.encode("a", "a", 3).ids == Ids{2, 3, 3});
  CHECK(message_of([&] { tokenizer.encode("a", 1); }) == "encode: max_length is 1, expected at least 2");
  CHECK(message_of([&] { tokenizer.encode("a", "a", 2); }) ==
        "encode: max_length is 2, expected at least 3 for a pair");
}

TEST_CASE("longest_first never exceeds the room and cuts the longer") {
  for (std::size_t a = 0; a < 12; ++a) {
    for (std::size_t b = 0; b < 12; ++b) {
      for (std::size_t room = 0; room < 26; ++room) {
        const auto [x, y] = longest_first(a, b, room);
        REQUIRE(x <= a);
        REQUIRE(y <= b);
        REQUIRE(x + y == std::min(a + b, room));
        if (x < a && y < b) REQUIRE(std::max(x, y) - std::min(x, y) <= 1);
      }
    }
  }
}

TEST_CASE("vocab.txt with tokenizer_config.json, Windows line ends, copies and threads") {
  Folder folder;
  folder.with("vocab.txt", "<pad>\r\n<unk>\r\n<s>\r\n</s>\r\n[MASK]\r\nA\r\na\r\né\r\n\r\n");
  folder.with("tokenizer_config.json", R"({"do_lower_case": false, "cls_token": "<s>", "sep_token": {"content": "</s>"},
    "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": null})");
  const WordPiece original(folder.path);
  const WordPiece copy = original;  // NOLINT: a copy has tables of its own
  CHECK(copy.size() == 8);
  CHECK(copy.encode("A a é </s>").ids == Ids{2, 5, 6, 7, 3, 3});
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) right += copy.encode("A a é").ids == Ids{2, 5, 6, 7, 3};
    });
  for (auto& thread : threads) thread.join();
  CHECK(right == 800);
}

TEST_CASE("tokenizer.json comes before vocab.txt") {
  Folder folder;
  const WordPiece tokenizer(folder.with("vocab.txt", words).with("tokenizer.json", Json().text).path);
  CHECK(tokenizer.size() == 10);
  CHECK(tokenizer.cls() == 2);
  CHECK(tokenizer.sep() == 3);
  CHECK(tokenizer.encode("ab abb a").ids == Ids{2, 7, 7, 6, 5, 3});    // the prefix is @@
  CHECK(tokenizer.encode("abbb abbbb").ids == Ids{2, 7, 6, 6, 1, 3});  // words of at most 4 characters
  CHECK(tokenizer.encode("a [MASK] WORD a<sep>").ids == Ids{2, 5, 4, 9, 5, 3, 3});
  CHECK(tokenizer.encode("aword w").ids == Ids{2, 1, 8, 3});  // single_word
  CHECK(tokenizer.token(9) == "Word");
  // A pair may end in another token than the single text: it counts as the file has it, where the file knows it.
  Json ends;
  ends.replace("{\"id\": \"<sep>\", \"type_id\": 1}", "{\"id\": \"end\", \"type_id\": 1}")
      .replace("\"<sep>\": {\"id\"", "\"end\": {\"id\": \"end\", \"ids\": [4]}, \"<sep>\": {\"id\"");
  const Encoding pair = WordPiece(Folder().with("tokenizer.json", ends.text).path).encode("a", "w");
  CHECK(pair.ids == Ids{2, 5, 3, 8, 4});
  CHECK(pair.types == Ids{0, 0, 0, 1, 1});
  CHECK(tokenizer.decode(Ids{2, 7, 6, 8, 3}) == "abb w");
  CHECK(tokenizer.decode(Ids{6, 6}) == "@@bb");
  for (const std::string prefix : {"@", "~~~"}) {  // of any length
    Json other;
    other.replace("\"@@\"", "\"" + prefix + "\"").replace("\"@@b\"", "\"" + prefix + "b\"");
    const WordPiece t(Folder().with("tokenizer.json", other.text).path);
    CHECK(t.encode("abb w").ids == Ids{2, 7, 6, 8, 3});
    CHECK(t.decode(Ids{2, 7, 6, 8, 3}) == "abb w");
  }
  Json bert;
  const auto from = bert.text.find("\"post_processor\""), to = bert.text.find("\"model\"");
  bert.text.replace(from, to - from,
                    R"("post_processor": {"type": "BertProcessing", "sep": ["<sep>", 3], "cls": ["<cls>", 2]}, )");
  Folder other;
  CHECK(WordPiece(other.with("tokenizer.json", bert.text).path).encode("w").ids == Ids{2, 8, 3});
}

TEST_CASE("an added token is no piece of a word, unless the vocabulary has it") {
  Folder folder;
  folder.with("vocab.txt", words).with("tokenizer_config.json", R"({"added_tokens_decoder": {
      "8": {"content": "he", "single_word": true}, "15": {"content": "hello", "single_word": true},
      "16": {"content": "aa", "special": true}}})");
  const WordPiece t(folder.path);
  CHECK(t.tokens("hello he") == Ids{15, 8});
  CHECK(t.tokens("helloa hea") == Ids{8, 9, 14, 8, 14});
  CHECK(t.tokens("aa AA") == Ids{16, 13, 14});  // as it stands alone
  CHECK(t.id("hello") == 15);
  CHECK(t.decode(Ids{15, 16}, false) == "hello aa");
}

TEST_CASE("odd vocabularies") {
  Folder folder;
  const WordPiece twice(folder.with("vocab.txt", specials + "a\n\nb \u3000\n##c\na\n##c\n\n\r\n").path);
  CHECK(twice.size() == 11);
  CHECK(twice.encode("a b ac c").ids == Ids{2, 9, 7, 9, 10, 1, 3});  // the later id counts; ends of lines do not
  CHECK(twice.id("") == 1);
  CHECK(twice.token(6) == "");
  CHECK(twice.token(5) == "a");
  Json gaps;
  gaps.replace("\"@@b\": 6", "\"@@b\": 12")
      .replace("\"w\": 8", "\"w\": 8, \"\": 10")
      .replace("\"id\": 9", "\"id\": 13");
  const WordPiece holes(Folder().with("tokenizer.json", gaps.text).path);
  CHECK(holes.size() == 14);
  CHECK(holes.encode("abb w").ids == Ids{2, 7, 12, 8, 3});
  CHECK(holes.id("") == 1);
}

TEST_CASE("decoding WordPiece") {
  Folder folder;
  const WordPiece t(folder.with("vocab.txt", words).path);
  CHECK(t.decode(Ids{6, 7}) == "##affable");  // nothing before the first piece, so it keeps its prefix
  CHECK(t.decode(Ids{2, 6, 7, 3}) == "##affable");
  CHECK(t.decode(Ids{5, 6, 7, 10, 8, 9}) == "unaffable, hello");
  CHECK(t.decode(Ids{2, 13, 4, 3}, false) == "[CLS] a [MASK] [SEP]");
}

TEST_CASE("errors in vocab.txt name the file and the line") {
  check_error(Folder(), {"expected tokenizer.json, vocab.txt, or vocab.json and merges.txt in this folder"});
  check_error(Folder().with("vocab.txt", ""), {"vocab.txt: empty"});
  check_error(Folder().with("vocab.txt", "\n\n"), {"vocab.txt: empty"});
  check_error(Folder().with("vocab.txt", specials + "\xFFx\n"), {"vocab.txt: line 6: not UTF-8"});
  check_error(Folder().with("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[MASK]\n"),
              {"vocab.txt: special token '[SEP]' (sep_token) is missing among 4 tokens"});
  check_error(Folder().with("vocab.txt", words).with("tokenizer_config.json", "{"),
              {"tokenizer_config.json: not JSON: byte 1"});
  check_error(Folder().with("vocab.txt", words).with("tokenizer_config.json", R"({"do_lower_case": "yes"})"),
              {"tokenizer_config.json: do_lower_case is \"yes\", expected true or false"});
}

TEST_CASE("what is no regular file is refused, not waited for") {
  Folder folder;
  const auto refused = [&](const std::string& name) {
    test::refuses_odd_files(folder / name, [&] { WordPiece{folder.path}; });
  };
  refused("vocab.txt");
  refused("tokenizer.json");
  folder.with("vocab.txt", words);
  refused("tokenizer.json");
  refused("tokenizer_config.json");
}

TEST_CASE("errors in tokenizer.json name the field") {
  check_json_error(Json().replace("\"WordPiece\"", "\"BPE\""),
                   {"tokenizer.json: model.type is \"BPE\", expected \"WordPiece\""});
  check_json_error(Json().replace("BertNormalizer", "NFKC"),
                   {"normalizer.type is \"NFKC\", expected \"BertNormalizer\""});
  check_json_error(Json().replace("BertPreTokenizer", "ByteLevel"), {"pre_tokenizer.type is \"ByteLevel\""});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": 6"), {"model.vocab.", "is 6, expected an id of its own"});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": 70"), {"model.vocab.ab is 70, expected an id from 0 to 17"});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": -7"), {"model.vocab.ab is -7"});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": 7.5"), {"model.vocab.ab is 7.5"});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": \"7\""), {"model.vocab.ab is \"7\""});
  check_json_error(Json().replace("\"ab\": 7", "\"ab\": 18446744073709551616"), {"model.vocab.ab is 1.8"});
  check_json_error(Json().replace("\"id\": 9", "\"id\": 11"),
                   {"tokenizer.json: added_tokens[5]: token 'Word' has the id 11, expected 9, the next free id"});
  check_json_error(Json().replace("\"id\": 4", "\"id\": 5"),
                   {"added_tokens[4]: token '[MASK]' has the id 5, expected 4, its id in the vocabulary"});
  check_json_error(Json().replace("\"id\": 4", "\"id\": -4"), {"added_tokens[4].id is -4"});
  check_json_error(Json().replace("\"content\": \"Word\"", "\"content\": 3"),
                   {"added_tokens[5].content is 3, expected a string"});
  check_json_error(Json().replace("\"content\": \"Word\", ", ""), {"added_tokens[5] has no member \"content\""});
  check_json_error(Json().replace("\"[UNK]\", \"cont", "\"<unk>\", \"cont"),
                   {"model.unk_token is \"<unk>\", expected a token of the vocabulary"});
  check_json_error(Json().replace("per_word\": 4", "per_word\": 0"), {"max_input_chars_per_word is 0"});
  check_json_error(Json().replace("\"vocab\"", "\"words\""), {"model has no member \"vocab\""});
  check_json_error(Json().replace("\"model\"", "\"models\""), {"the file has no member \"model\""});
  check_json_error(Json().replace("\"id\": \"B\", \"type_id\": 1", "\"id\": \"B\", \"type_id\": 2"),
                   {"post_processor.pair[3].Sequence.type_id is 2"});
  check_json_error(Json().replace("{\"id\": \"<sep>\", \"type_id\": 1}", "{\"id\": \"[MASK]\", \"type_id\": 1}"),
                   {"post_processor.special_tokens has no member \"[MASK]\""});
  check_json_error(Json().replace("\"ids\": [3]", "\"ids\": [10]"), {"special_tokens.<sep>.ids[0] is 10"});
  check_json_error(Json().replace("\"id\": \"B\"", "\"id\": \"A\""), {"pair is an array of 5, expected the texts AB"});
  check_json_error(Json().replace("\"TemplateProcessing\"", "\"Fancy\""), {"post_processor.type is \"Fancy\""});
  check_json_error(Json().replace("\"vocab\": {", "\"vocab\": " + std::string(100000, '[')),
                   {"JSON is nested too deeply", "depth 65"});
  check_json_error(Json().replace("<cls>\": 2", "\xFF\": 2"), {"tokenizer.json: not JSON: byte", "0xff"});
  Json list;
  list.text = "[1, 2]";
  check_json_error(list, {"the file is an array of 2, expected an object"});
  list.text = "";
  check_json_error(list, {"not JSON: byte 0: found the end"});
}

TEST_CASE("parse_json: depth, position and what was found") {
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  CHECK(parse_json(deep, "f").is_array());
  CHECK(message_of([&] { parse_json("[" + deep + "]", "f"); }) ==
        "f: JSON is nested too deeply: byte 64: found '[' at depth 65, expected at most 64");
  CHECK(parse_json("[\"" + std::string(100, '[') + "\\\"[\"]", "f")[0].get<std::string>().size() == 102);
  CHECK(message_of([] { parse_json("{\"a\":}", "f"); }).starts_with("f: not JSON: byte 5: found '}'"));
  CHECK(message_of([] { parse_json("[1,", "f"); }).starts_with("f: not JSON: byte 3: found the end"));
  CHECK(message_of([] { parse_json("1e999", "f"); }).starts_with("f: JSON: number overflow"));
}
