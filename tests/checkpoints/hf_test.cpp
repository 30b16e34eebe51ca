// Owns: a Hugging Face folder into a model and its head: every spelling of names, prefixes, tied and untied outputs,
// the order of labels, shards, and each way to be wrong.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/export.hpp>
#include <meft/checkpoints/hf.hpp>

#include "folder.hpp"

namespace {

using namespace meft;
using test::check_error;
using test::Folder;
using Transformer = model::Transformer<float>;

std::string config(const std::string& changes = "") {
  return R"({"model_type": "bert", "vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 8, "max_position_embeddings": 5, "hidden_act": "gelu", "layer_norm_eps": 1e-5)" +
         changes + "}";
}

struct Values {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

/// The tensors of a checkpoint with pooler and classifier: the k-th holds k + 0, 1/8, 2/8 …
std::vector<Values> checkpoint() {
  Folder folder;
  folder.put("config.json", config());
  Transformer bert(checkpoints::read_spec(io::Config(folder.text())));
  std::vector<Values> out;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    std::int64_t n = 1;
    for (const auto d : shape) n *= d;
    std::vector<float> values;
    for (std::int64_t i = 0; i < n; ++i) values.push_back(static_cast<float>(out.size()) + static_cast<float>(i) / 8);
    out.push_back({name, std::move(shape), std::move(values)});
  };
  nn::for_each_parameter(
      bert,
      [&](const std::string& name, const Parameter<float>& p) {
        std::vector<std::int64_t> shape;
        for (int i = 0; i < p.shape().rank(); ++i) shape.push_back(p.shape()[i]);
        add(name, shape);
      },
      "bert");
  add("bert.pooler.dense.weight", {6, 6});
  add("bert.pooler.dense.bias", {6});
  add("classifier.weight", {3, 6});
  add("classifier.bias", {3});
  return out;
}

void write(const Folder& folder, const std::vector<Values>& tensors, const std::string& file = "model.safetensors") {
  std::vector<io::NamedTensor> named;
  for (const auto& t : tensors) named.push_back({t.name, "F32", t.shape, std::as_bytes(std::span(t.values))});
  io::write_safetensors(folder.text() + "/" + file, named);
}

/// A folder with a config and a changed checkpoint.
struct Model : Folder {
  explicit Model(const std::function<void(std::vector<Values>&)>& change = {},
                 const std::string& config_text = config()) {
    put("config.json", config_text);
    auto tensors = checkpoint();
    if (change) change(tensors);
    write(*this, tensors);
  }
};

Values& find(std::vector<Values>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const Values& t) { return t.name == name; });
}

void check_loaded(Transformer& bert) {
  const auto expected = checkpoint();
  std::size_t i = 0;
  nn::for_each_parameter(
      bert,
      [&](const std::string& name, const Parameter<float>& p) {
        CHECK(name == expected[i].name);
        CHECK(p.value().values() == expected[i].values);
        ++i;
      },
      "bert");
  CHECK(i == expected.size() - 4);
}

nn::Classifier<float> head_of(const Folder& folder, Index labels, checkpoints::LoadReport* report,
                              nn::Pooling pooling = nn::Pooling::first) {
  return checkpoints::load_head(folder.text(), checkpoints::hf(folder.text()), labels, pooling, 1, report);
}

}  // namespace

TEST_CASE("hf: a checkpoint with a head, and what the report says") {
  const Model folder([](auto& tensors) {
    tensors.push_back({"cls.predictions.bias", {2}, {1, 2}});
    tensors.push_back({"bert.embeddings.position_ids", {1, 5}, {0, 1, 2, 3, 4}});  // a buffer of old checkpoints
  });
  checkpoints::LoadReport report;
  auto bert = checkpoints::hf(folder.text(), &report);
  check_loaded(bert);
  CHECK(*bert.spec.embeddings.norm == 1e-5);
  CHECK(bert.layers[0].attention.heads == 2);
  CHECK(report.unused == std::vector<std::string>{"bert.pooler.dense.bias", "bert.pooler.dense.weight",
                                                  "classifier.bias", "classifier.weight", "cls.predictions.bias"});
  const auto head = head_of(folder, 3, &report);
  CHECK(report.unused == std::vector<std::string>{"cls.predictions.bias"});
  CHECK(report.initialised.empty());
  auto expected = checkpoint();
  CHECK(head.output.weight.value().values() == find(expected, "classifier.weight").values);
  CHECK(head.dense->bias.value().values() == find(expected, "bert.pooler.dense.bias").values);
}

TEST_CASE("hf: a head of another task keeps the pooler and makes its classifier anew") {
  const Model folder;
  checkpoints::LoadReport report;
  (void)checkpoints::hf(folder.text(), &report);
  auto head = head_of(folder, 2, &report);
  CHECK(report.initialised == std::vector<std::string>{"classifier.weight", "classifier.bias"});
  CHECK(report.unused == std::vector<std::string>{"classifier.bias", "classifier.weight"});
  CHECK(head.output.weight.shape() == Shape{2, 6});
  for (const float v : head.output.bias.value().values()) CHECK(v == 0);
  for (const float v : head.output.weight.value().values()) CHECK((v != 0 && std::abs(v) < 0.2f));

  const auto mean = head_of(folder, 3, nullptr, nn::Pooling::mean);
  CHECK_FALSE(mean.dense.has_value());
}

