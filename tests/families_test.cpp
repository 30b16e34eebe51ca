// Owns: RoBERTa, OPT, BART, ViT, DeiT and DINOv2 against Hugging Face transformers, plain and as MEFT1/2/3, on the
// files of golden/ (made by make_families.py, whose opening explains every name).
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include <meft/io/json.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/vit.hpp>
#include <meft/ops/loss.hpp>
#include <meft/train/hf.hpp>
#include <meft/train/method.hpp>

#include "golden.hpp"

namespace {

using namespace meft;

struct Case {
  std::string folder, model;
  bool language;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& c : io::read_json(golden() + "/families.json"))
    out.push_back({c["folder"], c["model"], c["language"]});
  return out;
}

/// f.operator()<Model<T>>(case) for the case's family.
template <Real T, class F>
auto with_model(const Case& c, const F& f) {
  if (c.model == "opt") return f.template operator()<model::Opt<T>>();
  if (c.model == "bart") return f.template operator()<model::Bart<T>>();
  if (c.model == "vit" || c.model == "deit" || c.model == "dinov2") return f.template operator()<model::Vit<T>>();
  return f.template operator()<model::Bert<T>>();
}

nn::Batch<> batch_of(const Values& plain) {
  nn::Batch<> batch;
  if (plain.file.contains("pixels")) {
    batch.pixels = Tensor<float>(plain.shape_of("pixels"));
    plain.fill("pixels", batch.pixels);
  } else {
    const auto ids = plain.integer("ids");
    const Index n = static_cast<Index>(ids.size());
    batch.ids = Tensor<std::int32_t>::from({n}, ids);
    batch.types = Tensor<std::int32_t>::from({n}, plain.integer("token_types"));
    batch.offsets = Offsets(plain.integer("offsets"));
  }
  const auto labels = plain.integer("labels");
  batch.labels = Tensor<std::int32_t>::from({static_cast<Index>(labels.size())}, labels);
  return batch;
}

/// The golden name of a parameter that a model or head calls `name`.
std::string name_in(const Values& file, const std::string& name, const std::string& prefix) {
  return file.file.contains(prefix + name) ? prefix + name : name;
}

/// Tensors of the checkpoint that no computation reads.
bool unread(const std::string& name) { return name.ends_with("mask_token"); }

template <class Model>
void check_plain(const Case& c) {
  using T = typename Model::value_type;
  const std::string folder = golden() + "/" + c.folder;
  const Values plain(folder + "/plain.safetensors"), gradients(folder + "/gradients.safetensors");
  auto model = train::hf<Model>(folder);
  const auto batch = batch_of(plain);
  const auto body = adapt(model, Full{});
  Comparison forward(plain), backward(gradients);
  const auto compare = [&](const std::string& name, Parameter<T>& p) {
    backward.gradient(name_in(gradients, name, model.prefix()), p.gradient(),
                      gradients.shape_of(name_in(gradients, name, model.prefix())));
  };
  train::LoadReport report;
  const auto finish = [&](auto& head, const auto& loss_of) {
    CHECK(report.initialised.empty());
    Tape tape;
    const auto h = model.run(batch, body);
    forward.add("hidden", h.value.value());
    const Var<T> loss = loss_of(head, h);
    forward.add("loss", loss.value().reshape({1}));
    tape.backward(loss);
    nn::for_each_parameter(model, compare);
    nn::for_each_parameter(head, compare);
  };
  if constexpr (requires { model.language_head(); }) {
    if (c.language) {
      auto head = train::load_language_head(folder, model, 0, &report);
      finish(head, [&](auto& h, const auto& hidden) { return h.loss(hidden.value, batch.labels); });
      const auto each = head.log_likelihood(model.run(batch, body).value, batch.labels);
      double sum = 0, counted = 0;
      const auto labels = batch.labels.values();
      for (std::size_t i = 0; i < labels.size(); ++i) {
        sum -= static_cast<double>(each.data()[i]);
        counted += labels[i] != -100;
      }
      CHECK(sum / counted == doctest::Approx(plain.real("loss")[0]).epsilon(1e-10));
    }
  }
  if (!c.language) {
    auto head = train::load_head(folder, model, plain.shape_of("logits")[1], {}, 0, &report);
    finish(head, [&](auto& h, const auto& hidden) {
      const auto logits = h(hidden);
      forward.add("logits", logits.value());
      return cross_entropy(logits, batch.labels);
    });
  }
  for (const auto& name : gradients.file.names())
    if (!unread(name)) CHECK_MESSAGE(backward.names().contains(name), name, " was not compared");
  MESSAGE(c.folder, ": forward error ", forward.worst(), " at ", forward.at(), ", gradient error ", backward.worst(),
          " at ", backward.at());
  CHECK(forward.worst() < 1e-12);
  CHECK(backward.worst() < 1e-11);
}

