// Owns: BERT against Hugging Face transformers, plain and as MEFT1/2/3, on the files of golden/ (made by make_bert.py,
// whose opening explains every name). ctest runs it in the tests folder.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/io/json.hpp>
#include <meft/method/registry.hpp>
#include <meft/ops/loss.hpp>

#include "golden.hpp"

namespace {

using namespace meft;

/// A model of golden/, its head, and the batch.
template <Real T>
struct Setup {
  Values plain;
  model::Transformer<T> bert;
  nn::Batch<> batch;
  Index labels;
  nn::Classifier<T> head;

  explicit Setup(const std::string& folder)
      : plain(golden() + "/" + folder + "/plain.safetensors"),
        bert(checkpoints::hf<T>(golden() + "/" + folder)),
        batch{Tensor<std::int32_t>::from({size("ids")}, plain.integer("ids")),
              Tensor<std::int32_t>::from({size("token_types")}, plain.integer("token_types")),
              Offsets(plain.integer("offsets"))},
        labels(plain.shape_of("logits")[1]) {
    checkpoints::LoadReport report;
    head = checkpoints::load_head(golden() + "/" + folder, bert, labels, {}, 0, &report);
    REQUIRE(report.initialised.empty());
  }

  Index size(const std::string& name) const { return plain.shape_of(name)[0]; }

  Var<T> loss(const Var<T>& logits) const {
    if (labels > 1) return cross_entropy(logits, Tensor<std::int32_t>::from({size("labels")}, plain.integer("labels")));
    Tensor<T> target({size("labels"), 1});
    io::copy_to(plain.file.find("labels"), std::span<T>(target.data(), static_cast<std::size_t>(target.size())));
    return mse(logits, target);
  }
};

struct Case {
  std::string folder, file, method, readout;
  Lambda lambda, beta;
  bool norm;
  Index bottleneck;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& c : io::read_json(golden() + "/cases.json"))
    out.push_back({c["folder"], c["file"], c["method"], c["readout"], Lambda::parse(c["x1_factor"].get<std::string>()),
                   Lambda::parse(c["x2_factor"].get<std::string>()), c["norm"], c["bottleneck"]});
  return out;
}

template <Real T>
Chain<T> wire(std::vector<nn::TransformerLayer<T>>& layers, const Case& c, const StackOptions& stack) {
  const MeftOptions options{
      .stack = stack, .adapter_norm = c.norm, .coupling = Coupling::paper, .start = AdapterStart::paper};
  if (c.method == "meft1") return couple(layers, Meft1{c.bottleneck, c.lambda, c.beta, options});
  if (c.method == "meft2") return couple(layers, Meft2{c.bottleneck, c.lambda, c.beta, options});
  REQUIRE(c.method == "meft3");
  return couple(layers, Meft3{c.bottleneck, c.lambda, c.beta, options});
}

/// The adapter that F uses and the one that G uses.
template <class Layer>
auto adapters_of(Layer& layer, const Case& c) {
  auto &mlp = *layer.mlp_adapter, &other = c.method == "meft3" ? *layer.attention_adapter : *layer.reversible_adapter;
  return c.method == "meft1" ? std::pair(&mlp, &other) : std::pair(&other, &mlp);
}

/// f(golden name, parameter) for every parameter of the adapters.
template <Real T, class F>
void for_each_adapter_parameter(std::vector<nn::TransformerLayer<T>>& layers, const Case& c, const F& f) {
  for (std::size_t n = 0; n < layers.size(); ++n) {
    const auto [first, second] = adapters_of(layers[n], c);
    const std::string at = "layers." + std::to_string(n);
    nn::for_each_parameter(*first, f, at + ".f_adapter");
    nn::for_each_parameter(*second, f, at + ".g_adapter");
  }
}

StackOptions options_of(const Case& c, Streams streams, int word_bits, int fraction_bits, Index slice_tokens) {
  const Readout readout = c.readout == "mix" ? Readout{Readout::Kind::learned} : readout_from(c.readout);
  return {.streams = streams,
          .word_bits = word_bits,
          .fraction_bits = fraction_bits,
          .slice_tokens = slice_tokens,
          .readout = readout};
}