TEST_CASE("hf: names without the prefix, and norms called gamma and beta") {
  const auto strip = [](auto& tensors) {
    for (auto& t : tensors)
      if (t.name.starts_with("bert.")) t.name.erase(0, 5);
  };
  const auto old = [](auto& tensors) {
    for (auto& t : tensors) {
      const auto change = [&](const std::string& from, const std::string& to) {
        if (t.name.ends_with(from)) t.name.replace(t.name.size() - from.size(), from.size(), to);
      };
      change("LayerNorm.weight", "LayerNorm.gamma");
      change("LayerNorm.bias", "LayerNorm.beta");
    }
  };
  for (int form = 0; form < 4; ++form) {
    CAPTURE(form);
    const Model folder([&](auto& tensors) {
      if (form & 1) strip(tensors);
      if (form & 2) old(tensors);
    });
    checkpoints::LoadReport report;
    auto bert = checkpoints::hf(folder.text(), &report);
    check_loaded(bert);
    (void)head_of(folder, 3, &report);
    CHECK(report.unused.empty());
    CHECK(report.initialised.empty());
  }
}

TEST_CASE("hf: shards by their index") {
  Folder folder;
  folder.put("config.json", config());
  const auto all = checkpoint();
  const auto middle = all.begin() + 7;
  write(folder, {all.begin(), middle}, "model-00001-of-00002.safetensors");
  write(folder, {middle, all.end()}, "model-00002-of-00002.safetensors");
  std::string map;
  for (auto t = all.begin(); t != all.end(); ++t)
    map += std::string(map.empty() ? "" : ", ") + "\"" + t->name + "\": \"model-0000" + (t < middle ? "1" : "2") +
           "-of-00002.safetensors\"";
  folder.put("model.safetensors.index.json", R"({"metadata": {}, "weight_map": {)" + map + "}}");
  auto bert = checkpoints::hf(folder.text());
  check_loaded(bert);
}

TEST_CASE("hf: linear layers frozen and packed as they are read are those packed afterwards") {
  for (const auto precision : {Precision::f32, Precision::bf16}) {
    const Model folder([](auto& tensors) { tensors.push_back({"extra", {1}, {1}}); });
    checkpoints::LoadReport at_once, later;
    auto packed = checkpoints::hf(folder.text(), &at_once, precision);
    auto plain = checkpoints::hf(folder.text(), &later);
    CHECK(at_once.unused == later.unused);
    nn::set_precision<float, Cpu>(plain, precision);
    freeze(plain);
    nn::pack<float, Cpu>(plain);
    std::vector<PackedWeight<float>> a, b;
    nn::walk(packed, [&](const std::string&, const nn::Linear<float>& l) { a.push_back(l.packed); });
    nn::walk(plain, [&](const std::string&, const nn::Linear<float>& l) { b.push_back(l.packed); });
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      REQUIRE(a[i].defined());
      CHECK(a[i].precision() == precision);
      CHECK(a[i].unpack().values() == b[i].unpack().values());
    }
    const auto values = [](auto& bert) {
      std::vector<float> out;
      nn::for_each_parameter(bert, [&](const std::string& name, const auto& p) {
        if (!name.ends_with("weight") || name.find("LayerNorm") != name.npos || name.find("embeddings") != name.npos)
          for (const float v : p.value().values()) out.push_back(v);
      });
      return out;
    };
    CHECK(values(packed) == values(plain));
  }
  const Model folder(
      [](auto& tensors) { std::erase_if(tensors, [](const Values& t) { return t.name.ends_with("query.weight"); }); });
  check_error({"tensors are missing", "encoder.layer.0.attention.self.query.weight", folder.text()},
              [&] { (void)checkpoints::hf(folder.text(), nullptr, Precision::f32); });
}

TEST_CASE("hf: missing and mis-shaped tensors are named, with the file") {
  {
    const Model folder([](auto& tensors) {
      std::erase_if(tensors, [](const Values& t) {
        return t.name.ends_with("query.weight") || t.name.ends_with("word_embeddings.weight");
      });
    });
    check_error({"tensors are missing", "`bert.`",
                 "embeddings.word_embeddings.weight, encoder.layer.0.attention.self.query.weight (2 of 21)",
                 folder.text(), "the file has 23 tensors, such as 'bert.embeddings."},
                [&] { (void)checkpoints::hf(folder.text()); });
  }
  {
    const Model folder([](auto& tensors) {
      find(tensors, "bert.encoder.layer.0.intermediate.dense.weight").shape = {6, 8};
    });
    check_error({"tensor bert.encoder.layer.0.intermediate.dense.weight has the wrong shape", "expected [8, 6]",
                 "found [6, 8]", folder.text() + "/model.safetensors"},
                [&] { (void)checkpoints::hf(folder.text()); });
  }
  {
    const Model folder(
        [](auto& tensors) { find(tensors, "bert.encoder.layer.0.output.dense.bias").shape = {1, 1, 1, 1, 1, 1, 6}; });
    check_error({"bert.encoder.layer.0.output.dense.bias has the wrong shape", "expected [6]"},
                [&] { (void)checkpoints::hf(folder.text()); });
  }
  {
    Folder folder;
    folder.put("config.json", config());
    check_error({folder.text()}, [&] { (void)checkpoints::hf(folder.text()); });
  }
  {
    Folder folder;
    write(folder, checkpoint());
    check_error({folder.text() + ": there is no config.json"}, [&] { (void)checkpoints::hf(folder.text()); });
  }
}

TEST_CASE("hf: a config of larger tensors than the checkpoint has takes no memory for them") {
  const auto peak = [] {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return used.ru_maxrss;  // KiB
  };
  auto larger = config();
  larger.replace(larger.find("\"vocab_size\": 9"), 15, "\"vocab_size\": 16000000");  // of 384 MB
  const Model folder({}, larger);
  const Model incomplete(
      [](auto& tensors) { std::erase_if(tensors, [](const Values& t) { return t.name.ends_with("LayerNorm.bias"); }); },
      larger);
  for (const bool frozen : {false, true}) {
    const auto precision = frozen ? std::optional(Precision::bf16) : std::nullopt;
    const auto before = peak();
    check_error({"word_embeddings.weight has the wrong shape", "expected [16000000, 6]", "found [9, 6]"},
                [&] { (void)checkpoints::hf(folder.text(), nullptr, precision); });
    check_error({"tensors are missing"}, [&] { (void)checkpoints::hf(incomplete.text(), nullptr, precision); });
    CHECK(peak() - before < 200000);
  }
}

