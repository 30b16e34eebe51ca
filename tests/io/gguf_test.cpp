// GGUF: blocks of every type against PyPI's gguf, models and tokenizers of golden/gguf (made by golden/make_gguf.py)
// against the folders that they were made of, and each way to be damaged.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/checkpoints/tokenizer.hpp>
#include <meft/io/gguf.hpp>

#include "folder.hpp"
#include "golden.hpp"

using namespace meft;
using test::message_of;

namespace {

std::string in(const std::string& name) { return golden() + "/gguf/" + name; }

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A GGUF file put together by hand.
struct File {
  std::string values{}, tensors{}, data{};
  std::uint64_t value_count = 0, tensor_count = 0;
  std::uint32_t version = 3;

  template <class T>
  static void add(std::string& to, T x) {
    to.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  static void add_text(std::string& to, const std::string& x) {
    add(to, static_cast<std::uint64_t>(x.size()));
    to += x;
  }
  File& text(const std::string& key, const std::string& value) {
    head(key, 8);
    add_text(values, value);
    return *this;
  }
  File& integer(const std::string& key, std::uint32_t value) {
    head(key, 4);
    add(values, value);
    return *this;
  }
  File& number(const std::string& key, float value) {
    head(key, 6);
    add(values, value);
    return *this;
  }
  File& flag(const std::string& key, bool value) {
    head(key, 7);
    values += value ? '\1' : '\0';
    return *this;
  }
  File& flags(const std::string& key, const std::string& list) {
    head(key, 9);
    add(values, std::uint32_t{7});
    add(values, static_cast<std::uint64_t>(list.size()));
    values += list;
    return *this;
  }
  File& texts(const std::string& key, const std::vector<std::string>& list) {
    head(key, 9);
    add(values, 8u);
    add(values, static_cast<std::uint64_t>(list.size()));
    for (const auto& one : list) add_text(values, one);
    return *this;
  }
  File& numbers(const std::string& key, const std::vector<float>& list) {
    head(key, 9);
    add(values, 6u);
    add(values, static_cast<std::uint64_t>(list.size()));
    for (const auto one : list) add(values, one);
    return *this;
  }
  void head(const std::string& key, std::uint32_t type) {
    add_text(values, key);
    add(values, type);
    ++value_count;
  }
  File& tensor(const std::string& name, std::vector<std::uint64_t> sizes, std::uint32_t type, std::uint64_t offset) {
    add_text(tensors, name);
    add(tensors, static_cast<std::uint32_t>(sizes.size()));
    for (const auto size : sizes) add(tensors, size);
    add(tensors, type);
    add(tensors, offset);
    ++tensor_count;
    return *this;
  }
  std::string bytes() const {
    std::string out = "GGUF";
    add(out, version);
    add(out, tensor_count);
    add(out, value_count);
    out += values + tensors;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
  std::string error() const {
    const test::Folder folder;
    const auto path = folder.put("m.gguf", bytes());
    return message_of([&] { io::Gguf file(path); });
  }
};

void check_parts(const std::string& message, const std::vector<std::string>& parts) {
  for (const auto& part : parts) CHECK_MESSAGE(message.find(part) != message.npos, message, " lacks ", part);
}

}  // namespace

TEST_CASE("GGUF: blocks of every type equal PyPI's gguf to the bit") {
  const io::Gguf file(in("blocks.gguf"));
  const io::Safetensors expected(in("blocks.safetensors"));
  CHECK(file.names() == expected.names());
  CHECK(file.size() == 11);
  for (const auto& name : file.names()) {
    CAPTURE(name);
    const auto& entry = file.find(name);
    CHECK(entry.shape == std::vector<std::int64_t>{3, 512});
    std::vector<float> found(3 * 512), values(3 * 512);
    io::copy_to<float>(entry, found);
    io::copy_to<float>(expected.find(name), values);
    CHECK(std::memcmp(found.data(), values.data(), sizeof(float) * found.size()) == 0);
    std::vector<float> again(found.size());  // through pieces that end within blocks
    for (std::size_t at = 0; at < again.size(); at += 37)
      io::detail::copy_elements<float>(
          entry, at, std::span(again).subspan(at).first(std::min<std::size_t>(37, again.size() - at)), "", {});
    CHECK(again == found);
  }
}

TEST_CASE("GGUF: a model has the parameters of the folder that it was made of") {
  for (const std::string name : {"llama_lm", "mistral", "qwen2", "qwen3", "gemma3_lm"}) {
    CAPTURE(name);
    checkpoints::LoadReport report;
    const auto model = checkpoints::hf<double>(in(name + ".gguf"), &report),
               folder = checkpoints::hf<double>(golden() + "/" + name);
    CHECK(report.unused.empty());
    std::vector<std::pair<std::string, std::vector<double>>> found, expected;
    nn::for_each_parameter(model, [&](const auto& at, const auto& p) { found.emplace_back(at, p.value().values()); });
    nn::for_each_parameter(folder,
                           [&](const auto& at, const auto& p) { expected.emplace_back(at, p.value().values()); });
    if (name == "gemma3_lm")  // whose norms are there with one more
      for (auto* list : {&found, &expected})
        for (auto& [at, values] : *list)
          if (at.ends_with("norm.weight"))
            for (auto& x : values) x = std::round(x * 1e12);
    CHECK(found == expected);
    const auto &layer = model.layers[1].attention, &other = folder.layers[1].attention;
    CHECK(layer.heads == other.heads);
    CHECK(layer.key_heads == other.key_heads);
    CHECK(model.spec.longest() == 24);
    if (name == "mistral") CHECK(layer.window == 3);
    if (name == "gemma3_lm") CHECK((layer.window == 4 && layer.scale == 1 / std::sqrt(6.0)));
    if (name == "llama_lm") continue;  // whose frequencies GGUF has as a tensor
    for (const Index pair : {0, 1, 2})
      CHECK(layer.rotary->frequency(pair) == doctest::Approx(other.rotary->frequency(pair)).epsilon(1e-6));
    CHECK(layer.rotary->magnitude == doctest::Approx(other.rotary->magnitude));
  }
}

TEST_CASE("GGUF: Llama 3.1's frequencies, from the numbers that they are divided by") {
  const auto with = [](double factor, double change, float scaling = 1) {
    File file;
    file.text("general.architecture", "llama");
    for (const auto& [key, value] : {std::pair{"block_count", 1u},
                                     {"context_length", 64u},
                                     {"embedding_length", 64u},
                                     {"feed_forward_length", 32u},
                                     {"attention.head_count", 1u}})
      file.integer(std::string("llama.") + key, value);
    file.number("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    file.number("llama.rope.freq_base", 500000.0f).number("llama.rope.scaling.factor", scaling);
    file.tensor("token_embd.weight", {64, 2}, 1, 0).tensor("rope_freqs.weight", {32}, 0, 256);
    file.data.resize(256);
    for (int i = 0; i < 32; ++i) {
      const double turns = 8192 * std::pow(500000.0, -i / 32.0) / (2 * std::acos(-1.0));
      const double kept = std::clamp((turns - 1) / 3, 0.0, 1.0);
      File::add(file.data, static_cast<float>((1 + (i == 2 ? change : 0)) / ((1 - kept) / factor + kept)));
    }
    const test::Folder folder;
    const auto path = folder.put("m.gguf", file.bytes());
    return io::GgufModel(path).config();
  };
  const auto rope = with(32, 0)["rope_scaling"];
  CHECK(rope["rope_type"] == "llama3");
  CHECK(rope["factor"] == 32);
  CHECK(rope["original_max_position_embeddings"] == 8192);
  check_parts(message_of([&] { with(8, 0, 2); }), {"rope.scaling 'linear' beside the tensor rope_freqs.weight is not"});
  check_parts(message_of([&] { with(8, 0.01); }), {"rope_freqs.weight: element 2 is 1.01", "as Llama 3.1's"});
}

TEST_CASE("GGUF: what config.json would say, by the file's keys; what is not supported is named") {
  const auto with = [](const std::string& architecture, const std::function<void(File&, const std::string&)>& more,
                       bool epsilon = true) {
    File file;
    file.text("general.architecture", architecture);
    const std::string lead = architecture + ".";
    if (epsilon) file.number(lead + "attention.layer_norm_rms_epsilon", 0.5f);
    for (const auto& [key, value] : {std::pair{"context_length", 64u},
                                     {"embedding_length", 64u},
                                     {"feed_forward_length", 32u},
                                     {"attention.head_count", 4u}})
      file.integer(lead + key, value);
    more(file, lead);
    if (architecture != "gemma3") file.integer(lead + "block_count", 1);
    file.tensor("token_embd.weight", {64, 2}, 1, 0);
    file.data.resize(256);
    const test::Folder folder;
    const auto path = folder.put("m.gguf", file.bytes());
    return io::GgufModel(path).config();
  };
  const auto config = [&](const char* key, std::uint32_t value, const std::string& architecture = "llama") {
    return with(architecture, [&](File& file, const std::string& lead) { file.integer(lead + key, value); });
  };
  const auto refused = [&](const char* key, std::uint32_t value, const std::string& architecture = "llama") {
    return message_of([&] { (void)config(key, value, architecture); });
  };
  const auto usual = config("expert_count", 0);
  CHECK((usual["rope_theta"] == 10000 && usual["rms_norm_eps"] == 0.5));
  CHECK((usual["head_dim"] == 16 && usual["num_key_value_heads"] == 4 && usual["vocab_size"] == 2));
  CHECK((usual["tie_word_embeddings"] == true && !usual.contains("rope_dimension_count")));
  check_parts(message_of([&] {
                (void)with(
                    "llama", [](File&, const std::string&) {}, false);
              }),
              {"llama.attention.layer_norm_rms_epsilon' is missing"});
  check_parts(refused("rope.dimension_count", 8),
              {"llama.rope.dimension_count", "expected 16, as attention.key_length"});
  check_parts(
      message_of([&] { (void)with("llama", [](File& file, const std::string&) { file.integer("split.count", 2); }); }),
      {"split.count", "--merge", "found 2"});
  const auto turned = config("rope.dimension_count", 8, "qwen2");
  CHECK(turned.value("rope_dimension_count", 0) == 8);
  CHECK(checkpoints::read_spec(io::Config("m.gguf", turned)).layers.layer.rotary->rotated == 8);
  const auto sliding = config("attention.sliding_window", 7);
  CHECK((sliding["model_type"] == "mistral" && sliding["sliding_window"] == 7));
  check_parts(refused("expert_count", 8), {"llama.expert_count", "mixtures of experts", "found 8"});
  check_parts(refused("attention.value_length", 8), {"attention.value_length", "expected 16", "found 8"});
  check_parts(refused("attention.sliding_window", 7, "qwen2"), {"qwen2.attention.sliding_window", "none, as Qwen has"});
  for (const char* name : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor",
                           "rope.scaling.yarn_log_multiplier", "attn_logit_softcapping", "final_logit_softcapping"}) {
    const auto told = [&](float value) {
      return message_of(
          [&] { (void)with("llama", [&](File& file, const std::string& lead) { file.number(lead + name, value); }); });
    };
    check_parts(told(1.5f), {std::string("llama.") + name, "another is not supported, found 1.5"});
    CHECK(told(std::string_view(name).find("factor") != std::string_view::npos ? 1.0f : 0.0f) == "no error");
  }
  for (const bool causal : {true, false}) {
    const auto told = message_of([&] {
      (void)with("qwen2", [&](File& file, const std::string& lead) { file.flag(lead + "attention.causal", causal); });
    });
    CHECK((told == "no error") == causal);
    CHECK((told.find("attention to both sides is not supported") == std::string::npos) == causal);
  }
  // Linear, where no kind is named, by a factor under either name; with one as 0 and 1 it is none.
  const auto scaled = [&](const char* name, float factor, const char* kind = nullptr) {
    return with("llama", [&](File& file, const std::string& lead) {
      file.number(lead + name, factor);
      if (kind) file.text(lead + "rope.scaling.type", kind);
    });
  };
  for (const char* name : {"rope.scaling.factor", "rope.scale_linear"}) {
    const nlohmann::json linear{{"rope_type", "linear"}, {"factor", 4.0}};
    CHECK(scaled(name, 4)["rope_scaling"] == linear);
    CHECK(scaled(name, 4, "linear")["rope_scaling"] == linear);
    for (const float none : {0.0f, 1.0f}) CHECK_FALSE(scaled(name, none).contains("rope_scaling"));
    CHECK_FALSE(scaled(name, 4, "none").contains("rope_scaling"));
  }
  const auto yarn = with("llama", [](File& file, const std::string& lead) {
    file.text(lead + "rope.scaling.type", "yarn").number(lead + "rope.scaling.factor", 4);
    file.number(lead + "rope.scaling.yarn_beta_fast", 30).number(lead + "rope.scaling.yarn_beta_slow", 2);
    file.integer(lead + "rope.scaling.original_context_length", 16);
  })["rope_scaling"];
  CHECK((yarn["rope_type"] == "yarn" && yarn["factor"] == 4 && yarn["original_max_position_embeddings"] == 16));
  CHECK((yarn["beta_fast"] == 30 && yarn["beta_slow"] == 2));
  // Scores of Gemma 3's largest, of 62 layers, are scaled by the width's share of a head, those of others by head_dim.
  for (const std::uint32_t layers : {61u, 62u}) {
    const auto gemma = with("gemma3", [&](File& file, const std::string& lead) {
      file.integer(lead + "block_count", layers).integer(lead + "attention.key_length", 24);
      file.integer(lead + "attention.value_length", 24).integer(lead + "attention.sliding_window", 5);
      file.number(lead + "rope.freq_base", 3e5f);
    });
    CHECK(gemma["query_pre_attn_scalar"] == (layers == 62 ? 16 : 24));
    CHECK((gemma["sliding_window"] == 5 && gemma["sliding_window_pattern"] == 6));
    CHECK(gemma["rope_parameters"]["full_attention"]["rope_theta"] == 3e5);
    CHECK(gemma["rope_parameters"]["sliding_attention"]["rope_theta"] == 10000);
  }
  const auto slides = [&](const std::string& which, bool turns) {
    return with("gemma3", [&](File& file, const std::string& lead) {
      file.integer(lead + "block_count", 3).integer(lead + "attention.sliding_window", 5);
      file.flags(lead + "attention.sliding_window_pattern", which);
      if (turns) file.number(lead + "rope.freq_base", 3e5f);
    });
  };
  using namespace std::string_literals;
  CHECK(slides("\1\0\1"s, true)["layer_types"] ==
        nlohmann::json{"sliding_attention", "full_attention", "sliding_attention"});
  check_parts(message_of([&] { (void)slides("\1\2\1"s, true); }), {"sliding_window_pattern", "an array of booleans"});
  check_parts(message_of([&] { (void)slides("\1\1\1"s, false); }), {"gemma3.rope.freq_base' is missing"});
}

TEST_CASE("GGUF: the tokenizer of the file's tables") {
  const auto smol = checkpoints::read_tokenizer(in("llama_lm.gguf")),
             qwen = checkpoints::read_tokenizer(in("qwen3.gguf"));
  const auto shown = [](const text::Tokenizer& tokenizer, const std::string& text) {
    std::string out;
    for (const auto id : tokenizer.encode(text).ids) out += (out.empty() ? "" : "|") + tokenizer.token(id);
    return out;
  };
  CHECK(shown(smol, "abc ab12<|im_end|>") == "<|im_start|>|abc|Ġ|ab|1|2|<|im_end|>");
  CHECK(shown(qwen, "abc\n\n!b unused") == "abc|Ċ|Ċ|!|b|Ġ|unused");
  CHECK(smol.bos() == 1);
  CHECK(smol.eos() == 2);
  CHECK(smol.pad() == 2);
  CHECK(smol.longest() == 24);
  CHECK(smol.types() == 1);
  CHECK(smol.decode(smol.encode("ab 1").ids) == "ab 1");
}

// The ids are those of transformers 5.24 for the same file.
TEST_CASE("GGUF: the merges of SentencePiece's tables") {
  const auto gemma = checkpoints::read_tokenizer(in("gemma3_lm.gguf"));
  using Ids = std::vector<std::int32_t>;
  CHECK(gemma.encode("abc ab abcab  a   b é<start>ab. <bos>1 ").ids ==
        Ids{2, 265, 266, 268, 265, 263, 5, 269, 6, 270, 268, 202, 176, 4, 263, 295, 268, 2, 296, 268});
  CHECK(gemma.encode(" a").ids == Ids{2, 264});
  CHECK(gemma.encode("x\n\ty\u2581ab").ids == Ids{2, 292, 17, 16, 293, 266});
  CHECK(gemma.decode(gemma.encode("abc  é<start>ab.").ids) == "abc  é<start>ab.");
  CHECK((gemma.bos() == 2 && gemma.eos() == 1 && gemma.pad() == 0 && gemma.unk() == 3));
}

// By hand: what llama.cpp's converter writes of Llama 2's, whose merges are in the order of the scores.
TEST_CASE(
    "GGUF: SentencePiece's tables by their scores; a space before the first word, unless the file says otherwise") {
  const auto read = [](const std::string& flag = "") {
    File file;
    file.text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "llama")
        .integer("llama.context_length", 24);
    file.texts("tokenizer.ggml.tokens",
               {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "\u2581a", "ab"});
    file.numbers("tokenizer.ggml.scores", {0, 0, 0, 0, 0, -5, -6, -7, -2, -1});
    file.numbers("tokenizer.ggml.token_type", {2, 3, 3, 6, 6, 1, 1, 1, 1, 1});
    file.integer("tokenizer.ggml.bos_token_id", 1).integer("tokenizer.ggml.eos_token_id", 2);
    if (!flag.empty()) file.flag("tokenizer.ggml." + flag, flag == "add_eos_token");
    const test::Folder folder;
    return checkpoints::read_tokenizer(folder.put("m.gguf", file.bytes()));
  };
  using Ids = std::vector<std::int32_t>;
  const auto usual = read();
  CHECK(usual.encode("ab a").ids == Ids{1, 5, 9, 8});  // ab before the earlier id of a space and a
  CHECK(usual.encode("\u00e9").ids == Ids{1, 5, 3, 4});
  CHECK(usual.encode(" a").ids == Ids{1, 5, 8});  // before what begins with a space too, and behind a token
  CHECK(usual.encode("a</s>a").ids == Ids{1, 8, 2, 8});
  CHECK(usual.decode(Ids{1, 5, 9, 8}) == "ab a");
  CHECK((usual.bos() == 1 && usual.eos() == 2 && usual.longest() == 24));
  const auto bare = read("add_space_prefix");
  CHECK(bare.encode("ab a").ids == Ids{1, 9, 8});
  CHECK(bare.encode(" a</s>a").ids == Ids{1, 8, 2, 6});
  CHECK(bare.decode(Ids{1, 5, 9, 8}) == " ab a");
  CHECK(read("add_bos_token").encode("ab").ids == Ids{5, 9});
  CHECK(read("add_eos_token").encode("ab").ids == Ids{1, 5, 9, 2});
}

TEST_CASE("GGUF: where words end, by the name of what comes before merges") {
  const auto read = [](const char* pre) {
    File file;
    file.text("general.architecture", "llama").text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
    file.texts("tokenizer.ggml.tokens", {"1", "2", "12", "a", "b", "ab", "aba", "s", "'", "'s", "'S", "S", "<s>"});
    file.texts("tokenizer.ggml.merges", {"1 2", "a b", "' s", "' S"});
    file.integer("tokenizer.ggml.bos_token_id", 12);
    const test::Folder folder;
    return checkpoints::read_tokenizer(folder.put("m.gguf", file.bytes()));
  };
  using Ids = std::vector<std::int32_t>;
  CHECK(read("gpt-2").tokens("1212'S's") == Ids{2, 2, 8, 11, 9});
  CHECK(read("smollm").tokens("1212'S's") == Ids{0, 1, 0, 1, 8, 11, 9});
  CHECK(read("qwen2").tokens("1212'S's") == Ids{0, 1, 0, 1, 10, 9});
  CHECK(read("llama-bpe").tokens("1212'S's") == Ids{2, 0, 1, 10, 9});
  CHECK(read("qwen2").tokens("aba") == Ids{5, 3});
  CHECK(read("llama-bpe").tokens("aba") == Ids{6});  // a word that is a token, whatever the merges
  // Llama 3's texts begin with a token of their own where the file does not say.
  for (const char* pre : {"llama-bpe", "llama3", "llama-v3", "falcon3"})
    CHECK(read(pre).encode("ab").ids == Ids{12, 5});
  CHECK(read("smaug-bpe").tokens("1212'S's") == Ids{2, 0, 1, 10, 9});
  CHECK(read("smaug-bpe").encode("aba").ids == Ids{5, 3});
  CHECK(read("qwen2").encode("ab").ids == Ids{5});
  check_parts(message_of([&] { (void)read("mpt"); }), {"tokenizer.ggml.pre", "smollm, llama-bpe, qwen2, gpt-2 or"});
}

TEST_CASE("GGUF: metadata by kind") {
  File file;
  file.text("general.architecture", "x").integer("n", 7);
  file.number("f", 0.5f).flag("b", true).texts("list", {"one", ""}).flag("odd", true);
  file.values.back() = '\2';
  const test::Folder folder;
  const io::Gguf read(folder.put("m.gguf", file.bytes()));
  CHECK(read.integer("n") == 7);
  CHECK(read.number("n") == 7);
  CHECK(read.number("f") == 0.5);
  CHECK(read.flag("b") == true);
  CHECK(read.text("general.architecture") == "x");
  CHECK_FALSE(read.integer("none"));
  std::vector<std::string> texts;
  CHECK(read.each_text("list", [&](std::string_view text) { texts.emplace_back(text); }));
  CHECK(texts == std::vector<std::string>{"one", ""});
  check_parts(message_of([&] { (void)read.flag("odd"); }), {"'odd'", "a boolean"});
  check_parts(message_of([&] { (void)read.integer("f"); }), {"m.gguf", "'f'", "an integer", "0.5"});
  check_parts(message_of([&] { (void)read.text("list"); }), {"'list'", "one value", "an array of 2"});
  check_parts(message_of([&] { (void)read.each_number("list", [](double) {}); }), {"an array of numbers"});
  check_parts(message_of([&] { io::GgufModel model(read.path()); }), {"general.architecture", "llama", "found 'x'"});
}

TEST_CASE("GGUF: damaged files are refused by name") {
  CHECK(File().error() == "no error");
  check_parts(File{.version = 1}.error(), {"m.gguf: version 1, expected 2 or 3"});
  check_parts(File{.version = 0x03000000}.error(), {"big-endian"});
  check_parts(File{.value_count = UINT64_MAX}.error(), {"18446744073709551615 values do not fit"});
  check_parts(File{.tensor_count = 1ull << 60}.error(), {"tensors do not fit"});
  File file;
  file.text("a", "1").text("a", "2");
  check_parts(file.error(), {"'a'", "given twice"});
  file = {};
  file.head("a", 13);
  check_parts(file.error(), {"'a': type 13, expected 0 to 12"});
  file = {};
  file.head("a", 9);
  File::add(file.values, 9u);
  check_parts(file.error(), {"arrays of arrays"});
  file = {};
  file.head("a", 9);
  File::add(file.values, 10u);
  File::add(file.values, std::uint64_t{1} << 61);
  check_parts(file.error(), {"elements of an array do not fit"});
  file = {};
  file.integer("general.alignment", 24);
  check_parts(file.error(), {"general.alignment is 24"});
  check_parts(File().tensor("t", {3}, 0, 16).error(), {"'t'", "offset 16 is no multiple of 32"});
  check_parts(File().tensor("t", {3}, 0, 32).error(), {"'t'", "bytes 32 to 32 + 12", "which has 0"});
  check_parts(File().tensor("t", {3}, 16, 0).error(), {"type 16 is not supported", "Q4_K"});
  check_parts(File().tensor("t", {33}, 2, 0).error(), {"Q4_0 has blocks of 32", "[33]"});
  check_parts(File().tensor("t", {1, 1, 1, 1, 1}, 0, 0).error(), {"5 dimensions"});
  check_parts(File().tensor("t", {1ull << 62, 8}, 2, 0).error(), {"too large"});
  check_parts(File().tensor("t", {1ull << 63}, 0, 0).error(), {"too large"});
  file = {};
  file.data.resize(64);
  check_parts(File(file).tensor("a", {12}, 0, 0).tensor("b", {1}, 0, 32).error(), {"'a'", "'b'", "overlap"});
  check_parts(File(file).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32).error(), {"'a'", "twice"});
  CHECK(File(file).tensor("a", {8}, 0, 0).tensor("b", {1}, 0, 32).error() == "no error");
  CHECK(File{.version = 2}.error() == "no error");

  // The data begin at the next multiple of what the file says.
  for (const std::uint32_t alignment : {8u, 64u, 256u}) {
    File aligned;
    aligned.integer("general.alignment", alignment).tensor("t", {2}, 0, alignment);
    std::string bytes = aligned.bytes();
    bytes.resize(4 + 4 + 8 + 8 + aligned.values.size() + aligned.tensors.size());
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment + alignment);
    File::add(bytes, 1.5f);
    File::add(bytes, -2.5f);
    const test::Folder place;
    const io::Gguf read(place.put("m.gguf", bytes));
    std::vector<float> found(2);
    io::copy_to<float>(read.find("t"), found);
    CHECK(found == std::vector<float>{1.5f, -2.5f});
  }

  const std::string whole = bytes_of(in("qwen3.gguf"));
  const test::Folder folder;
  for (std::size_t size = 0; size < whole.size(); size += size < 3000 ? 7 : 4001)
    CHECK(message_of([&] { io::Gguf damaged(folder.put("m.gguf", whole.substr(0, size))); }) != "no error");
}