/// Runs one MEFT file and gives the largest error of everything in it.
template <Real T>
double meft_error(const Case& c, const StackOptions& options, std::string& at, double least = 0) {
  Setup<T> s(c.folder);
  const Values values(golden() + "/" + c.folder + "/" + c.file);
  freeze(s.bert);
  nn::pack<T, Cpu>(s.bert);
  auto body = wire(s.bert.layers, c, options);
  for_each_adapter_parameter(s.bert.layers, c,
                             [&](const std::string& name, Parameter<T>& p) { values.fill(name, p.value()); });
  const bool learned = options.readout.kind == Readout::Kind::learned;
  if (learned) values.fill("readout.alpha", body.stack.mix().value());

  Tape tape;
  auto h = s.bert.embed(s.batch);
  const auto start = tape.watch(h.value.value());
  h.value = start;
  h = body(h);
  const auto pooled = s.head.pool(h), logits = s.head.output(pooled), loss = s.loss(logits);
  Comparison compare(values, least);
  compare.add("hidden", h.value.value());
  compare.add("pooled", pooled.value());
  compare.add("logits", logits.value());
  compare.add("loss", loss.value());
  tape.backward(loss);
  compare.gradient("gradient.embedding", tape.gradient(start), start.shape());
  for_each_adapter_parameter(s.bert.layers, c, [&](const std::string& name, Parameter<T>& p) {
    compare.gradient("gradient." + name, p.gradient(), p.shape());
  });
  nn::for_each_parameter(s.head, [&](const std::string& name, Parameter<T>& p) {
    compare.gradient("gradient." + (name.starts_with("pooler") ? "bert." + name : name), p.gradient(), p.shape());
  });
  if (learned) compare.gradient("gradient.readout.alpha", body.stack.mix().gradient(), {1});
  for (const auto& name : values.file.names()) {
    const bool result =
        name.starts_with("gradient.") || name == "hidden" || name == "pooled" || name == "logits" || name == "loss";
    if (result) CHECK_MESSAGE(compare.names().contains(name), name, " was not compared");
  }
  nn::for_each_parameter(s.bert, [&](const std::string& name, Parameter<T>& p) {
    if (!p.trainable()) CHECK_MESSAGE(!p.gradient().defined(), name);
  });
  at = compare.at();
  return compare.worst();
}

}  // namespace

TEST_CASE("golden: plain BERT equals transformers: hidden states, logits, loss and every gradient") {
  for (const std::string folder : {"bert", "bert_gelu_new", "bert_regression"}) {
    CAPTURE(folder);
    Setup<double> s(folder);
    const Values gradients(golden() + "/" + folder + "/gradients.safetensors");
    const auto body = adapt(s.bert, Full{});
    Comparison forward(s.plain), backward(gradients);
    {
      Tape tape;
      auto h = s.bert.embed(s.batch);
      forward.add("embedding", h.value.value());
      for (std::size_t n = 0; n < body.chain.layers.size(); ++n) {
        h.value = body.chain.layers[n](h.value, h.context);
        forward.add("layers." + std::to_string(n) + ".hidden", h.value.value());
      }
      const auto pooled = s.head.pool(h), logits = s.head.output(pooled), loss = s.loss(logits);
      forward.add("pooled", pooled.value());
      forward.add("logits", logits.value());
      forward.add("loss", loss.value());
      tape.backward(loss);
    }
    nn::for_each_parameter(
        s.bert,
        [&](const std::string& name, Parameter<double>& p) { backward.gradient(name, p.gradient(), p.shape()); },
        "bert");
    nn::for_each_parameter(s.head, [&](const std::string& name, Parameter<double>& p) {
      backward.gradient(name.starts_with("pooler") ? "bert." + name : name, p.gradient(), p.shape());
    });
    CHECK(backward.names().size() == gradients.file.names().size());
    CHECK(forward.names().size() == s.bert.layers.size() + 4);
    MESSAGE(folder, ": forward error ", forward.worst(), " at ", forward.at(), ", gradient error ", backward.worst(),
            " at ", backward.at());
    CHECK(forward.worst() < 1e-12);
    CHECK(backward.worst() < 1e-11);
    {
      const auto h = body(s.bert.embed(s.batch));  // the method's own walk of the layers gives the same
      Comparison again(s.plain);
      again.add("loss", s.loss(s.head(h)).value());
      CHECK(again.worst() < 1e-12);
    }
  }
}