TEST_CASE("hf: a config that is not this BERT's is an error that names the file and what was found") {
  const auto broken = [](const std::string& changes, std::vector<std::string> parts) {
    const Model folder({}, config(changes));
    parts.push_back(folder.text() + "/config.json");
    check_error(parts, [&] { (void)checkpoints::hf(folder.text()); });
  };
  broken(R"(, "is_decoder": true)", {"is_decoder is not supported"});
  broken(R"(, "position_embedding_type": "relative_key")",
         {"expected position_embedding_type absolute", "relative_key"});
  broken(R"(, "hidden_dropout_prob": 1.5)", {"hidden_dropout_prob", "1.5"});
  const auto replaced = [](const std::string& from, const std::string& to, std::vector<std::string> parts) {
    auto text = config();
    text.replace(text.find(from), from.size(), to);
    const Model folder({}, text);
    parts.push_back(folder.text() + "/config.json");
    check_error(parts, [&] { (void)checkpoints::hf(folder.text()); });
  };
  replaced(R"("bert")", R"("gpt2")", {"model_type: expected bert, roberta", "gpt2"});
  replaced(R"("num_attention_heads": 2)", R"("num_attention_heads": 4)",
           {"not a multiple of num_attention_heads", "6, 4"});
  replaced(R"("vocab_size": 9,)", "", {"vocab_size"});
  replaced(R"("hidden_size": 6)", R"("hidden_size": "6")", {"hidden_size"});
  replaced(R"("gelu")", R"("mish")", {"mish"});
}

TEST_CASE("hf: three missing tensors are named, how many more, and what is there") {
  const Model folder([](auto& tensors) {
    std::erase_if(tensors, [](const Values& t) { return t.name.find("attention") != t.name.npos; });
    tensors.push_back({"bert.encoder.layer.0.attention.q_lin.weight", {6, 6}, std::vector<float>(36, 1)});
  });
  check_error({"encoder.layer.0.attention.self.query.weight, encoder.layer.0.attention.self.query.bias, "
               "encoder.layer.0.attention.self.key.weight and 7 more (10 of 21)",
               "the file has 16 tensors, such as 'bert.encoder.layer.0.attention.q_lin.weight'"},
              [&] { (void)checkpoints::hf(folder.text()); });
  // Frozen layers are packed one by one, after all names were looked up.
  check_error({"and 7 more (10 of 21)"}, [&] { (void)checkpoints::hf(folder.text(), nullptr, Precision::f32); });
}

TEST_CASE("hf: a name that is no folder, and folders without a config") {
  check_error({"model: 'bert-base-uncased': no such folder", "a folder with config.json", "nothing is downloaded"},
              [] { (void)checkpoints::hf("bert-base-uncased"); });
  Folder folder;
  check_error({folder.text(), "no config.json"}, [&] { (void)checkpoints::hf(folder.text()); });
  const std::string revision = folder.text() + "/snapshots/0123abc";
  std::filesystem::create_directories(revision);
  std::ofstream(revision + "/config.json") << config();
  check_error({folder.text() + ": there is no config.json", "there is one in " + revision},
              [&] { (void)checkpoints::hf(folder.text()); });
  check_error({"is a file"}, [&] { (void)checkpoints::hf(revision + "/config.json"); });
}

TEST_CASE("hf: whatever a training program puts in front of the names") {
  const auto prefixed = [](const std::string& with_model, const std::string& without) {
    return [=](auto& tensors) {
      for (auto& t : tensors) t.name = t.name.starts_with("bert.") ? with_model + t.name.substr(5) : without + t.name;
    };
  };
  const std::pair<const char*, const char*> leads[] = {{"module.bert.", "module."},
                                                       {"model.bert.", "model."},
                                                       {"transformer.bert.", "transformer."},
                                                       {"model.module.bert.", "model.module."},
                                                       {"module.", "module."},
                                                       {"roberta.", ""},
                                                       {"_orig_mod.encoder.", "_orig_mod."}};
  for (const auto& lead : leads) {
    CAPTURE(lead.first);
    const Model folder(prefixed(lead.first, lead.second));
    checkpoints::LoadReport report;
    auto bert = checkpoints::hf(folder.text(), &report);
    check_loaded(bert);
    const auto head = head_of(folder, 3, &report);
    CHECK(report.initialised.empty());
    CHECK(report.unused.empty());
    auto expected = checkpoint();
    CHECK(head.output.weight.value().values() == find(expected, "classifier.weight").values);
    REQUIRE(report.notes.size() >= 1);
    CHECK(report.notes[0] == "the checkpoint's tensors are those under `" + std::string(lead.first) + "`");
  }
  const auto copy = [](auto& tensors, const std::string& lead) {
    const auto all = checkpoint();
    for (const auto& t : all)
      if (t.name.starts_with("bert.")) tensors.push_back({lead + t.name.substr(5), t.shape, t.values});
  };
  const Model both([&](auto& tensors) {
    tensors.clear();
    copy(tensors, "query.");
    copy(tensors, "passage.");
  });
  check_error({"holds 2 models, under `passage.` and `query.`"}, [&] { (void)checkpoints::hf(both.text()); });
  const Model own([&](auto& tensors) {  // the family's own prefix is meant
    copy(tensors, "teacher.");
    for (auto& t : tensors)
      if (t.name.starts_with("teacher.")) t.values.assign(t.values.size(), 99);
  });
  auto bert = checkpoints::hf(own.text());
  check_loaded(bert);
}