/// Runs one MEFT file, gives the largest error of everything in it, and puts every gradient's bits into `bits`.
template <class Model>
double meft_error(const Case& c, const std::string& method, Streams streams, std::string& at, double least,
                  std::vector<double>* bits = nullptr) {
  using T = typename Model::value_type;
  const std::string folder = golden() + "/" + c.folder;
  const Values plain(folder + "/plain.safetensors"), values(folder + "/" + method + ".safetensors");
  auto model = train::hf<Model>(folder);
  auto head = train::load_head(folder, model, plain.shape_of("logits")[1]);
  const auto batch = batch_of(plain);
  StackOptions stack{.streams = streams, .slice_tokens = 8};  // three slices of the texts, one an image
  if (sizeof(T) == 8) stack.word_bits = 64, stack.fraction_bits = 40;
  const MeftOptions options{.stack = stack};
  const auto body = method == "meft1"   ? adapt(model, Meft1{.bottleneck = 3, .options = options})
                    : method == "meft2" ? adapt(model, Meft2{.bottleneck = 3, .options = options})
                                        : adapt(model, Meft3{.bottleneck = 3, .options = options});
  std::set<std::string> filled;
  nn::for_each_parameter(model, [&](const std::string& name, Parameter<T>& p) {
    CHECK(p.trainable() == (name.find("_adapter.") != name.npos));
    if (p.trainable()) values.fill(name, p.value()), filled.insert(name);
  });
  for (const auto& name : values.file.names())
    if (name.find("_adapter.") != name.npos && !name.starts_with("gradient."))
      CHECK_MESSAGE(filled.contains(name), name, " is no parameter");
  Comparison compare(values, least);
  {
    Tape tape;
    const auto h = model.run(batch, body);
    const auto logits = head(h), loss = cross_entropy(logits, batch.labels);
    compare.add("hidden", h.value.value());
    compare.add("logits", logits.value());
    compare.add("loss", loss.value().reshape({1}));
    tape.backward(loss);
  }
  const auto gradient = [&](const std::string& name, Parameter<T>& p) {
    if (!p.trainable()) return;
    compare.gradient("gradient." + name, p.gradient(), p.shape());
    if (bits)
      for (const T g : p.gradient().defined() ? p.gradient().values() : std::vector<T>{})
        bits->push_back(static_cast<double>(g));
  };
  nn::for_each_parameter(model, gradient);
  nn::for_each_parameter(head, gradient);
  for (const auto& name : values.file.names())
    if (name.starts_with("gradient.")) CHECK_MESSAGE(compare.names().contains(name), name, " was not compared");
  at = compare.at();
  return compare.worst();
}

/// Every family under every MEFT in T, stored and exact: errors below `limit`, and both the same bits.
template <Real T>
void check_meft(double least, double limit, const char* what) {
  double worst = 0;
  for (const auto& c : cases())
    for (const std::string method : {"meft1", "meft2", "meft3"}) {
      if (c.language) continue;
      CAPTURE(c.folder);
      CAPTURE(method);
      std::vector<double> bits[2];
      for (const auto streams : {Streams::stored, Streams::exact}) {
        std::string at;
        const double error = with_model<T>(c, [&]<class Model>() {
          return meft_error<Model>(c, method, streams, at, least, &bits[streams == Streams::exact]);
        });
        CAPTURE(at);
        CHECK(error < limit);
        worst = std::max(worst, error);
      }
      CHECK(!bits[0].empty());
      CHECK(bits[0] == bits[1]);
    }
  MESSAGE(what, ": largest relative error ", worst);
}

}  // namespace

TEST_CASE("families: hidden states, logits, loss and every gradient equal those of transformers") {
  const auto all = cases();
  CHECK(all.size() == 12);
  for (const auto& c : all) {
    CAPTURE(c.folder);
    with_model<double>(c, [&]<class Model>() { check_plain<Model>(c); });
  }
}

// 64-bit words with 40 fraction bits round each shear by 2⁻⁴¹, 5e-13.
TEST_CASE("families: MEFT in double equals the plain transcription, and exact equals stored bit for bit") {
  check_meft<double>(0, 1e-9, "double, 64-bit streams");
}

// As in golden_test: a hundred roundings of 2⁻²¹ may be seen, errors of gradients below 0.01 relative to 0.01.
TEST_CASE("families: MEFT in float with 32-bit streams, exact equal to stored bit for bit") {
  check_meft<float>(0.01, 5e-5, "float, 32-bit streams");
}
