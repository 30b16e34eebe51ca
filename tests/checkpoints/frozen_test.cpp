// Owns: models whose frozen weights are in blocks: made from a folder's, or as they lie in a GGUF file. Bits are those
// of the decoded weights in bf16, whatever is trained above them, and those of stored activations at any thread count.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/method/any.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>

#include <doctest/doctest.h>

#include "folder.hpp"
#include "golden.hpp"
#include "methods.hpp"

using namespace meft;

namespace {

using Model = model::Transformer<float>;

/// A GGUF file of a small Llama with an output of its own, each matrix in another format.
struct Llama {
  static constexpr Index width = 64, ffn = 96, words = 40;
  std::string tensors{}, data{};
  std::uint64_t count = 0, matrices = 0;

  template <class T>
  static void add(std::string& to, T x) {
    to.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  static void text(std::string& to, const std::string& x) { add(to, std::uint64_t{x.size()}), to += x; }

  void bytes(const std::string& name, std::vector<Index> shape, std::uint32_t type, const std::string& with) {
    text(tensors, name);
    add(tensors, static_cast<std::uint32_t>(shape.size()));
    for (auto d = shape.rbegin(); d != shape.rend(); ++d) add(tensors, static_cast<std::uint64_t>(*d));
    add(tensors, type);
    add(tensors, static_cast<std::uint64_t>(data.size()));
    data += with;
    data.resize((data.size() + 31) / 32 * 32);
    ++count;
    if (shape.size() > 1) matrices += with.size();
  }
  void matrix(const std::string& name, Index rows, Index columns, const std::string& dtype) {
    std::vector<float> x(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(random_bits({3, static_cast<std::uint32_t>(count), 0}, i) % 255) / 512 - 0.25f;
    std::string out;
    const auto* format = weights::format_named(dtype);
    if (dtype == "F32") out.assign(reinterpret_cast<const char*>(x.data()), 4 * x.size());
    else if (!format->encode)
      for (const float v : x) dtype == "F16" ? add(out, half(v)) : add(out, bf16(v));
    else {
      out.resize(x.size() / format->numbers * format->bytes);
      for (std::size_t at = 0; at < x.size() / format->numbers; ++at)
        format->encode(&x[at * format->numbers], reinterpret_cast<std::byte*>(&out[at * format->bytes]));
    }
    if (name == "token_embd.weight" && dtype != "F32")  // scales that make every number one of bf16
      for (std::size_t at = 0; at < out.size(); at += format->bytes) {
        const half scale(0x1p-9f);
        std::memcpy(&out[at], &scale, 2);
      }
    const std::uint32_t type = dtype == "F32" ? 0 : dtype == "F16" ? 1 : dtype == "Q4_0" ? 2 : dtype == "Q8_0" ? 8 : 30;
    bytes(name, {rows, columns}, type, out);
  }
  void norm(const std::string& name) {
    std::string out;
    for (Index i = 0; i < width; ++i) add(out, 1.0f + static_cast<float>(i % 5) / 16);
    bytes(name, {width}, 0, out);
  }

  /// With each matrix in `dtype`, where there is one.
  static Llama whole(const std::string& dtype = "") {
    Llama f;
    const auto matrix = [&](const std::string& name, Index rows, Index columns, const std::string& its) {
      f.matrix(name, rows, columns, dtype.empty() ? its : dtype);
    };
    matrix("token_embd.weight", words, width, "Q8_0");
    for (const std::string at : {"blk.0.", "blk.1."}) {
      matrix(at + "attn_q.weight", width, width, "Q4_0");
      matrix(at + "attn_k.weight", width / 2, width, "Q8_0");
      matrix(at + "attn_v.weight", width / 2, width, "F16");
      matrix(at + "attn_output.weight", width, width, "Q4_0");
      matrix(at + "ffn_gate.weight", ffn, width, "BF16");
      matrix(at + "ffn_up.weight", ffn, width, "Q4_0");
      matrix(at + "ffn_down.weight", width, ffn, "F32");
      f.norm(at + "attn_norm.weight"), f.norm(at + "ffn_norm.weight");
    }
    f.norm("output_norm.weight");
    matrix("output.weight", words, width, "Q4_0");
    return f;
  }
  std::string file() const {
    std::string keys;
    std::uint64_t n = 1;
    text(keys, "general.architecture"), add(keys, 8u), text(keys, "llama");
    const auto number = [&](const std::string& name, auto value) {
      text(keys, "llama." + name), add(keys, std::is_same_v<decltype(value), float> ? 6u : 4u), add(keys, value), ++n;
    };
    number("block_count", 2u), number("context_length", 32u), number("embedding_length", std::uint32_t{width});
    number("feed_forward_length", std::uint32_t{ffn}), number("attention.head_count", 4u);
    number("attention.head_count_kv", 2u), number("attention.layer_norm_rms_epsilon", 1e-5f);
    std::string out = "GGUF";
    add(out, 3u), add(out, count), add(out, n);
    out += keys + tensors;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

std::size_t mapped(const auto& module) {
  std::size_t out = 0;
  nn::walk(module, [&](const std::string&, const PackedWeight<float>& w) { out += w.mapped_bytes(); });
  return out;
}

nn::Batch<> batch() {
  std::vector<std::vector<std::int32_t>> ids;
  for (const int length : {7, 12, 3}) {
    ids.emplace_back();
    for (int i = 0; i < length; ++i) ids.back().push_back((5 * i + 3 * length) % 40);
  }
  auto out = nn::Batch<>::pack(ids);
  out.labels = Tensor<std::int32_t>::from({3}, {0, 1, 1});
  out.run = {1, 0, true};
  return out;
}

/// The loss and all gradients of a learner, in walking order.
std::vector<float> gradients(auto& learner, const nn::Batch<>& batch) {
  std::vector<float> out;
  auto trained = nn::trainable<float, Cpu>(learner);
  REQUIRE(!trained.empty());
  for (auto& [name, p] : trained) p.zero_gradient();
  {
    Tape tape;
    const auto loss = learner.loss(batch);
    out.push_back(loss.value().item());
    tape.backward(loss);
  }
  for (auto& [name, p] : trained)
    for (const float g : p.gradient().values()) out.push_back(g);
  return out;
}

/// Of a classifier under a method.
std::vector<float> classified(Model model, const AnyMethod& method) {
  task::Learner<Model> learner{std::move(model), {}, {}};
  learner.body = adapt(learner.model, method, {.seed = 5});
  learner.head = nn::Classifier<float>::make(learner.model.hidden(), 2, {1, 9, 0});
  learner.head.pooling = nn::Pooling::last;
  return gradients(learner, batch());
}
/// Of a language model under exact or stored MEFT1.
std::vector<float> predicted(const Model& model, const nn::LanguageHead<float>& head, Streams streams) {
  auto method = narrow("meft1");
  (void)set_option(method, "streams", streams == Streams::exact ? "exact" : "stored");
  task::LanguageLearner<Model> learner{model, {}, head};
  freeze(learner.head);
  learner.body = adapt(learner.model, method, {.seed = 5});
  auto some = batch();
  std::vector<std::int32_t> next;
  for (Index i = 0; i < some.ids.size(); ++i) next.push_back(static_cast<std::int32_t>((7 * i) % 40));
  some.labels = Tensor<std::int32_t>::from({some.ids.size()}, next);
  return gradients(learner, some);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    apart += std::pow(static_cast<double>(a[i] - b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(apart / size);
}

}  // namespace

TEST_CASE("frozen: weights of a GGUF file as they are stored lie in it, and have the bits of bf16") {
  const test::Folder folder;
  const auto file = Llama::whole();
  const auto path = folder.put("m.gguf", file.file());
  checkpoints::LoadReport report;
  const auto load = [&](Precision p) { return checkpoints::hf(path, &report, p); };
  const auto stored = load(Precision::as_stored);
  const auto head = checkpoints::load_language_head(path, stored, 0, &report, Precision::as_stored);
  CHECK(report.notes.empty());
  CHECK(report.unused.empty());
  CHECK(head.untied);
  CHECK(mapped(stored) + mapped(head) == file.matrices);
  nn::walk(stored, [](const std::string&, const nn::Linear<float>& l) {
    CHECK(l.packed.precision() == Precision::as_stored);
    CHECK(l.packed.bytes() == 0);
  });
  for (const char* name : {"lora", "meft1", "meft3", "qst", "bitfit"}) {
    CAPTURE(name);
    auto method = narrow(name);
    (void)set_option(method, "lora-rank", "2");
    CHECK(classified(load(Precision::as_stored), method) == classified(load(Precision::bf16), method));
  }
  const auto exact = predicted(load(Precision::as_stored), head, Streams::exact);
  CHECK(exact == predicted(load(Precision::as_stored), head, Streams::stored));
  const int before = threads();
  set_threads(before == 1 ? 2 : 1);
  CHECK(exact == predicted(load(Precision::as_stored), head, Streams::exact));
  set_threads(before);
  // The table in float: the head's product alone is another.
  auto wide = head;
  wide.word = Parameter<float>(head.table.unpack());
  wide.table = {};
  const double apart = distance(predicted(load(Precision::as_stored), wide, Streams::exact), exact);
  CHECK(apart < 0.02);
  CHECK(apart > 0);
}

TEST_CASE("frozen: what no product reads is kept in bf16, and said; broken scales are refused") {
  const test::Folder folder;
  auto file = Llama::whole();
  const auto path = folder.put("m.gguf", file.file());
  const auto owner = std::make_shared<const io::Weights>(path);
  auto entry = owner->find("model.layers.0.self_attn.v_proj.weight");
  entry.dtype = "I16";
  CHECK_FALSE(checkpoints::stored_weight<float, Cpu>(entry, 32, 64, owner).defined());
  entry.dtype = "F16", entry.shape = {64, 32};
  CHECK_FALSE(checkpoints::stored_weight<float, Cpu>(entry, 128, 8, owner).defined());
  CHECK_FALSE(checkpoints::stored_weight<float, Cpu>(entry, 64, 64, owner).defined());

  const half nan(std::numeric_limits<float>::quiet_NaN());
  std::memcpy(&file.data[0], &nan, 2);
  const auto broken = folder.put("broken.gguf", file.file());
  CHECK_THROWS_WITH_AS(checkpoints::hf(broken, nullptr, Precision::as_stored), doctest::Contains("token_embd.weight"),
                       Error);
  // A folder of weights in double: none is read as it is.
  checkpoints::LoadReport report;
  const auto wide = golden() + "/llama_lm";
  const auto model = checkpoints::hf(wide, &report, Precision::as_stored);
  REQUIRE(!report.notes.empty());
  CHECK(report.notes[0].starts_with("kept in bf16, since no product reads them as they are stored: "));
  CHECK(model.embeddings->table.precision() == Precision::bf16);  // the table too
  CHECK_FALSE(model.embeddings->word.defined());
}

TEST_CASE("frozen: what is stored in no more bits than it is brought into stays as it is") {
  const test::Folder folder;
  const auto file = Llama::whole();
  const auto path = folder.put("m.gguf", file.file());
  const auto owner = std::make_shared<const io::Weights>(path);
  std::set<std::string> kept;
  for (const auto& made : weights::made) {
    CAPTURE(name_of(made.precision));
    checkpoints::LoadReport report;
    const auto model = checkpoints::hf(path, &report, made.precision);
    std::size_t expected = 0;
    nn::walk(model, [&](const std::string& name, const nn::Linear<float>& l) {
      const auto& entry = owner->find("model." + name + ".weight");
      const auto* stored = weights::block_format(entry.dtype);
      const bool stays = stored && stored->bits <= made.format.bits;
      CAPTURE(name);
      CHECK(l.packed.precision() == (stays ? Precision::as_stored : made.precision));
      CHECK(l.packed.mapped_bytes() == (stays ? entry.bytes.size() : 0));
      if (stays) kept.insert(entry.dtype), expected += entry.bytes.size();
    });
    expected += owner->find("model.embed_tokens.weight").bytes.size();  // Q8_0
    CHECK(mapped(model) == expected);
    REQUIRE(!report.notes.empty());
    CHECK(report.notes[0].starts_with("kept as they are stored, in no more bits: token_embd.weight (Q8_0) and "));
  }
  CHECK(kept == std::set<std::string>{"Q4_0", "Q8_0"});
}

TEST_CASE("frozen: weights are brought into blocks as they are read") {
  const test::Folder folder;
  const auto path = folder.put("m.gguf", Llama::whole("F32").file());
  const auto plain = checkpoints::hf(path);
  for (const auto& made : weights::made) {
    const auto precision = made.precision;
    CAPTURE(name_of(precision));
    const auto model = checkpoints::hf(path, nullptr, precision);
    CHECK(mapped(model) == 0);
    const auto &found = model.layers[1].down.packed,
               expected = PackedWeight<float>(plain.layers[1].down.weight.value(), precision);
    CHECK(found.precision() == precision);
    CHECK(found.unpack().values() == expected.unpack().values());
    CHECK_FALSE(model.embeddings->word.defined());
    const auto ids = Tensor<std::int32_t>::from({4}, {3, 39, 0, 3});
    const auto words = model.embeddings->words(ids).value().values();
    CHECK(distance(words, plain.embeddings->words(ids).value().values()) < 0.01);
    CHECK_THROWS_WITH_AS(model.embeddings->words(Tensor<std::int32_t>::from({2}, {3, 40})), doctest::Contains("id 40"),
                         Error);
    // A method that finds weights unpacked packs them so itself.
    auto later = checkpoints::hf(path);
    later.embeddings->table = model.embeddings->table;
    auto method = narrow("meft2");
    task::Learner<Model> learner{std::move(later), {}, {}};
    learner.body = adapt(learner.model, method, {.precision = precision, .seed = 5});
    learner.head = nn::Classifier<float>::make(learner.model.hidden(), 2, {1, 9, 0});
    learner.head.pooling = nn::Pooling::last;
    CHECK(gradients(learner, batch()) == classified(checkpoints::hf(path, nullptr, precision), method));
    // Exact is stored, at any thread count.
    const auto head = checkpoints::load_language_head(path, model, 0, nullptr, precision);
    const auto exact = predicted(model, head, Streams::exact);
    CHECK(exact == predicted(model, head, Streams::stored));
    const int before = threads();
    set_threads(before == 1 ? 2 : 1);
    CHECK(exact == predicted(model, head, Streams::exact));
    set_threads(before);
  }
}