TEST_CASE("hf: weights that are NaN or infinite are named") {
  const float values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()};
  for (const std::string name : {"bert.encoder.layer.0.attention.self.query.weight", "bert.embeddings.LayerNorm.bias"})
    for (const float value : values)
      for (const auto frozen : {std::optional<Precision>(), std::optional(Precision::bf16)}) {
        const Model folder([&](auto& tensors) { find(tensors, name).values[5] = value; });
        check_error({folder.text() + "/model.safetensors", name, "element 5 is", value != value ? "NaN" : "infinite"},
                    [&] { (void)checkpoints::hf(folder.text(), nullptr, frozen); });
      }
  const Model folder([&](auto& tensors) { find(tensors, "classifier.weight").values[17] = values[0]; });
  check_error({"classifier.weight", "element 17 is NaN"}, [&] { (void)head_of(folder, 3, nullptr); });

  // In every block of the copy, at its ends, and from every type; what does not fit a float is infinite too.
  std::vector<double> wide(10000, 0.5);
  std::vector<float> out(wide.size());
  const auto entry = [&](const auto& from, const char* dtype) {
    return io::Entry{"w", dtype, {10000}, std::as_bytes(std::span(from)), "f"};
  };
  for (const std::size_t at : {0, 1, 4095, 4096, 8191, 9999}) {
    for (const double value : {1e300, -1e300, static_cast<double>(values[0])}) {
      auto broken = wide;
      broken[at] = value;
      check_error({"f: tensor 'w': element " + std::to_string(at) + " is " + (value != value ? "NaN" : "infinite")},
                  [&] { io::copy_finite_to(entry(broken, "F64"), std::span<float>(out)); });
      std::vector<half> narrow(broken.begin(), broken.end());
      check_error({"element " + std::to_string(at)},
                  [&] { io::copy_finite_to(entry(narrow, "F16"), std::span<float>(out)); });
    }
  }
  wide[3] = std::numeric_limits<float>::max(), wide[4] = -wide[3], wide[5] = 1e-45, wide[6] = -0.0;
  io::copy_finite_to(entry(wide, "F64"), std::span<float>(out));
  CHECK(std::equal(out.begin(), out.end(), wide.begin(), [](float a, double b) { return a == static_cast<float>(b); }));
}

TEST_CASE("labels: rows follow names, case and usual names apart") {
  using Names = std::vector<std::string>;
  using Rows = std::vector<std::size_t>;
  using Order = checkpoints::HeadRows::Order;
  const auto check = [](const Names& ours, const Names& theirs, const Rows& rows, Order order) {
    const auto found = checkpoints::head_rows(ours, theirs);
    CAPTURE(theirs.front());
    CHECK(found.rows == rows);
    CHECK(found.order == order);
  };
  const Names sst{"negative", "positive"}, mnli{"entailment", "neutral", "contradiction"};
  check({"neg", "pos"}, {"pos", "neg"}, {1, 0}, Order::by_name);
  check(sst, {"NEGATIVE", "POSITIVE"}, {0, 1}, Order::by_name);
  check(sst, {"POS", "NEG"}, {1, 0}, Order::by_name);
  check(sst, {"Positive", "neg"}, {1, 0}, Order::by_name);
  check(mnli, {"contradiction", "neutral", "entailment"}, {2, 1, 0}, Order::by_name);
  check(mnli, {"CONTRADICTION", "ENTAILMENT", "NEUTRAL"}, {1, 2, 0}, Order::by_name);
  check(mnli, {"entailment", "contradiction", "neutral"}, {0, 2, 1}, Order::by_name);
  check({"entailment", "not_entailment"}, {"not entailment", "Entailment"}, {1, 0}, Order::by_name);
  check({"not_equivalent", "equivalent"}, {"paraphrase", "not-paraphrase"}, {1, 0}, Order::by_name);
  check({"unacceptable", "acceptable"}, {"acceptable", "unacceptable"}, {1, 0}, Order::by_name);
  check({"not_duplicate", "duplicate"}, {"duplicate", "not_duplicate"}, {1, 0}, Order::by_name);
  check({"0", "1"}, {"1", "0"}, {1, 0}, Order::by_name);
  check({"a", "A", "b"}, {"A", "b", "a"}, {2, 0, 1}, Order::by_name);  // case tells them apart
  check({"New York", "boston"}, {"Boston", "new_york"}, {1, 0}, Order::by_name);
  // Numbers of classes, not names.
  check(sst, {"LABEL_0", "LABEL_1"}, {0, 1}, Order::assumed);
  check(sst, {"LABEL_1", "LABEL_0"}, {1, 0}, Order::assumed);
  check(sst, {"1", "0"}, {1, 0}, Order::assumed);
  check({"1", "2"}, {"0", "1"}, {0, 1}, Order::assumed);
  check({"0", "1"}, {"POSITIVE", "NEGATIVE"}, {0, 1}, Order::assumed);
  check(sst, {"bad", "good"}, {0, 1}, Order::assumed);
  check({"a", "A"}, {"x", "X"}, {0, 1}, Order::assumed);
  check(sst, {}, {0, 1}, Order::assumed);
  // One name left; names at other places.
  check(mnli, {"contra", "neutral", "entailment"}, {2, 1, 0}, Order::assumed);
  check(mnli, {"entailment", "neutral", "no"}, {0, 1, 2}, Order::assumed);
  check({"cat", "dog", "horse"}, {"plane", "cat", "ship"}, {0, 1, 2}, Order::others);
}