// 64-bit words with 40 fraction bits round each shear by 2⁻⁴¹, 5e-13; gradients pass the rounding unchanged, and the
// few shears of three layers with factors up to 1 keep the whole near that. The bound is 1e-5.
TEST_CASE("golden: MEFT in double equals the reference wiring: every file, stored and exact") {
  const auto all = cases();
  CHECK(all.size() == 26);
  double worst = 0;
  for (const auto& c : all) {
    CAPTURE(c.folder);
    CAPTURE(c.file);
    for (const auto streams : {Streams::stored, Streams::exact}) {
      CAPTURE(std::string(name_of(streams)));
      std::string at;
      // Slices of 8 tokens put the sequences of 5, 1, 9 and 12 tokens into three.
      const double error =
          meft_error<double>(c, options_of(c, streams, 64, 40, streams == Streams::exact ? 8 : 256), at);
      CAPTURE(at);
      CHECK(error < 1e-9);
      worst = std::max(worst, error);
    }
  }
  MESSAGE("double, 64-bit streams: largest relative error ", worst);
}

TEST_CASE("golden: the streams leaving every layer, after the swap of MEFT1 and MEFT2") {
  int files = 0;
  for (const auto& c : cases()) {
    const Values values(golden() + "/" + c.folder + "/" + c.file);
    if (!values.file.contains("streams.0.x1")) continue;
    ++files;
    CAPTURE(c.folder);
    CAPTURE(c.file);
    Comparison compare(values);
    for (std::size_t depth = 1; values.file.contains("streams." + std::to_string(depth - 1) + ".x1"); ++depth) {
      Setup<double> s(c.folder);
      freeze(s.bert);
      s.bert.layers.resize(depth, s.bert.layers.front());
      auto options = options_of(c, Streams::exact, 64, 40, 256);
      options.readout = readout_from("concat");
      const auto body = wire(s.bert.layers, c, options);
      for_each_adapter_parameter(s.bert.layers, c,
                                 [&](const std::string& name, Parameter<double>& p) { values.fill(name, p.value()); });
      const auto both = body(s.bert.embed(s.batch)).value.value();
      const Index rows = both.dim(0), width = both.dim(1) / 2;
      for (const Index stream : {0, 1}) {
        Tensor<double> x({rows, width});
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < width; ++j) x.data()[i * width + j] = both.data()[i * 2 * width + stream * width + j];
        compare.add("streams." + std::to_string(depth - 1) + ".x" + std::to_string(stream + 1), x);
      }
    }
    CHECK(compare.names().size() == 6);
    CHECK_MESSAGE(compare.worst() < 1e-11, compare.at());
  }
  CHECK(files == 9);
}

// float with 32-bit words of 20 fraction bits. A shear rounds by 2⁻²¹, 5e-7 absolute, and a float op by 6e-8 relative.
// The golden weights are wide (0.3, where a trained BERT has 0.04), so the layers stretch a difference several times
// before it reaches a gradient; a hundred roundings' worth, 5e-5, is what may be seen. In one file the gradient of
// classifier.bias is 5e-4, the rest of a sum of terms near 1/2 that cancel: below 0.01 the error is taken relative to
// 0.01.
TEST_CASE("golden: MEFT in float with 32-bit streams") {
  double worst = 0;
  for (const auto& c : cases()) {
    CAPTURE(c.folder);
    CAPTURE(c.file);
    std::string at;
    const double exact = meft_error<float>(c, options_of(c, Streams::exact, 32, 20, 8), at, 0.01);
    CAPTURE(at);
    CHECK(exact < 5e-5);
    worst = std::max(worst, exact);
  }
  MESSAGE("float, 32-bit streams: largest relative error ", worst);
}
