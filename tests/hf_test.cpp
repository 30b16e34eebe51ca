// Owns: a Hugging Face folder into a BERT and its head: every spelling of names, shards, and each way to be wrong.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <meft/model/bert.hpp>
#include <meft/train/hf.hpp>

namespace {

using namespace meft;
using Bert = model::Bert<float>;

/// A folder of its own, removed at the end.
struct Folder {
  std::string path;
  Folder() {
    path = (std::filesystem::temp_directory_path() / "meft-hf-XXXXXX").string();
    REQUIRE(::mkdtemp(path.data()) != nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  void put(const std::string& name, const std::string& text) const { std::ofstream(path + "/" + name) << text; }
};

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
  Bert bert(model::BertConfig::read(io::Config(folder.path)));
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
  io::write_safetensors(folder.path + "/" + file, named);
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

void check_loaded(Bert& bert) {
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

void check_error(const std::vector<std::string>& parts, const std::function<void()>& f) {
  std::string found = "no error";
  try {
    f();
  } catch (const Error& error) {
    found = error.message();
  }
  for (const auto& part : parts)
    CHECK_MESSAGE(found.find(part) != found.npos, "expected `", part, "` in `", found, "`");
}

nn::Classifier<float> head_of(const Folder& folder, Index labels, train::LoadReport* report,
                              nn::Pooling pooling = nn::Pooling::first) {
  return train::load_head(folder.path, train::hf<Bert>(folder.path), labels, pooling, 1, report);
}

}  // namespace

TEST_CASE("hf: a checkpoint with a head, and what the report says") {
  const Model folder([](auto& tensors) {
    tensors.push_back({"cls.predictions.bias", {2}, {1, 2}});
    tensors.push_back({"bert.embeddings.position_ids", {1, 5}, {0, 1, 2, 3, 4}});  // a buffer of old checkpoints
  });
  train::LoadReport report;
  auto bert = train::hf<Bert>(folder.path, &report);
  check_loaded(bert);
  CHECK(bert.config.layer_norm_eps == 1e-5);
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
  train::LoadReport report;
  (void)train::hf<Bert>(folder.path, &report);
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
    train::LoadReport report;
    auto bert = train::hf<Bert>(folder.path, &report);
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
  auto bert = train::hf<Bert>(folder.path);
  check_loaded(bert);
}

TEST_CASE("hf: linear layers frozen and packed as they are read are those packed afterwards") {
  for (const auto precision : {Precision::f32, Precision::bf16}) {
    const Model folder([](auto& tensors) { tensors.push_back({"extra", {1}, {1}}); });
    train::LoadReport at_once, later;
    auto packed = train::hf<Bert>(folder.path, &at_once, precision);
    auto plain = train::hf<Bert>(folder.path, &later);
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
  check_error({"tensors are missing", "encoder.layer.0.attention.self.query.weight", folder.path},
              [&] { (void)train::hf<Bert>(folder.path, nullptr, Precision::f32); });
}

TEST_CASE("hf: missing and mis-shaped tensors are named, with the file") {
  {
    const Model folder([](auto& tensors) {
      std::erase_if(tensors, [](const Values& t) {
        return t.name.ends_with("query.weight") || t.name.ends_with("word_embeddings.weight");
      });
    });
    check_error({"tensors are missing", "`bert.`",
                 "embeddings.word_embeddings.weight, encoder.layer.0.attention.self.query.weight", folder.path},
                [&] { (void)train::hf<Bert>(folder.path); });
  }
  {
    const Model folder([](auto& tensors) {
      find(tensors, "bert.encoder.layer.0.intermediate.dense.weight").shape = {6, 8};
    });
    check_error({"tensor bert.encoder.layer.0.intermediate.dense.weight has the wrong shape", "expected [8, 6]",
                 "found [6, 8]", folder.path + "/model.safetensors"},
                [&] { (void)train::hf<Bert>(folder.path); });
  }
  {
    const Model folder(
        [](auto& tensors) { find(tensors, "bert.encoder.layer.0.output.dense.bias").shape = {1, 1, 1, 1, 1, 1, 6}; });
    check_error({"bert.encoder.layer.0.output.dense.bias has the wrong shape", "expected [6]"},
                [&] { (void)train::hf<Bert>(folder.path); });
  }
  {
    Folder folder;
    folder.put("config.json", config());
    check_error({folder.path}, [&] { (void)train::hf<Bert>(folder.path); });
  }
  {
    Folder folder;
    write(folder, checkpoint());
    check_error({folder.path + "/config.json"}, [&] { (void)train::hf<Bert>(folder.path); });
  }
}

TEST_CASE("hf: a config that is not this BERT's is an error that names the file and what was found") {
  const auto broken = [](const std::string& changes, std::vector<std::string> parts) {
    const Model folder({}, config(changes));
    parts.push_back(folder.path + "/config.json");
    check_error(parts, [&] { (void)train::hf<Bert>(folder.path); });
  };
  broken(R"(, "is_decoder": true)", {"is_decoder is not supported"});
  broken(R"(, "position_embedding_type": "relative_key")",
         {"expected position_embedding_type absolute", "relative_key"});
  broken(R"(, "hidden_dropout_prob": 1.5)", {"hidden_dropout_prob", "1.5"});
  const auto replaced = [](const std::string& from, const std::string& to, std::vector<std::string> parts) {
    auto text = config();
    text.replace(text.find(from), from.size(), to);
    const Model folder({}, text);
    parts.push_back(folder.path + "/config.json");
    check_error(parts, [&] { (void)train::hf<Bert>(folder.path); });
  };
  replaced(R"("bert")", R"("gpt2")", {"expected model_type bert", "gpt2"});
  replaced(R"("num_attention_heads": 2)", R"("num_attention_heads": 4)",
           {"not a multiple of num_attention_heads", "6, 4"});
  replaced(R"("vocab_size": 9,)", "", {"vocab_size"});
  replaced(R"("hidden_size": 6)", R"("hidden_size": "6")", {"hidden_size"});
  replaced(R"("gelu")", R"("mish")", {"mish"});
}