TEST_CASE("labels: what a config says of its head") {
  const auto read = [](const std::string& more, Index rows) {
    Folder folder;
    folder.put("config.json", config(more));
    return checkpoints::HeadLabels::read(io::Config(folder.text()), rows);
  };
  using Names = std::vector<std::string>;
  CHECK(read(R"(, "id2label": {"0": "pos", "1": "neg"}, "label2id": {"pos": 0, "neg": 1})", 2).names ==
        Names{"pos", "neg"});
  CHECK(read(R"(, "id2label": {"1": "neg", "0": "pos"})", 2).names == Names{"pos", "neg"});
  CHECK(read(R"(, "label2id": {"pos": 1, "neg": 0})", 2).names == Names{"neg", "pos"});
  CHECK(read(R"(, "label2id": {"pos": "1", "neg": "0"})", 2).names == Names{"neg", "pos"});
  CHECK(read(R"(, "id2label": ["pos", "neg"])", 2).names == Names{"pos", "neg"});
  CHECK(read(R"(, "id2label": {"0": 5, "1": 7})", 2).names == Names{"5", "7"});
  CHECK(read(R"(, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"pos": 1, "neg": 0})", 2).names ==
        Names{"neg", "pos"});
  CHECK(read(R"(, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1})", 2).names ==
        Names{"LABEL_0", "LABEL_1"});
  CHECK(read(R"(, "id2label": {"0": "pos", "1": "neg"})", 3).names.empty());
  CHECK(read(R"(, "id2label": {"1": "pos", "2": "neg"})", 2).names.empty());
  CHECK(read("", 2).names.empty());
  CHECK(read(R"(, "problem_type": "regression")", 1).problem == "regression");
}

namespace {

std::string labelled(const std::string& names, const std::string& more = "") {
  return config(R"(, "id2label": {)" + names + "}" + more);
}
const std::string reversed = R"("0": "contradiction", "1": "neutral", "2": "entailment")";

/// A checkpoint of a family as its own parameters, initialised, below its prefix, and these tensors besides.
Transformer put_model(const Folder& folder, const std::string& text, const std::vector<Values>& more,
                      const std::set<std::string>& without = {}) {
  folder.put("config.json", text);
  Transformer model(checkpoints::read_spec(io::Config(folder.text())));
  model.initialise(7);
  std::vector<Values> tensors = more;
  nn::for_each_parameter(model, [&](const std::string& name, const Parameter<float>& p) {
    if (!without.contains(name))
      tensors.push_back({model.spec.prefix + name, {p.shape().begin(), p.shape().end()}, p.value().values()});
  });
  write(folder, tensors);
  return model;
}

/// Rows 0 … with value row + column / 16.
Values rows(const std::string& name, std::int64_t count, std::int64_t width) {
  Values out{name, {count, width}, {}};
  if (width == 0) out.shape = {count};
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < std::max<std::int64_t>(width, 1); ++j)
      out.values.push_back(static_cast<float>(i) + static_cast<float>(j) / 16);
  return out;
}

const std::string bart_sizes = R"("vocab_size": 9, "d_model": 6, "max_position_embeddings": 5, "encoder_layers": 1,
    "encoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_layers": 1, "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8, "activation_function": "gelu")";
const std::string opt_sizes = R"("vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "ffn_dim": 8, "max_position_embeddings": 5, "activation_function": "relu")";
const std::string bert_sizes = R"("vocab_size": 9, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 5, "hidden_act": "gelu", "pad_token_id": 1)";
const std::string vit_sizes = R"("hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "image_size": 4, "patch_size": 2, "hidden_act": "gelu")";

std::string typed(const std::string& type, const std::string& sizes, const std::string& more = "") {
  return R"({"model_type": ")" + type + R"(", )" + sizes + more + "}";
}

}  // namespace

TEST_CASE("hf: rows of every family's head come in the order of the classes, and the report says so") {
  const std::vector<std::string> classes{"entailment", "neutral", "contradiction"};
  const auto check = [&](const std::string& type, const std::string& sizes, const std::string& output, bool bias) {
    CAPTURE(type);
    Folder folder;
    std::vector<Values> head{rows(output + ".weight", 3, 6)};
    if (bias) head.push_back(rows(output + ".bias", 3, 0));
    put_model(folder, typed(type, sizes, R"(, "id2label": {)" + reversed + "}"), head);
    const auto model = checkpoints::hf(folder.text());
    checkpoints::LoadReport report;
    const auto found = checkpoints::load_head(folder.text(), model, 3, {}, 0, &report, classes);
    const auto weight = found.output.weight.value().values();
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t j = 0; j < 6; ++j) CHECK(weight[6 * i + j] == head[0].values[6 * (2 - i) + j]);
    if (bias) CHECK(found.output.bias.value().values() == std::vector<float>{2, 1, 0});
    CHECK(report.notes ==
          std::vector<std::string>{"the checkpoint's head: its rows follow id2label: 'entailment' (row 2), 'neutral' "
                                   "(row 1), 'contradiction' (row 0)"});
    const auto unnamed = checkpoints::load_head(folder.text(), model, 3);  // nobody says which classes they are
    CHECK(unnamed.output.weight.value().values() == head[0].values);
  };
  check("bert", bert_sizes, "classifier", true);
  check("roberta", bert_sizes, "classifier.out_proj", true);
  check("bart", bart_sizes, "classification_head.out_proj", true);
  check("opt", opt_sizes, "score", false);
  check("vit", vit_sizes, "classifier", true);
}

TEST_CASE("hf: heads whose order is assumed, and heads of other problems") {
  const auto read = [](const std::string& text, const std::vector<std::string>& names,
                       checkpoints::LoadReport& report) {
    const Model folder({}, text);
    return checkpoints::load_head(folder.text(), checkpoints::hf(folder.text()), names.empty() ? 1 : std::ssize(names),
                                  {}, 1, &report, names);
  };
  auto expected = checkpoint();
  const auto& weight = find(expected, "classifier.weight").values;
  const std::vector<std::string> anew{"classifier.weight", "classifier.bias"}, classes{"a", "b", "c"};
  {
    checkpoints::LoadReport report;
    const auto head = read(labelled(R"("0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2")"), classes, report);
    CHECK(head.output.weight.value().values() == weight);
    CHECK(report.notes == std::vector<std::string>{"the checkpoint's head: the order of its labels is assumed: 'a' = "
                                                   "'LABEL_0' (row 0), 'b' = 'LABEL_1' (row 1), 'c' = 'LABEL_2' (row "
                                                   "2)"});
  }
  {
    checkpoints::LoadReport report;
    (void)read(config(), classes, report);
    CHECK(report.notes == std::vector<std::string>{"the checkpoint's head: the order of its labels is assumed: 'a' "
                                                   "(row 0), 'b' (row 1), 'c' (row 2)"});
  }
  {
    checkpoints::LoadReport report;
    (void)read(labelled(R"("0": "a", "1": "b", "2": "c")"), classes, report);
    CHECK(report.notes.empty());
    CHECK(report.initialised.empty());
  }
  const auto remade = [&](const std::string& text, const std::vector<std::string>& names, const std::string& note) {
    checkpoints::LoadReport report;
    const auto head = read(text, names, report);
    CHECK(report.initialised == anew);
    CHECK(head.dense.has_value());
    for (const float v : head.output.weight.value().values()) CHECK(std::abs(v) < 0.2f);
    REQUIRE(report.notes.size() == 1);
    CHECK(report.notes[0] == "the checkpoint's head: " + note);
  };
  remade(labelled(reversed), {"x", "y"}, "has 3 rows, 2 are needed: made anew");
  remade(labelled(reversed), {}, "has 3 rows, 1 is needed: made anew");
  remade(labelled(reversed, R"(, "problem_type": "multi_label_classification")"), classes,
         "its problem_type is 'multi_label_classification', not 'single_label_classification': made anew");
  remade(labelled(reversed, R"(, "problem_type": "regression")"), classes,
         "its problem_type is 'regression', not 'single_label_classification': made anew");
  remade(labelled(R"("0": "b", "1": "y", "2": "z")"), classes,
         "its labels are others ('a' = 'b' (row 0), 'b' = 'y' (row 1), 'c' = 'z' (row 2)): made anew");
}

TEST_CASE(
    "hf: heads that are made anew: numbers of their own by seed, the family's dropout, the widths of what is read") {
  Folder folder;
  auto model = put_model(folder, typed("bert", bert_sizes, R"(, "hidden_dropout_prob": 0.25)"), {});
  const auto head = [&](std::uint64_t seed, std::optional<nn::Pooling> pooling = {}, Index labels = 6) {
    return checkpoints::load_head(folder.text(), model, labels, pooling, seed);
  };
  const auto one = head(1), two = head(2);
  CHECK(one.output.weight.value().values() == head(1).output.weight.value().values());
  CHECK(one.output.weight.value().values() != two.output.weight.value().values());
  CHECK(one.dense->weight.value().values() != two.dense->weight.value().values());
  CHECK(one.dense->weight.value().values() != one.output.weight.value().values());
  CHECK(one.dropout == 0.25f);
  CHECK_FALSE(one.dropout_before);
  CHECK(head(1, nn::Pooling::first_and_mean, 3).output.in() == 12);
  CHECK(head(1, nn::Pooling::mean, 3).output.in() == 6);
  const auto language = [&](std::uint64_t seed) { return checkpoints::load_language_head(folder.text(), model, seed); };
  CHECK(language(1).dense->weight.value().values() == language(1).dense->weight.value().values());
  CHECK(language(1).dense->weight.value().values() != language(2).dense->weight.value().values());

  CHECK(language(1).norm->weight.value().values() == std::vector<float>(6, 1));
  CHECK(language(1).norm->bias.value().values() == std::vector<float>(6, 0));

  Folder robertas, opts;
  const auto roberta = put_model(robertas, typed("roberta", bert_sizes), {});
  CHECK(checkpoints::load_head(robertas.text(), roberta, 2).dropout_before);
  const auto opt = put_model(opts, typed("opt", opt_sizes), {});
  CHECK_FALSE(checkpoints::load_head(opts.text(), opt, 2).output.bias.defined());

  // One row is one row; of more than four classes four are shown.
  put_model(folder, typed("bert", bert_sizes), {rows("classifier.weight", 1, 6)});
  checkpoints::LoadReport report;
  (void)checkpoints::load_head(folder.text(), model, 3, {}, 0, &report);
  CHECK(report.notes == std::vector<std::string>{"the checkpoint's head: has 1 row, 3 are needed: made anew"});
  put_model(folder, typed("bert", bert_sizes), {rows("classifier.weight", 5, 6)});
  report = {};
  (void)checkpoints::load_head(folder.text(), model, 5, {}, 0, &report, {"a", "b", "c", "d", "e"});
  CHECK(report.notes == std::vector<std::string>{"the checkpoint's head: the order of its labels is assumed: 'a' (row "
                                                 "0), 'b' (row 1), 'c' (row 2), 'd' (row 3), ... (5)"});
}

TEST_CASE("hf: an output that is not tied to the embeddings is used, in every family and under every name") {
  const auto check = [&](const std::string& type, const std::string& sizes, const std::string& output,
                         std::vector<Values> more) {
    CAPTURE(type);
    more.push_back(rows(output, 9, 6));
    const auto table = more.back().values;
    for (const bool tied : {false, true}) {  // with other values the config is wrong, as transformers has it
      Folder folder;
      put_model(folder, typed(type, sizes, tied ? "" : R"(, "tie_word_embeddings": false)"), more);
      checkpoints::LoadReport report;
      auto model = checkpoints::hf(folder.text(), &report);
      auto head = checkpoints::load_language_head(folder.text(), model, 0, &report);
      CHECK(head.untied);
      CHECK(head.word.value().values() == table);
      CHECK(report.unused.empty());
      CHECK(report.notes.size() == (tied ? 1 : 0));
      std::vector<std::string> names;
      nn::for_each_parameter(head, [&](const std::string& name, const auto&) { names.push_back(name); });
      CHECK(std::find(names.begin(), names.end(), output) != names.end());  // so it trains, is saved and resumed
      std::string input;
      nn::for_each_parameter(model, [&](const std::string& name, const Parameter<float>& p) {
        if (p.value().values() == table) input = name;
      });
      CHECK(input == "");
    }
    Folder same;  // there twice with the same values: tied
    auto model = put_model(same, typed(type, sizes), {});
    const auto embedded = model.language_head().word.value().values();
    more.back().values = embedded;
    put_model(same, typed(type, sizes), more);
    checkpoints::LoadReport report;
    auto again = checkpoints::hf(same.text(), &report);
    const auto head = checkpoints::load_language_head(same.text(), again, 0, &report);
    CHECK_FALSE(head.untied);
    CHECK(head.word.value().same(again.language_head().word.value()));
    CHECK(report.unused.empty());
    CHECK(report.notes.empty());
  };
  check("opt", opt_sizes, "lm_head.weight", {});
  check("bert", bert_sizes, "cls.predictions.decoder.weight", {rows("cls.predictions.transform.dense.weight", 6, 6)});
  check("roberta", bert_sizes, "lm_head.decoder.weight", {rows("lm_head.dense.weight", 6, 6)});
  check("bart", bart_sizes, "lm_head.weight", {});
  {
    Folder folder;  // untied, but there is no output
    put_model(folder, typed("opt", opt_sizes, R"(, "tie_word_embeddings": false)"), {});
    checkpoints::LoadReport report;
    auto model = checkpoints::hf(folder.text(), &report);
    CHECK_FALSE(checkpoints::load_language_head(folder.text(), model, 0, &report).untied);
    CHECK(report.notes == std::vector<std::string>{"the output is the word embeddings: tie_word_embeddings is false, "
                                                   "but there is no lm_head.weight"});
  }
  {
    Folder folder;
    put_model(folder, typed("opt", opt_sizes, R"(, "tie_word_embeddings": false)"), {rows("lm_head.weight", 8, 6)});
    auto model = checkpoints::hf(folder.text());
    check_error({"lm_head.weight has the wrong shape", "expected [9, 6]", "found [8, 6]"},
                [&] { (void)checkpoints::load_language_head(folder.text(), model); });
  }
}

TEST_CASE("hf: biases of outputs: the decoder's own, BART's constant") {
  for (const std::string type : {"bert", "roberta"}) {
    CAPTURE(type);
    const std::string bias = type == "bert" ? "cls.predictions.bias" : "lm_head.bias",
                      own = type == "bert" ? "cls.predictions.decoder.bias" : "lm_head.decoder.bias";
    for (const int there : {1, 2, 3}) {
      Folder folder;
      std::vector<Values> more;
      if (there & 1) more.push_back(rows(bias, 9, 0));
      if (there & 2) more.push_back({own, {9}, {9, 8, 7, 6, 5, 4, 3, 2, 1}});
      put_model(folder, typed(type, bert_sizes), more);
      checkpoints::LoadReport report;
      auto model = checkpoints::hf(folder.text(), &report);
      const auto head = checkpoints::load_language_head(folder.text(), model, 0, &report);
      CHECK(head.bias.value().values() == more.back().values);
      CHECK(report.unused.empty());
    }
  }
  for (const float value : {0.0f, 0.5f}) {
    Folder folder;
    put_model(folder, typed("bart", bart_sizes), {{"final_logits_bias", {1, 9}, std::vector<float>(9, value)}});
    checkpoints::LoadReport report;
    auto model = checkpoints::hf(folder.text(), &report);
    const auto head = checkpoints::load_language_head(folder.text(), model, 0, &report);
    CHECK(head.bias.defined() == (value != 0));
    CHECK(report.unused.empty());
    if (!head.bias.defined()) continue;
    CHECK(head.bias.value().values() == std::vector<float>(9, value));
    CHECK_FALSE(head.bias.trainable());
  }
}

TEST_CASE("hf: tied embeddings under the output's name alone, and tensors that must be one and are not") {
  const auto check = [&](const std::string& type, const std::string& sizes, const std::string& name,
                         const std::string& saved) {
    CAPTURE(saved);
    Folder folder;
    put_model(folder, typed(type, sizes), {rows(saved, 9, 6)}, {name});
    checkpoints::LoadReport report;
    auto model = checkpoints::hf(folder.text(), &report);
    const auto head = checkpoints::load_language_head(folder.text(), model, 0, &report);
    CHECK(model.language_head().word.value().values() == rows(saved, 9, 6).values);
    CHECK_FALSE(head.untied);
    CHECK(head.word.value().same(model.language_head().word.value()));
    CHECK(report.unused.empty());
  };
  check("opt", opt_sizes, "decoder.embed_tokens.weight", "lm_head.weight");
  check("bert", bert_sizes, "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight");
  check("roberta", bert_sizes, "embeddings.word_embeddings.weight", "lm_head.decoder.weight");
  for (const std::string saved : {"lm_head.weight", "model.encoder.embed_tokens.weight",
                                  "model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"})
    check("bart", bart_sizes, "shared.weight", saved);

  Folder untied;  // there the embeddings are really missing
  put_model(untied, typed("opt", opt_sizes, R"(, "tie_word_embeddings": false)"), {rows("lm_head.weight", 9, 6)},
            {"decoder.embed_tokens.weight"});
  check_error({"tensors are missing", "decoder.embed_tokens.weight (1 of 20)"},
              [&] { (void)checkpoints::hf(untied.text()); });
  Folder bart;
  put_model(bart, typed("bart", bart_sizes, R"(, "tie_word_embeddings": false)"),
            {rows("model.encoder.embed_tokens.weight", 9, 6)});
  check_error({"model.shared.weight and model.encoder.embed_tokens.weight differ"},
              [&] { (void)checkpoints::hf(bart.path); });
}

namespace {

/// What is exported of a family's checkpoint: the folder, which is read again.
struct Exported : Folder {
  Exported(const std::string& text, const std::vector<Values>& more, bool classes = false) {
    const Folder source;
    put_model(source, text, more);
    auto model = checkpoints::hf(source.text());
    const auto write = [&](auto head, const checkpoints::ExportedHead& about) {
      (void)checkpoints::write_hf(this->text(), source.text(), model, head, about);
    };
    auto head = checkpoints::load_language_head(source.text(), model);
    if (classes) write(checkpoints::load_head(source.text(), model, 2), {});
    else write(head, {.what = checkpoints::Predicts::tokens, .untied = head.untied});
  }
  bool ties() const { return io::Config(text()).flag("tie_word_embeddings"); }
  std::vector<std::int64_t> shape(const std::string& name) const {
    const io::Weights file(text());
    return file.contains(name) ? file.find(name).shape : std::vector<std::int64_t>{};
  }
};

}  // namespace

TEST_CASE("export: the config ties the output exactly where there is no table of its own") {
  const std::string llama = R"("vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 5)";
  const Values table = rows("lm_head.weight", 9, 8);
  for (const bool tied : {true, false})
    for (const bool there : {true, false}) {
      const Exported out(typed("llama", llama, R"(, "tie_word_embeddings": )" + std::string(tied ? "true" : "false")),
                         there ? std::vector<Values>{table} : std::vector<Values>{});
      CHECK(out.ties() == !there);
      CHECK(out.shape("lm_head.weight").empty() == !there);
    }
}

TEST_CASE("export: T5's scale in front of its output stays, whether the output is tied there and here") {
  const std::string sizes = R"("vocab_size": 9, "d_model": 6, "d_kv": 3, "d_ff": 8, "num_layers": 1, "num_heads": 2)";
  for (const std::string more : {"", R"(, "tie_word_embeddings": false)", R"(, "scale_decoder_outputs": false)"})
    for (const bool there : {true, false}) {
      const auto text = typed("t5", sizes, more);
      const Exported out(text, there ? std::vector<Values>{rows("lm_head.weight", 9, 6)} : std::vector<Values>{});
      CHECK(out.ties() == !there);
      const Folder source;
      source.put("config.json", text);
      const auto scale = [](const Folder& of) { return checkpoints::read_spec(io::Config(of.text())).language->scale; };
      CHECK(scale(out) == scale(source));
      CHECK(out.shape("transformer.encoder.embed_tokens.weight").empty());
    }
}

// transformers 5 ties none of them where the config does not tie.
TEST_CASE("export: of an untied output the bias and both sides' words are there under each name") {
  using Sizes = std::vector<std::int64_t>;
  for (const bool untied : {true, false}) {
    const auto more = [&](const std::string& name) {
      return untied ? std::vector<Values>{rows(name, 9, 6)} : std::vector<Values>{};
    };
    const std::vector<std::array<std::string, 3>> kinds{{"bert", "cls.predictions.decoder", "cls.predictions.bias"},
                                                        {"mpnet", "lm_head.decoder", "lm_head.bias"},
                                                        {"roberta", "lm_head.decoder", "lm_head.bias"}};
    for (const auto& [type, decoder, bias] : kinds) {
      const Exported out(typed(type, bert_sizes), more(decoder + ".weight"));
      CHECK(out.shape(bias) == Sizes{9});
      CHECK(out.shape(decoder + ".bias") == (untied ? Sizes{9} : Sizes{}));
    }
    const Exported bart(typed("bart", bart_sizes), more("lm_head.weight"));
    const Exported classes(
        typed("bart", bart_sizes, R"(, "tie_word_embeddings": )" + std::string(untied ? "false" : "true")), {}, true);
    for (const auto* out : {&bart, &classes}) {
      CHECK(out->shape("model.shared.weight") == Sizes{9, 6});
      for (const std::string side : {"encoder", "decoder"})
        CHECK(out->shape("model." + side + ".embed_tokens.weight") == (untied ? Sizes{9, 6} : Sizes{}));
    }
  }
}

TEST_CASE("export: the config forgets how the checkpoint was stored, the weights nothing of the model") {
  const Exported out(typed("bert", bert_sizes, R"(, "torch_dtype": "float16", "quantization_config": {"bits": 4},
                           "num_labels": 3, "_num_labels": 3, "_name_or_path": "x", "layer_norm_eps": 1e-6)"),
                     {rows("bert.embeddings.mask_token", 1, 6), rows("bert.other.weight", 2, 6)}, true);
  const io::Config config(out.text());
  for (const char* key : {"torch_dtype", "quantization_config", "num_labels", "_num_labels", "_name_or_path"})
    CHECK_FALSE(config.has(key));
  CHECK(config.tree()["layer_norm_eps"] == 1e-6);
  CHECK(config.tree()["dtype"] == "float32");
  CHECK(out.shape("bert.embeddings.mask_token") == std::vector<std::int64_t>{1, 6});
  CHECK(out.shape("bert.other.weight").empty());
}

TEST_CASE("export: BART's constant bias has the checkpoint's shape") {
  const Exported out(typed("bart", bart_sizes), {{"final_logits_bias", {1, 9}, std::vector<float>(9, 0.5f)}});
  CHECK(out.shape("final_logits_bias") == std::vector<std::int64_t>{1, 9});
}
