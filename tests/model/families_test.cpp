// Owns: RoBERTa, MPNet, ModernBERT, OPT, BART, T5, ViT, DeiT, DINOv2, Llama, Mistral, Qwen2, Qwen3 and Gemma 3 against
// Hugging Face transformers, plain and as MEFT1/2/3, and batches that are cut into smaller ones whose gradients add up,
// and methods against PyPI's peft, on the files of golden/ (made by make_families.py and make_peft.py, whose openings
// explain every name); and what a training pass draws at random.

#include "philox_draws.hpp"  // first

#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <meft/checkpoints/export.hpp>
#include <meft/checkpoints/hf.hpp>
#include <meft/checkpoints/peft.hpp>
#include <meft/checkpoints/trained.hpp>
#include <meft/io/json.hpp>
#include <meft/method/any.hpp>
#include <meft/ops/loss.hpp>
#include <meft/task/choice_learner.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>
#include <meft/task/ranking_learner.hpp>
#include <meft/train/optimizers.hpp>
#include <meft/train/steps.hpp>

#include "folder.hpp"
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

template <Real T>
using Transformer = model::Transformer<T>;

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

void check_plain(const Case& c) {
  using T = double;
  const std::string folder = golden() + "/" + c.folder;
  const Values plain(folder + "/plain.safetensors"), gradients(folder + "/gradients.safetensors");
  auto model = checkpoints::hf<T>(folder);
  const auto batch = batch_of(plain);
  const auto body = adapt(model, Full{});
  Comparison forward(plain), backward(gradients);
  const auto compare = [&](const std::string& name, Parameter<T>& p) {
    backward.gradient(name_in(gradients, name, model.spec.prefix), p.gradient(),
                      gradients.shape_of(name_in(gradients, name, model.spec.prefix)));
  };
  checkpoints::LoadReport report;
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
  if (c.language) {
    auto head = checkpoints::load_language_head(folder, model, 0, &report);
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
  if (!c.language) {
    auto head = checkpoints::load_head(folder, model, plain.shape_of("logits")[1], {}, 0, &report);
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

/// The golden model with an output of its own: the embeddings and biases with their rows in reverse, under the output's
/// names (before transformers 5 T5 scaled a tied output alone, which its files did not say). With the labels in reverse
/// the loss is the golden one; a tied output would give another.
void check_untied(const Case& c) {
  using T = double;
  const std::string from = golden() + "/" + c.folder;
  const Values plain(from + "/plain.safetensors");
  const test::Folder folder;
  auto config = io::read_text(from + "/config.json");
  const std::string tied = "\"tie_word_embeddings\": true";
  REQUIRE(config.find(tied) != config.npos);
  config.replace(config.find(tied), tied.size(), "\"tie_word_embeddings\": false");
  const std::string scaled = "\"scale_decoder_outputs\": true,";
  if (const auto at = config.find(scaled); at != config.npos) config.erase(at, scaled.size());
  folder.put("config.json", config);
  const io::Safetensors source(from);
  const auto head = checkpoints::load_language_head(from, checkpoints::hf<T>(from));
  const Index words = head.word.shape()[0], width = head.word.shape()[1];
  std::vector<double> table(static_cast<std::size_t>(words * width)), bias(static_cast<std::size_t>(words));
  for (Index r = 0; r < words; ++r)
    for (Index j = 0; j < width; ++j)
      table[static_cast<std::size_t>(r * width + j)] =
          head.scale * static_cast<double>(head.word.value().data()[(words - 1 - r) * width + j]);
  std::vector<io::NamedTensor> tensors{
      {head.names.word, "F64", {words, width}, std::as_bytes(std::span<const double>(table))}};
  if (head.bias.defined()) {
    for (Index r = 0; r < words; ++r)
      bias[static_cast<std::size_t>(r)] = static_cast<double>(head.bias.value().data()[words - 1 - r]);
    std::string name = head.names.word;
    name.replace(name.rfind("weight"), 6, "bias");
    tensors.push_back({name, "F64", {words}, std::as_bytes(std::span<const double>(bias))});
  }
  for (const auto& name : source.names()) {
    const auto& entry = source.find(name);
    const auto same = [&](const io::NamedTensor& t) { return t.name == name; };
    if (std::none_of(tensors.begin(), tensors.end(), same))
      tensors.push_back({name, entry.dtype, entry.shape, entry.bytes});
  }
  io::write_safetensors((folder.path / "model.safetensors").string(), tensors);

  const auto model = checkpoints::hf<T>(folder.text());
  const auto untied = checkpoints::load_language_head(folder.text(), model);
  auto batch = batch_of(plain);
  auto labels = batch.labels.values();
  for (auto& label : labels)
    if (label >= 0) label = static_cast<std::int32_t>(words) - 1 - label;
  batch.labels = Tensor<std::int32_t>::from({static_cast<Index>(labels.size())}, labels);
  auto plain_model = model;
  const auto h = model.run(batch, adapt(plain_model, Full{}));
  CHECK(untied.loss(h.value, batch.labels).value().item() == doctest::Approx(plain.real("loss")[0]).epsilon(1e-12));
}

/// Runs the file of a method's values on a model of golden/, gives the largest error of everything in it, and puts
/// every gradient's bits into `bits`.
template <Real T, class Adapt>
double method_error(const Case& c, const std::string& file, const Adapt& adapted, std::string& at, double least,
                    std::vector<double>* bits = nullptr) {
  const std::string folder = golden() + "/" + c.folder;
  const Values plain(folder + "/plain.safetensors"), values(folder + "/" + file + ".safetensors");
  auto model = checkpoints::hf<T>(folder);
  auto head = checkpoints::load_head(folder, model, plain.shape_of("logits")[1]);
  const auto batch = batch_of(plain);
  const auto body = adapted(model);
  std::set<std::string> known{"hidden", "logits", "loss"};
  nn::for_each_parameter(model, [&](const std::string& name, Parameter<T>& p) {
    CHECK(p.trainable() == values.file.contains(name));
    if (p.trainable()) values.fill(name, p.value()), known.insert(name);
  });
  for (const auto& name : values.file.names())
    if (!name.starts_with("gradient.")) CHECK_MESSAGE(known.contains(name), name, " is no parameter");
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

/// The same of a MEFT file.
template <Real T>
double meft_error(const Case& c, const std::string& method, Streams streams, std::string& at, double least,
                  std::vector<double>* bits) {
  StackOptions stack{.streams = streams, .slice_tokens = 8};  // three slices of the texts, one an image
  if (sizeof(T) == 8) stack.word_bits = 64, stack.fraction_bits = 40;
  if (method.ends_with("_scaled")) stack.readout = readout_from("scaled");
  const MeftOptions options{.stack = stack, .coupling = Coupling::paper, .start = AdapterStart::paper};
  const auto adapted = [&](auto& model) {
    return method.starts_with("meft1")   ? adapt(model, Meft1{.bottleneck = 3, .options = options})
           : method.starts_with("meft2") ? adapt(model, Meft2{.bottleneck = 3, .options = options})
                                         : adapt(model, Meft3{.bottleneck = 3, .options = options});
  };
  return method_error<T>(c, method, adapted, at, least, bits);
}

/// Every family under every MEFT in T, stored and exact: errors below `limit`, and both the same bits.
template <Real T>
void check_meft(double least, double limit, const char* what) {
  double worst = 0;
  for (const auto& c : cases())
    for (const std::string method : {"meft1", "meft2", "meft3", "meft1_scaled", "meft2_scaled", "meft3_scaled"}) {
      if (c.language || (method.ends_with("_scaled") && c.model != "opt")) continue;
      CAPTURE(c.folder);
      CAPTURE(method);
      std::vector<double> bits[2];
      for (const auto streams : {Streams::stored, Streams::exact}) {
        std::string at;
        const double error = meft_error<T>(c, method, streams, at, least, &bits[streams == Streams::exact]);
        CAPTURE(at);
        CHECK(error < limit);
        worst = std::max(worst, error);
      }
      CHECK(!bits[0].empty());
      CHECK(bits[0] == bits[1]);
    }
  MESSAGE(std::string(what), ": largest relative error ", worst);
}

/// A random model of the case's shapes with dropout at every place that the family has.
Transformer<float> dropping(const Case& c) {
  auto spec = checkpoints::read_spec(io::Config(golden() + "/" + c.folder));
  const auto drop = [](nn::LayerSpec& layer, bool inside) {
    layer.dropout = layer.attention_dropout = 0.1f;
    if (inside) layer.activation_dropout = 0.1f;
  };
  const bool decodes = spec.decoder.has_value();
  drop(spec.layers.layer, decodes);
  if (spec.layers.local) drop(*spec.layers.local, false);
  if (decodes) drop(spec.decoder->layer, true);
  if (spec.patches) spec.patches->dropout = 0.1f;
  else if (!spec.causal) spec.embeddings.dropout = 0.1f;
  if (spec.language && !spec.causal) spec.head.dropout = 0.1;
  if (spec.encoder_norm) spec.dropout = 0.1f;
  Transformer<float> model(spec);
  model.initialise(3);
  return model;
}

/// The loss and every gradient of a training step, dropout on.
std::vector<float> step_bits(const Case& c, const AnyMethod& method, bool recompute = false) {
  const Values plain(golden() + "/" + c.folder + "/plain.safetensors");
  auto model = dropping(c);
  const auto body = adapt(model, method, {.recompute = recompute, .seed = 7});
  const auto head = checkpoints::load_head(golden() + "/" + c.folder, model, plain.shape_of("logits")[1]);
  auto batch = batch_of(plain);
  const auto loss_of = [&] { return cross_entropy(head(model.run(batch, body)), batch.labels); };
  prepare(model, body, method, Preview<float>{1, 1, 0, [&](const auto&) { return loss_of(); }});
  batch.run = {5, 9, true};
  Tape tape;
  const auto loss = loss_of();
  tape.backward(loss);
  std::vector<float> out{loss.value().item()};
  nn::for_each_parameter(model, [&](const std::string&, Parameter<float>& p) {
    if (!p.gradient().defined()) return;
    const auto g = p.gradient().values();
    out.insert(out.end(), g.begin(), g.end());
  });
  return out;
}

/// Images with classes, as Learner takes them.
struct Pictures {
  Tensor<float> pixels;
  std::vector<std::int32_t> labels;
};
template <Backend B>
nn::Batch<B> batch_of(const Pictures& data, std::span<const std::uint32_t> rows, int, Run run) {
  nn::Batch<B> out;
  std::vector<std::int32_t> labels;
  std::vector<float> pixels;
  const Index size = data.pixels.size() / data.pixels.dim(0);
  for (const auto row : rows) {
    labels.push_back(data.labels.at(row));
    const float* from = data.pixels.data() + row * size;
    pixels.insert(pixels.end(), from, from + size);
  }
  const Index n = static_cast<Index>(rows.size());
  out.run = run;
  out.labels = Tensor<std::int32_t>::from({n}, labels);
  out.pixels = Tensor<float>::from({n, data.pixels.dim(1), data.pixels.dim(2), data.pixels.dim(3)}, pixels);
  return out;
}

struct Added {
  double loss = 0;
  std::vector<double> gradient;
};

/// The mean loss and gradient over the `count` rows of data, cut into batches of `each`, as the trainer adds them up.
template <class L, class Data>
Added added(L& learner, const Data& data, std::uint32_t count, std::uint32_t each) {
  Added out;
  double weight = 0;
  nn::for_each_parameter(learner, [](const std::string&, auto& p) {
    if (p.trainable()) p.zero_gradient();
  });
  train::Steps steps(learner);
  for (std::uint32_t first = 0; first < count; first += each) {
    std::vector<std::uint32_t> rows;
    for (std::uint32_t i = first; i < std::min(count, first + each); ++i) rows.push_back(i);
    auto batch = learner.batch(data, rows, Run{});
    const auto counts = static_cast<double>(batch.counted);
    if (each < count) batch.weight = Tensor<float>::from(Shape{}, {static_cast<float>(counts)});
    out.loss += counts * steps.run(batch, [] {}).loss;
    weight += counts;
  }
  out.loss /= weight;
  nn::for_each_parameter(learner, [&](const std::string&, auto& p) {
    if (p.trainable())
      for (const auto g : p.gradient().values())
        out.gradient.push_back(static_cast<double>(g) / (each < count ? weight : 1));
  });
  return out;
}

/// Batches of every size against one of all rows. Gives the bits of the smallest's gradient.
template <class L, class Data>
std::vector<double> check_added(L& learner, const Data& data, std::uint32_t count, double limit) {
  REQUIRE(count > 1);
  const Added whole = added(learner, data, count, count);
  std::vector<double> out;
  for (std::uint32_t each = count - 1; each > 0; --each) {
    CAPTURE(each);
    const Added parts = added(learner, data, count, each);
    double difference = 0, norm = 0, whole_norm = 0;
    for (std::size_t i = 0; i < whole.gradient.size(); ++i) {
      difference += std::pow(parts.gradient[i] - whole.gradient[i], 2);
      norm += std::pow(parts.gradient[i], 2);
      whole_norm += std::pow(whole.gradient[i], 2);
    }
    CHECK(whole_norm > 0);
    CHECK(std::sqrt(difference / whole_norm) < limit);
    CHECK(std::abs(std::sqrt(norm / whole_norm) - 1) < limit);
    CHECK(std::abs(parts.loss - whole.loss) < limit * std::abs(whole.loss));
    out = parts.gradient;
  }
  return out;
}

/// Every task that a family has, its rows cut into batches of every size.
template <Real T>
std::vector<double> check_tasks(const Case& c, const std::function<Body<T>(Transformer<T>&)>& adapted, double limit) {
  using Model = Transformer<T>;
  const std::string folder = golden() + "/" + c.folder;
  const Values plain(folder + "/plain.safetensors");
  auto model = checkpoints::hf<T>(folder);
  auto body = adapted(model);
  const auto labels = plain.integer("labels");
  if (model.spec.patches) {
    Pictures data{Tensor<float>(plain.shape_of("pixels")), labels};
    plain.fill("pixels", data.pixels);
    auto head = checkpoints::load_head(folder, model, plain.shape_of("logits")[1]);
    task::Learner<Model> learner{std::move(model), std::move(body), std::move(head)};
    return check_added(learner, data, static_cast<std::uint32_t>(labels.size()), limit);
  }
  const auto ids = plain.integer("ids"), types = plain.integer("token_types"), offsets = plain.integer("offsets");
  task::Encoded data;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    data.ids.emplace_back(ids.begin() + offsets[i], ids.begin() + offsets[i + 1]);
    data.types.emplace_back(types.begin() + offsets[i], types.begin() + offsets[i + 1]);
    data.labels.push_back(c.language ? 0.0f : static_cast<float>(labels.at(i)));
  }
  const auto count = static_cast<std::uint32_t>(data.ids.size());
  if (c.language) {
    task::Blocks blocks{data.ids};
    if (!model.spec.causal)
      blocks.mask = task::MaskOptions{
          .mask = 4, .vocabulary = static_cast<std::int32_t>(model.spec.embeddings.vocabulary), .chosen = 0.4};
    auto head = checkpoints::load_language_head(folder, model);
    task::LanguageLearner<Model> learner{std::move(model), std::move(body), std::move(head)};
    return check_added(learner, blocks, count, limit);
  }
  if (model.spec.family == std::string("bert")) {
    task::EncodedChoices questions{data.ids, data.types};
    for (std::uint32_t q = 0; 2 * q + 1 < count; ++q) {  // of two options, the last of three where one is left
      questions.first.push_back(2 * q + 3 == count ? count : 2 * q + 2);
      questions.answers.push_back(static_cast<std::int32_t>(q % 2));
    }
    task::ChoiceLearner<Model> learner{model, body, checkpoints::load_head(folder, model, 1)};
    check_added(learner, questions, static_cast<std::uint32_t>(questions.size()), limit);
  }
  auto head = checkpoints::load_head(folder, model, plain.shape_of("logits")[1]);
  task::Learner<Model> learner{std::move(model), std::move(body), std::move(head)};
  return check_added(learner, data, count, limit);
}

/// f(name, adapt) for every method, with dropout where it has its own; adapt(model) gives the body.
template <class F>
void for_each_method(const F& f) {
  const MeftOptions meft{.stack = {.slice_tokens = 1 << 20},
                         .dropout = 0.1f,
                         .adapter_norm = true,
                         .coupling = Coupling::paper,
                         .start = AdapterStart::paper};
  auto highest = meft;
  highest.reversible_layers = 1;
  f("full", [](auto& m) { return adapt(m, Full{}); });
  f("full, recomputed", [](auto& m) { return adapt(m, Full{}, {.recompute = true}); });
  f("bitfit", [](auto& m) { return adapt(m, BitFit{}); });
  f("adapter", [](auto& m) { return adapt(m, Houlsby{.bottleneck = 4, .dropout = 0.1f}, {.seed = 7}); });
  f("lora", [](auto& m) { return adapt(m, LowRank{.rank = 4}, {.seed = 7}); });
  f("lora, linear",
    [](auto& m) { return adapt(m, LowRank{.rank = 4, .targets = LowRank::Targets::linear}, {.seed = 7}); });
  f("meft1", [=](auto& m) { return adapt(m, Meft1{.bottleneck = 4, .options = meft}, {.seed = 7}); });
  f("meft2", [=](auto& m) { return adapt(m, Meft2{.bottleneck = 4, .options = meft}, {.seed = 7}); });
  f("meft3", [=](auto& m) { return adapt(m, Meft3{.bottleneck = 4, .options = meft}, {.seed = 7}); });
  f("meft1, highest layer", [=](auto& m) { return adapt(m, Meft1{.bottleneck = 4, .options = highest}, {.seed = 7}); });
}

/// Dropouts of a forward pass: of the embeddings, of each layer's blocks and inside of them, of the head.
std::size_t places_of_dropout(const Transformer<float>& model, const std::string& method) {
  const std::size_t layers = model.layers.size();
  std::size_t all = model.spec.causal ? 0 : 1, more = 0;
  all += 3 * layers;
  if (model.decodes()) {
    more = model.decoder_layers.size();
    all += 1 + 6 * more + layers;  // a cross attention, its block, and inside of the feed-forward network
  }
  if (method == "adapter" || method.starts_with("meft")) {
    const std::size_t highest = method.ends_with("highest layer") ? 1 : layers + more;
    all += 2 * (highest == 1 && more ? 2 : highest);
  }
  if (model.encoder_norm) all += 2;  // behind both norms
  const auto head = model.spec.head;
  if (head.dropout > 0) all += head.dropout_before ? 2 : 1;
  return all;
}

/// Whether both begin with the same random numbers, whatever they are scaled by.
template <class T>
bool same_numbers(const std::vector<T>& a, const std::vector<T>& b) {
  for (std::size_t i = 1; i < 6; ++i)
    if (std::fabs(a[i] / a[0] - b[i] / b[0]) > 1e-6 * std::fabs(a[i] / a[0])) return false;
  return true;
}

}  // namespace

TEST_CASE("families: batches cut into smaller ones add up to the same loss and gradient, whatever is counted") {
  for (const auto& c : cases()) {
    CAPTURE(c.folder);
    check_tasks<double>(
        c, [](Transformer<double>& model) { return adapt(model, Full{}); }, 1e-10);
    std::vector<double> bits[2];
    for (const auto streams : {Streams::stored, Streams::exact})
      bits[streams == Streams::exact] = check_tasks<float>(
          c,
          [&](Transformer<float>& model) {
            return adapt(model, Meft1{.bottleneck = 3,
                                      .options = {.stack = {.streams = streams, .slice_tokens = 8},
                                                  .start = AdapterStart::paper}});
          },
          1e-4);
    CHECK(bits[0] == bits[1]);
  }
}

TEST_CASE("families: hidden states, logits, loss and every gradient equal those of transformers") {
  const auto all = cases();
  CHECK(all.size() == 24);
  for (const auto& c : all) {
    CAPTURE(c.folder);
    check_plain(c);
  }
}

TEST_CASE("families: outputs that are not tied to the embeddings") {
  int checked = 0;
  for (const auto& c : cases()) {
    CAPTURE(c.folder);
    if (c.language) check_untied(c), ++checked;
  }
  CHECK(checked == 7);
}

TEST_CASE("families: what a checkpoint has as one matrix is written as one") {
  const std::string from = golden() + "/modernbert";
  const test::Folder folder;
  auto model = checkpoints::hf<float>(from);
  auto head = checkpoints::load_head(from, model, 3);
  (void)checkpoints::write_hf(folder.text() + "/out", from, model, head, {.labels = {"a", "b", "c"}});
  const io::Safetensors written(folder.text() + "/out"), source(from);
  REQUIRE(written.names() == source.names());
  for (const auto& name : source.names()) {
    CAPTURE(name);
    const auto &a = written.find(name), &b = source.find(name);
    REQUIRE(a.shape == b.shape);
    std::vector<float> x(a.bytes.size() / sizeof(float)), y(x.size());
    io::copy_to(a, std::span(x));
    io::copy_to(b, std::span(y));
    CHECK(x == y);
  }
}

TEST_CASE("families: (IA)³ and LoRA equal PyPI's peft: hidden states, logits, loss, every gradient") {
  for (const std::string folder : {"bert", "opt", "bart"}) {
    CAPTURE(folder);
    const Case c{folder, folder, false};
    std::string at;
    const auto vectors = [](auto& model) { return adapt(model, Ia3{}); };
    const double ia3 = method_error<double>(c, "ia3", vectors, at, 0);
    CHECK_MESSAGE(ia3 < 1e-11, at);
    const auto form = folder == "bert" ? Ia3::Form::bert : folder == "opt" ? Ia3::Form::opt : Ia3::Form::bart;
    const auto own = [&](auto& model) { return adapt(model, Ia3{.form = form}); };
    CHECK_MESSAGE(method_error<double>(c, "ia3_default", own, at, 0) < 1e-11, at);
    CHECK_MESSAGE(method_error<float>(c, "ia3_default", own, at, 1e-3) < 1e-5, at);
    const auto updates = [](auto& model) { return adapt(model, LowRank{.rank = 3, .alpha = 6}); };
    const double lora = method_error<double>(c, "lora", updates, at, 0);
    CHECK_MESSAGE(lora < 1e-11, at);
    MESSAGE(folder, ": largest relative error of (IA)³ ", ia3, ", of LoRA ", lora);
  }
  for (const std::string folder : {"bert", "mistral"}) {
    CAPTURE(folder);
    const Case c{folder, folder, false};
    std::string at;
    const auto updates = [](auto& model) {
      return adapt(model, LowRank{.rank = 3, .alpha = 6, .targets = LowRank::Targets::linear});
    };
    CHECK_MESSAGE(method_error<double>(c, "lora_linear", updates, at, 0) < 1e-11, at);
    CHECK_MESSAGE(method_error<float>(c, "lora_linear", updates, at, 1e-3) < 1e-5, at);
  }
}

TEST_CASE("families: prefixes and prompts equal PyPI's peft, ALoRE its equation: logits, loss, every gradient") {
  for (const std::string folder : {"bert", "opt", "bart", "qwen3", "vit"}) {
    CAPTURE(folder);
    const Case c{folder, folder, false};
    const auto check = [&](const std::string& file, const auto& method) {
      CAPTURE(file);
      std::string at;
      CHECK_MESSAGE(method_error<double>(
                        c, file, [&](auto& m) { return adapt(m, method); }, at, 0) < 1e-10,
                    at);
      CHECK_MESSAGE(method_error<float>(
                        c, file, [&](auto& m) { return adapt(m, method); }, at, 1e-3) < 1e-5,
                    at);
    };
    check("prefix", PrefixTuning{.tokens = 3});
    check("prompt", PromptTuning{.tokens = 3});
    if (folder != "opt") check("alore", Alore{.rank = 2, .scale = 0.5});
  }
}

TEST_CASE("families: what PyPI's peft wrote is read; what is written is what peft wrote; what is neither is refused") {
  const meft::test::Folder out;
  for (const std::string folder : {"bert", "opt", "bart", "mistral"})
    for (const std::string name : {"ia3", "ia3_default", "lora", "lora_linear", "prefix", "prompt"}) {
      CAPTURE(folder);
      CAPTURE(name);
      const std::string at = golden() + "/" + folder;
      const bool linear = name == "lora_linear";
      if (folder == "mistral" ? !linear : linear && folder != "bert") continue;
      const bool joined = name.starts_with("pr");
      if (joined && folder == "bart") {  // an encoder and a decoder
        CHECK(checkpoints::peft_form(method_named(name), checkpoints::read_spec(checkpoints::read_config(at))) ==
              nullptr);
        continue;
      }
      const checkpoints::PeftAdapter adapter(at + "/peft_" + name);
      const auto method = adapter.method(checkpoints::read_spec(checkpoints::read_config(at)));
      CHECK(method_name(method) == name.substr(0, name.find('_')));
      const Values plain(at + "/plain.safetensors"), expected(at + "/" + name + ".safetensors");
      auto model = checkpoints::hf<double>(at);
      const Index labels = plain.shape_of("logits")[1];
      auto head = checkpoints::load_head(at, model, labels);
      task::Learner<Transformer<double>> learner{std::move(model), {}, std::move(head)};
      learner.body = adapt(learner.model, method);
      const auto trained = nn::trainable<double, Cpu>(learner);
      const auto& spec = learner.model.spec;
      CHECK(adapter.classes(spec) == labels);
      adapter.check_size(spec);
      adapter.load(trained, spec, method);
      Comparison logits(expected);
      logits.add("logits", learner.logits(batch_of(plain)).value());
      CHECK(logits.worst() < 1e-11);

      const std::string ours = out.text() + "/ours.safetensors";
      checkpoints::save_trained(ours, trained, {});
      checkpoints::write_peft(out.text(), io::Safetensors(ours), spec, method, {.model = at, .task = "SEQ_CLS"});
      const io::Safetensors written(out.text() + "/" + checkpoints::peft_model), theirs(adapter.weights.path());
      REQUIRE(written.names() == theirs.names());
      for (const auto& tensor : written.names()) {
        const auto &a = written.find(tensor), &b = theirs.find(tensor);
        CHECK(a.shape == b.shape);
        CHECK(a.dtype == b.dtype);
        CHECK(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()));
      }
      const checkpoints::PeftAdapter again(out.text());
      CHECK(again.method(spec).index() == method.index());
      again.load(trained, spec, method);

      const auto wrong = [&](const std::string& key, const nlohmann::json& value) {
        auto config = again.config.tree();
        config[key] = value;
        out.put(checkpoints::peft_config, config.dump());
        return meft::test::message_of([&] { (void)checkpoints::PeftAdapter(out.text()).method(spec); });
      };
      CHECK(wrong("peft_type", "LOHA").find("expected LORA or IA3 or PREFIX_TUNING or PROMPT_TUNING, found") !=
            std::string::npos);
      if (const std::string key = joined ? "prefix_projection" : "fan_in_fan_out"; name != "prompt")
        CHECK(wrong(key, true).find(key) != std::string::npos);
      if (name.starts_with("lora")) {
        using Targets = LowRank::Targets;
        CHECK(std::get<LowRank>(method).targets == (linear ? Targets::linear : Targets::query_value));
        CHECK(wrong("r", 0).find("expected an integer in [1, 65536], found 0") != std::string::npos);
        (void)wrong("r", 60000);
        CHECK(meft::test::message_of([&] {
                checkpoints::PeftAdapter(out.text()).check_size(spec);
              }).find("numbers, found") != std::string::npos);
        CHECK(wrong("bias", "lora_only").find("meft's lora has none") != std::string::npos);
        CHECK(wrong("rank_pattern", {{"layer.0", 4}}).find("rank_pattern") != std::string::npos);
        CHECK(wrong("alora_invocation_tokens", {7, 3}).find("meft's lora has none") != std::string::npos);
        for (const char* changed : {"pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"})
          CHECK(wrong("init_lora_weights", changed).find("leaves the checkpoint's weights as they are") !=
                std::string::npos);
        CHECK(wrong("init_lora_weights", "gaussian") == "no error");
        CHECK(wrong("use_rslora", "yes").find("use_rslora") != std::string::npos);
        CHECK(wrong("use_rslora", true) == "no error");
        const auto scaled = std::get<LowRank>(checkpoints::PeftAdapter(out.text()).method(spec));
        CHECK((scaled.rank == 3 && scaled.alpha / 3 == doctest::Approx(6 / std::sqrt(3.0)).epsilon(1e-15)));
        CHECK(wrong("use_rslora", false) == "no error");
      }
      // A tensor more, one less, another shape, a value that is none: nothing is changed.
      const auto before = learner.logits(batch_of(plain)).value().values();
      const auto put = [&](const auto& change) {
        std::vector<io::NamedTensor> list;
        for (const auto& tensor : theirs.names())
          list.push_back({tensor, theirs.find(tensor).dtype, theirs.find(tensor).shape, theirs.find(tensor).bytes});
        change(list);
        io::write_safetensors(out.text() + "/" + checkpoints::peft_model, list);
      };
      const auto refused = [&](const auto& change) {
        put(change);
        const auto text =
            meft::test::message_of([&] { checkpoints::PeftAdapter(out.text()).load(trained, spec, method); });
        CHECK(learner.logits(batch_of(plain)).value().values() == before);
        return text;
      };
      const auto method_tensor = [&](auto& list) -> io::NamedTensor& {
        return *std::find_if(list.begin(), list.end(), [&](const auto& t) {
          return t.name.find(joined           ? "prompt_embeddings"
                             : name[0] == 'l' ? ".lora_A."
                                              : ".ia3_l") != std::string::npos;
        });
      };
      CHECK(refused([&](auto& list) { method_tensor(list).name += "x"; }).find("is missing") != std::string::npos);
      CHECK(refused([&](auto& list) {
              auto more = method_tensor(list);
              more.name = "base_model.model.other";
              list.push_back(more);
            }).find("does not train: base_model.model.other") != std::string::npos);
      CHECK(refused([&](auto& list) {
              auto& t = method_tensor(list);
              std::reverse(t.shape.begin(), t.shape.end());
            }).find("wrong shape") != std::string::npos);
      std::vector<double> broken(theirs.find(theirs.names().back()).bytes.size() / sizeof(double), std::nan(""));
      CHECK(refused([&](auto& list) { list.back().bytes = std::as_bytes(std::span(broken)); }).find("NaN") !=
            std::string::npos);
      // A head's part may be missing: it stays as the checkpoint has it, unless that lacks it too.
      const auto head_name = trained.back().first;
      const auto without_head = [&](const std::vector<std::string>& anew) {
        return refused([&](auto& list) {
                 std::erase_if(list, [&](const auto& t) { return t.name.ends_with(head_name); });
               }).empty()
                   ? std::string()
                   : meft::test::message_of(
                         [&] { checkpoints::PeftAdapter(out.text()).load(trained, spec, method, anew); });
      };
      CHECK(without_head({}) == "no error");
      CHECK(without_head({head_name}).find(head_name + " is missing") != std::string::npos);
      if (!linear) continue;
      // What is updated follows from the tensors; a mixture lacks one.
      using Targets = LowRank::Targets;
      const auto& projections = *spec.layer_names;
      const auto without = [&](const std::vector<std::string>& gone) {
        const auto text = refused([&](auto& list) {
          std::erase_if(list, [&](const auto& t) {
            return std::any_of(gone.begin(), gone.end(), [&](const std::string& of) {
              const auto at = t.name.find("." + of + ".lora_");  // behind a layer's number
              return at != t.name.npos && std::isdigit(static_cast<unsigned char>(t.name[at - 1]));
            });
          });
        });
        return std::pair(std::get<LowRank>(checkpoints::PeftAdapter(out.text()).method(spec)).targets, text);
      };
      std::vector<std::string> feed{projections.up, projections.down};
      if (*projections.gate) feed.push_back(projections.gate);
      const auto all = [&](std::vector<std::string> more) {
        more.insert(more.end(), feed.begin(), feed.end());
        return more;
      };
      CHECK(without(feed).first == Targets::attention);
      CHECK(without(all({projections.key, projections.output})).first == Targets::query_value);
      CHECK(without(all({projections.query, projections.output})).first == (Targets::key | Targets::value));
      CHECK(
          without({projections.query, projections.key, projections.value, projections.output, projections.up}).first ==
          (*projections.gate ? Targets::gate | Targets::down : Targets::down));
      const auto mixture = without({projections.key});
      CHECK(mixture.first == (Targets::query_value | Targets::output | Targets::up | Targets::gate | Targets::down));
      CHECK(mixture.second.find(projections.key + std::string(".lora_A.weight is missing")) != std::string::npos);
      // An update of a matrix of the head, which trains as a whole here.
      Parameter<double> whole;
      for (const auto& [ours, p] : trained)
        if (ours == (folder == "bert" ? "pooler.dense.weight" : "score.weight")) whole = p;
      const Index rows = whole.shape()[0], columns = whole.shape()[1];
      Tensor<double> a({3, columns}), b({rows, 3});
      fill_normal(a, {3, 1, 0}, 1.0);
      fill_normal(b, {3, 2, 0}, 1.0);
      const auto as = a.values(), bs = b.values();
      const auto updated = [&](auto& list) {
        auto one = std::find_if(list.begin(), list.end(), [&](const auto& t) {
                     return t.name.ends_with(folder == "bert" ? "pooler.dense.weight" : "score.weight");
                   })->name;
        one.resize(one.size() - 6);
        list.push_back({one + "lora_A.weight", "F64", {3, columns}, std::as_bytes(std::span(as))});
        list.push_back({one + "lora_B.weight", "F64", {rows, 3}, std::as_bytes(std::span(bs))});
      };
      const auto base = whole.value().values();
      put(updated);
      checkpoints::PeftAdapter(out.text()).load(trained, spec, method);
      const auto with = whole.value().values();
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < columns; ++j) {
          double sum = base[static_cast<std::size_t>(i * columns + j)];
          for (Index k = 0; k < 3; ++k)
            sum += 2 * bs[static_cast<std::size_t>(i * 3 + k)] * as[static_cast<std::size_t>(k * columns + j)];
          CHECK(with[static_cast<std::size_t>(i * columns + j)] == doctest::Approx(sum).epsilon(1e-13));
        }
      put([&](auto& list) { updated(list), list[list.size() - 2].shape = {columns, 3}; });
      CHECK(meft::test::message_of([&] {
              checkpoints::PeftAdapter(out.text()).load(trained, spec, method);
            }).find("wrong shape") != std::string::npos);
    }
}

TEST_CASE("families: peft's update of a matrix that is several here is read as theirs, and written as one") {
  const std::string at = golden() + "/modernbert";
  const checkpoints::PeftAdapter adapter(at + "/peft_lora_linear");
  const Values plain(at + "/plain.safetensors"), expected(at + "/lora_linear.safetensors");
  const auto learner_of = [&](const AnyMethod& method) {
    auto model = checkpoints::hf<double>(at);
    auto head = checkpoints::load_head(at, model, 3);
    task::Learner<Transformer<double>> out{std::move(model), {}, std::move(head)};
    out.body = adapt(out.model, method);
    return out;
  };
  const auto spec = checkpoints::read_spec(checkpoints::read_config(at));
  const auto method = adapter.method(spec);
  CHECK(std::get<LowRank>(method).targets == LowRank::Targets::linear);
  auto learner = learner_of(method);
  const auto trained = nn::trainable<double, Cpu>(learner);
  adapter.check_size(spec);
  adapter.load(trained, spec, method);
  std::map<std::string, std::vector<double>> gradients;
  Comparison found(expected);
  found.add("logits", learner.logits(batch_of(plain)).value());
  {
    Tape tape;
    tape.backward(learner.loss(batch_of(plain)));
    for (const auto& [name, p] : trained) gradients[name] = p.gradient().values();
  }
  // Each part reads through the same rows of peft's first factor, and has rows of its second one to itself.
  for (const std::string layer : {"layers.0.", "layers.1.", "layers.2."})
    for (const auto& [whole, parts] : std::vector<std::pair<std::string, std::vector<std::string>>>{
             {"attn.Wqkv", {"attn.query", "attn.key", "attn.value"}},
             {"mlp.Wi", {"mlp.gate", "mlp.up"}},
             {"attn.Wo", {"attn.Wo"}},
             {"mlp.Wo", {"mlp.Wo"}}}) {
      std::vector<double> first, second;
      for (const auto& part : parts) {
        const auto &a = gradients.at(layer + part + ".lora_A.weight"),
                   &b = gradients.at(layer + part + ".lora_B.weight");
        first.resize(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) first[i] += a[i];
        second.insert(second.end(), b.begin(), b.end());
      }
      const auto tensor = [](const std::vector<double>& v) { return Tensor<double>::from({std::ssize(v)}, v); };
      found.add("gradient." + layer + whole + ".lora_A.weight", tensor(first));
      found.add("gradient." + layer + whole + ".lora_B.weight", tensor(second));
    }
  CHECK_MESSAGE(found.worst() < 1e-11, found.at());

  const meft::test::Folder out;
  const std::tuple<const char*, int, const char*> cases[] = {{"linear", 6, "linear"},
                                                             {"query-value", 4, "query,key,value"},
                                                             {"value,gate,down", 2, "query,key,value,up,gate,down"}};
  for (const auto& one : cases) {
    const auto targets = std::get<0>(one), read = std::get<2>(one);
    const int rank = std::get<1>(one);
    CAPTURE(targets);
    AnyMethod some = LowRank{2, 3};
    REQUIRE(set_option(some, "lora-targets", targets));
    auto ours = learner_of(some);
    std::uint32_t site = 0;
    const auto own = nn::trainable<double, Cpu>(ours);
    for (auto [name, p] : own) fill_normal(p.value(), {5, site++, 0}, 0.3);
    checkpoints::save_trained(out.text() + "/ours.safetensors", own, {});
    checkpoints::write_peft(out.text(), io::Safetensors(out.text() + "/ours.safetensors"), spec, some,
                            {.model = at, .task = "SEQ_CLS"});
    const checkpoints::PeftAdapter written(out.text());
    const auto back = written.method(spec);
    LowRank expected{rank, 1.5 * rank};
    AnyMethod as_read = expected;
    REQUIRE(set_option(as_read, "lora-targets", read));
    CHECK(std::get<LowRank>(back).rank == rank);
    CHECK(std::get<LowRank>(back).alpha == 1.5 * rank);
    CHECK(std::get<LowRank>(back).targets == std::get<LowRank>(as_read).targets);
    auto again = learner_of(back);
    written.check_size(spec);
    written.load(nn::trainable<double, Cpu>(again), spec, back);
    const auto a = ours.logits(batch_of(plain)).value().values(), b = again.logits(batch_of(plain)).value().values();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-12));
  }
}

TEST_CASE("families: the numbers that a peft folder tells of are those of a model with few key heads") {
  model::LlamaConfig config;
  config.vocab_size = 20;
  config.hidden_size = 16;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 1;
  config.head_dim = config.rotary.rotated = 4;
  config.intermediate_size = 8;
  for (const AnyMethod& method : {AnyMethod(PrefixTuning{.tokens = 3}), AnyMethod(LowRank{.rank = 2})}) {
    CAPTURE(method_title(method));
    Transformer<float> llama(config.spec());
    llama.initialise(1);
    const auto body = adapt(llama, method);
    const auto trained = nn::trainable<float, Cpu>(llama);
    const meft::test::Folder out;
    checkpoints::save_trained(out.text() + "/ours.safetensors", trained, {});
    checkpoints::write_peft(out.text(), io::Safetensors(out.text() + "/ours.safetensors"), llama.spec, method,
                            {.model = "", .task = "SEQ_CLS"});
    const checkpoints::PeftAdapter written(out.text());
    written.check_size(llama.spec);
    written.load(trained, llama.spec, method);
  }
}

TEST_CASE(
    "families: what is written for PyPI's peft names modules of the model, whichever list of layers they are in") {
  const meft::test::Folder out;
  int checked = 0;
  for (const auto& c : cases())
    for (const std::string name : {"lora", "lora linear", "ia3", "ia3 peft", "ia3 peft-bart"}) {
      CAPTURE(c.folder);
      CAPTURE(name);
      const std::string at = golden() + "/" + c.folder, ours = out.text() + "/ours.safetensors";
      auto model = checkpoints::hf<float>(at);
      if (model.spec.fused() && name[0] != 'l') {
        CHECK(checkpoints::peft_form(method_named("ia3"), model.spec) == nullptr);
        continue;
      }
      auto method = method_named(name.substr(0, name.find(' ')));
      if (const auto at = name.find(' '); at != name.npos)
        REQUIRE(set_option(method, name[0] == 'l' ? "lora-targets" : "ia3-form", name.substr(at + 1)));
      (void)adapt(model, method);
      checkpoints::save_trained(ours, nn::trainable<float, Cpu>(model), {});
      checkpoints::write_peft(out.text(), io::Safetensors(ours), model.spec, method, {.model = at, .task = ""});
      const io::Weights weights(at);
      const auto config = io::read_json(out.text() + "/" + checkpoints::peft_config);
      const std::string prefix = model.spec.prefix;
      for (std::string module : config["target_modules"]) {
        for (const char* before : {".attention.attention.", ".output.dense", ".intermediate."})
          if (model.spec.patches) CHECK(module.find(before) == module.npos);
        for (const auto& [now, before] : std::vector<std::pair<std::string, std::string>>{
                 {"vit.layers.", "vit.encoder.layer."},
                 {"deit.layers.", "deit.encoder.layer."},
                 {".attention.q_proj", ".attention.attention.query"},
                 {".attention.k_proj", ".attention.attention.key"},
                 {".attention.v_proj", ".attention.attention.value"},
                 {".attention.o_proj", ".attention.output.dense"},
                 {".mlp.fc1", ".intermediate.dense"},
                 {".mlp.fc2", ".output.dense"}}) {  // what checkpoints call them
          const bool dinov2 = prefix == "dinov2." && now.starts_with(".mlp");
          if (const auto at = module.find(now); model.spec.patches && !dinov2 && at != module.npos)
            module.replace(at, now.size(), before);
        }
        const bool there =
            weights.contains(module + ".weight") || weights.contains(module.substr(prefix.size()) + ".weight");
        CHECK_MESSAGE(there, module);
        ++checked;
      }
    }
  CHECK(checked > 500);
}

// 64-bit words with 40 fraction bits round each shear by 2⁻⁴¹, 5e-13.
TEST_CASE("families: MEFT in double equals the plain transcription, and exact equals stored bit for bit") {
  check_meft<double>(0, 1e-9, "double, 64-bit streams");
}

TEST_CASE("families: what is inside MEFT's layers has the gradients of stored activations, bit for bit") {
  int checked = 0;
  auto methods = methods_and_insides();
  methods.push_back(method_named("meft1+lora"));
  REQUIRE(set_option(methods.back(), "lora-targets", "linear"));
  for (const auto& c : cases())
    for (auto method : methods) {
      if (c.language || method_title(method) == method_name(method)) continue;
      CAPTURE(c.folder);
      CAPTURE(method_title(method));
      stack_of(method)->slice_tokens = 8;
      (void)set_option(method, "density", "0.1");
      const auto exact = step_bits(c, method);
      CHECK(exact.size() > 50);
      stack_of(method)->streams = Streams::stored;
      CHECK(step_bits(c, method) == exact);
      ++checked;
    }
  CHECK(checked == 17 * 19);
}

// An encoder's output gets what keys and values of each of the decoder's layers add, kept layers one by one, layers
// that run again together: the sums are rounded otherwise.
TEST_CASE("families: layers that run again give the gradients of those that are kept, without a decoder bit for bit") {
  for (const auto& c : cases()) {
    if (c.language) continue;
    CAPTURE(c.folder);
    const auto again = step_bits(c, Full{}, true), kept = step_bits(c, Full{});
    if (!dropping(c).decodes()) CHECK(again == kept);
    REQUIRE(again.size() == kept.size());
    float most = 0, apart = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      most = std::max(most, std::fabs(kept[i]));
      apart = std::max(apart, std::fabs(kept[i] - again[i]));
    }
    CHECK(apart < 1e-6f * most);
  }
}

// As in golden_test: a hundred roundings of 2⁻²¹ may be seen, errors of gradients below 0.01 relative to 0.01.
TEST_CASE("families: MEFT in float with 32-bit streams, exact equal to stored bit for bit") {
  check_meft<float>(0.01, 5e-5, "float, 32-bit streams");
}

TEST_CASE(
    "families: no two dropouts of a training pass share a random number, whatever the method; new weights neither") {
  const int threads_before = threads();
  set_threads(1);
  cpu::listing = true;
  for (const auto& c : cases())
    for_each_method([&](const std::string& method, const auto& adapted) {
      if (c.language) return;
      CAPTURE(c.folder);
      CAPTURE(method);
      auto model = dropping(c);
      auto body = adapted(model);
      auto head = checkpoints::load_head(golden() + "/bert", model, 7, {}, 7);  // none of its parts is there
      auto batch = batch_of(Values(golden() + "/" + c.folder + "/plain.safetensors"));
      batch.run = {5, 9, true};
      cpu::draws.clear();
      Tape tape;
      const auto loss = cross_entropy(head(model.run(batch, body)), batch.labels);
      auto forward = cpu::draws;
      std::sort(forward.begin(), forward.end());
      std::set<std::uint32_t> sites;
      for (const auto& [seed, step, site, block] : forward) {
        CHECK((seed == 5 && step == 9));
        sites.insert(site);
      }
      CHECK(sites.size() == places_of_dropout(model, method));
      const auto twice = std::adjacent_find(forward.begin(), forward.end());
      CHECK_MESSAGE(twice == forward.end(), "drawn twice: site ", twice == forward.end() ? 0 : std::get<2>(*twice));
      // The way back replays: it draws nothing that the way there did not.
      cpu::draws.clear();
      tape.backward(loss);
      std::size_t other = 0;
      for (const auto& draw : cpu::draws) other += !std::binary_search(forward.begin(), forward.end(), draw);
      CHECK(other == 0);

      // What was made anew and is not constant. The model's own weights come from a checkpoint.
      std::vector<std::pair<std::string, std::vector<float>>> fresh;
      const auto add = [&](const std::string& name, Parameter<float>& p) {
        const auto values = p.value().values();
        const bool constant = std::all_of(values.begin(), values.end(), [&](float v) { return v == values[0]; });
        if (p.trainable() && !constant && values.size() >= 6) fresh.emplace_back(name, values);
      };
      nn::for_each_parameter(model, [&](const std::string& name, Parameter<float>& p) {
        if (name.find("_adapter.") != name.npos || name.find("lora_") != name.npos) add(name, p);
      });
      nn::for_each_parameter(head, add);
      if (method != "full" && method != "full, recomputed" && method != "bitfit") CHECK(fresh.size() >= 5);
      for (std::size_t i = 0; i < fresh.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
          CHECK_MESSAGE(!same_numbers(fresh[i].second, fresh[j].second), fresh[i].first, " begins as ", fresh[j].first);
    });
  cpu::listing = false;
  cpu::draws = {};
  set_threads(threads_before);
}

TEST_CASE("families: what other methods make anew begins with numbers of its own, and they drop apart") {
  const int threads_before = threads();
  set_threads(1);
  const Alore alore{.rank = 2};
  const MeftOptions maps{.stack = {.slice_tokens = 1 << 20}, .start = AdapterStart::paper, .maps = true, .map = alore};
  const auto check = [](const std::string& folder, const AnyMethod& method, std::size_t drops, std::size_t least) {
    CAPTURE(folder);
    CAPTURE(method_title(method));
    const Case c{folder, folder, false};
    auto model = dropping(c);
    auto body = adapt(model, method, {.seed = 7});
    std::vector<std::pair<std::string, std::vector<float>>> fresh;
    const auto add = [&](const std::string& name, Parameter<float>& p) {
      if (!p.defined() || !p.trainable()) return;
      const auto values = p.value().values();
      const bool constant = std::all_of(values.begin(), values.end(), [&](float v) { return v == values[0]; });
      if (!constant && values.size() >= 6) fresh.emplace_back(name, values);
    };
    nn::for_each_parameter(model, add);
    body.own(body, [&](const char* name, auto& part) {
      nn::walk(
          part, [&](const std::string& inner, Parameter<float>& p) { add(inner, p); }, name);
    });
    CHECK(fresh.size() >= least);
    for (std::size_t i = 0; i < fresh.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        CHECK_MESSAGE(!same_numbers(fresh[i].second, fresh[j].second), fresh[i].first, " begins as ", fresh[j].first);

    // A training pass: `drops` places, of which no two share a number.
    auto batch = batch_of(Values(golden() + "/" + c.folder + "/plain.safetensors"));
    batch.run = {5, 9, true};
    cpu::draws.clear();
    cpu::listing = true;
    Tape tape;
    (void)model.run(batch, body);
    cpu::listing = false;
    std::sort(cpu::draws.begin(), cpu::draws.end());
    CHECK(std::adjacent_find(cpu::draws.begin(), cpu::draws.end()) == cpu::draws.end());
    std::set<std::uint32_t> sites;
    for (const auto& draw : cpu::draws) sites.insert(std::get<2>(draw));
    CHECK(sites.size() == drops);
  };
  // Of two layers and three: embeddings; attention, its block, inside of the feed-forward network, its block; across.
  const std::size_t own = 2 + 2 * 4 + 3 * 6;
  check("bart", alore, own + 2 * 2 + 3 * 3, 26);
  check("bart", Meft1{.options = maps, .inside = alore}, own + 2 * 2 + 3 * 3 + 5, 36);
  check("bart", Meft2{.bottleneck = 3, .options = maps}, own + 5, 20);
  check("bart", PrefixTuning{.tokens = 3}, own + 2 + 3 * 2, 16);  // attention to prefixes drops by itself
  check("bart", PromptTuning{.tokens = 3}, own, 2);
  check("bart", Unipt{.projection = 8}, 0, 8);
  check("bart", Lst{.reduction = 2}, 0, 30);
  check("bart", Qst{.reduction = 2, .rank = 3}, 0, 36);
  check("bart", Sherl{.projection = 8}, 2, 8);
  check("bart", Losa{.rank = 2}, 0, 4);
  check("vit", Fpt{.prompts = 3, .image = 4, .reduction = 2, .layers = 2}, 2, 10);
  cpu::draws = {};
  set_threads(threads_before);
}

TEST_CASE("families: learners take the right options, and mask anew in each epoch") {
  const std::string folder = golden() + "/bert";
  auto model = checkpoints::hf<double>(folder);
  task::EncodedChoices questions{{{5, 6}, {7, 8, 9}, {10, 11}, {12}, {13, 14, 15}},
                                 {{0, 0}, {0, 1, 1}, {0, 0}, {0}, {0, 1, 1}}};
  questions.labels = {{-100, 1}, {2, -100, 3}, {-100, 4}, {5}, {-100, 6, 7}};
  questions.first = {0, 2, 5};
  questions.answers = {1, 2};
  const std::uint32_t both[] = {1, 0}, one[] = {0};
  task::ChoiceLearner<Transformer<double>> chooser{model, {}, checkpoints::load_head(folder, model, 1)};
  const auto chosen = chooser.batch(questions, both, {});
  CHECK(chosen.ids.values() == std::vector<std::int32_t>{10, 11, 12, 13, 14, 15, 5, 6, 7, 8, 9});
  CHECK(chosen.options.values() == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5});  // the last one is none
  CHECK(chosen.labels.values() == std::vector<std::int32_t>{2, 1});
  CHECK(chosen.counted == 2);

  task::LanguageLearner<Transformer<double>> learner{model, {}, model.language_head()};
  const auto right = learner.batch(questions, both, {});
  CHECK(right.ids.values() == std::vector<std::int32_t>{13, 14, 15, 7, 8, 9});
  CHECK(right.types.values() == std::vector<std::int32_t>{0, 1, 1, 0, 1, 1});
  CHECK(right.labels.values() == std::vector<std::int32_t>{-100, 6, 7, 2, -100, 3});
  CHECK(right.counted == 4);
  questions.answers = {0, 1};
  CHECK(learner.trained_lengths(questions) == std::vector<std::uint32_t>{2, 1});
  questions.answers[0] = -1;
  CHECK_THROWS_WITH_AS((void)learner.batch(questions, one, {}), doctest::Contains("without an answer: 0"), Error);
  CHECK_THROWS_WITH_AS((void)chooser.batch(questions, one, {}), doctest::Contains("without an answer: 0"), Error);

  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 30; ++i) ids.push_back(5 + i % 30);
  task::Blocks blocks{{ids}, task::MaskOptions{.mask = 4, .vocabulary = 40, .chosen = 0.4}, 3};
  const auto masked = [&] { return learner.batch(blocks, one, {}).labels.values(); };
  const auto first = masked();
  CHECK(masked() == first);
  blocks.expect({}, 1);
  CHECK(masked() != first);
  blocks.expect({}, 0);
  CHECK(masked() == first);
  blocks.seed = 4;
  CHECK(masked() != first);
}

// On the files of golden/ranking, made by make_ranking.py.
TEST_CASE("families: ranked answers: losses, gradients and scores as transformers' logits give them") {
  for (const std::string folder : {"opt_lm", "roberta_lm", "bart", "t5_lm"}) {
    CAPTURE(folder);
    const Values values(golden() + "/ranking/" + folder + ".safetensors");
    auto model = checkpoints::hf<double>(golden() + "/" + folder);
    auto head = checkpoints::load_language_head(golden() + "/" + folder, model);
    task::RankingLearner<Transformer<double>> learner{std::move(model), {}, std::move(head)};
    learner.body = adapt(learner.model, Full{});
    const auto lists = [&](const std::string& name, const std::string& offsets) {
      const auto flat = values.integer(name), starts = values.integer(offsets);
      std::vector<task::Tokens> out;
      for (std::size_t i = 0; i + 1 < starts.size(); ++i)
        out.emplace_back(flat.begin() + starts[i], flat.begin() + starts[i + 1]);
      return out;
    };
    const bool bart = folder == "bart", decodes = bart || folder == "t5_lm", masked = folder == "roberta_lm";
    task::RankedQuestions data{.answered = masked    ? task::Answered::at_mask
                                           : decodes ? task::Answered::by_decoder
                                                     : task::Answered::behind,
                               .prompts = lists("prompts", "prompt_offsets"),
                               .answers = lists("answers", "answer_offsets"),
                               .skipped = bart};
    if (masked) data.masks = values.integer("masks");
    for (const auto right : values.integer("right")) data.labels.push_back(static_cast<float>(right));
    data.first.clear();
    for (const auto at : values.integer("first")) data.first.push_back(static_cast<std::uint32_t>(at));
    REQUIRE(data.size() == 3);

    const std::uint32_t rows[] = {0, 1, 2}, some[] = {2, 0}, one[] = {1};
    const auto batch = learner.batch(data, rows, {});
    CHECK(batch.counted == 3);
    const auto loss_of = [&](std::span<const std::uint32_t> questions) {
      return learner.loss(learner.batch(data, questions, {})).value().item();
    };
    for (const char* name : {"likelihood", "ranking", "tfew"}) {
      CAPTURE(name);
      learner.losses = task::losses_from(name);
      const double expected = values.real(std::string("loss.") + name)[0];
      CHECK(loss_of(rows) == doctest::Approx(expected).epsilon(1e-12));
      // Questions weigh alike however they are batched; one without a wrong answer has its likelihood alone.
      CHECK((2 * loss_of(some) + loss_of(one)) / 3 == doctest::Approx(expected).epsilon(1e-12));
    }
    const auto beta = learner.answer_scores(data, 2, [](auto...) { return false; });
    REQUIRE(beta);
    Comparison scores(values), gradients(values);
    scores.add("beta", Tensor<double>::from({std::ssize(*beta)}, *beta));
    CHECK(scores.worst() < 1e-12);
    CHECK_FALSE(learner.answer_scores(data, 2, [](std::size_t done, std::size_t) { return done == 2; }));
    const auto compare = [&](const std::string& kind) {
      Tape tape;
      tape.backward(learner.loss(batch));
      nn::for_each_parameter(learner.model, [&](const std::string& name, Parameter<double>& p) {
        auto full = kind + std::string(learner.model.spec.prefix) + name;
        if (!values.file.contains(full)) full = kind + name;  // a model whose classifier alone has a prefix
        if (values.file.contains(full)) gradients.gradient(full, p.gradient(), p.shape());
        p.zero_gradient();
      });
    };
    compare("gradient.");
    CHECK(gradients.names().size() == 2);
    if (!masked) {  // texts that are written
      learner.losses = task::Losses::words;
      const double mean = loss_of(rows);
      CHECK(mean == doctest::Approx(values.real("loss.words")[0]).epsilon(1e-12));
      const auto counted = [&](std::span<const std::uint32_t> questions) {
        return static_cast<double>(learner.batch(data, questions, {}).counted);
      };
      CHECK(counted(some) != 2 * counted(one));  // words weigh alike however they are batched
      CHECK((counted(some) * loss_of(some) + counted(one) * loss_of(one)) / counted(rows) ==
            doctest::Approx(mean).epsilon(1e-12));
      compare("words.");
      CHECK(gradients.names().size() == 4);
      const auto wanted = lists("written", "written_offsets");
      const std::int32_t end = folder == "t5_lm" ? 1 : 2;
      const auto never = [](auto...) { return false; };
      const auto written = [&](std::size_t each, std::size_t room = 1 << 20) {
        return *task::write(learner, data, bart ? task::Tokens{0} : task::Tokens{}, end, 8, each, never, room);
      };
      auto found = written(2);
      CHECK(found == written(3));
      // Where keys and values have room for one text alone, one is written at a time, in less memory.
      const auto held = [&](std::size_t room) {
        const Measure measure(Cpu::pool());
        CHECK(written(3, room) == found);
        return measure.activation();
      };
      const std::size_t together = held(1 << 20), apart = held(1);
      CHECK(apart < together);
      for (std::size_t q = 0; q < 3; ++q) {
        if (found[q].size() < 8) found[q].push_back(end);  // generate() gives it
        CHECK(found[q] == wanted[q]);
      }
      CHECK_FALSE(task::write(learner, data, {}, end, 8, 3, [](auto...) { return true; }));
      // What it writes is what greedy decoding matches exactly; a text with another word is not.
      task::RankedQuestions own{.answered = data.answered, .prompts = data.prompts, .skipped = bart};
      for (std::size_t q = 0; q < 3; ++q) {
        own.answers.push_back(found[q]);
        if (bart) own.answers.back().insert(own.answers.back().begin(), 0);
        own.first.push_back(static_cast<std::uint32_t>(q + 1));
        own.labels.push_back(0);
      }
      own.answers[1].back() = (own.answers[1].back() + 1) % 30;
      const auto marks = learner.scores(own, {}, 2, never);
      REQUIRE((marks && marks->size() == 3));
      CHECK((*marks)[2].value == doctest::Approx(2.0 / 3));
      CHECK((*marks)[1].value == doctest::Approx(std::exp(-(*marks)[0].value)));
      CHECK((*marks)[0].value == doctest::Approx(-learner.loss(learner.batch(own, rows, {})).value().item()));
    }
    CHECK_MESSAGE(gradients.worst() < 1e-11, gradients.at());
    data.labels[1] = NAN;
    CHECK_THROWS_AS((void)learner.batch(data, one, {}), Error);
    CHECK(loss_of(some) > 0);
  }
}

namespace {

using Classifier = task::Learner<Transformer<float>>;

Classifier classifier(const std::string& folder, const AnyMethod& method, bool prune) {
  const std::string path = golden() + "/" + folder;
  auto model = checkpoints::hf<float>(path, nullptr, {}, prune);
  auto head = checkpoints::load_head(path, model, 3);
  Classifier out{std::move(model), {}, std::move(head)};
  out.body = adapt(out.model, method);
  return out;
}

/// Its rows of the words as a whole table.
std::vector<float> words_of(const Classifier& of) {
  const auto& embeddings = *of.model.embeddings;
  return embeddings.rows ? embeddings.rows->whole().values() : embeddings.word.value().values();
}

}  // namespace

TEST_CASE(
    "families: pruned embeddings give the bits of whole ones; other rows stay the file's; what was trained reads "
    "back") {
  for (const std::string folder : {"roberta", "bart"}) {
    const auto batch = batch_of(Values(golden() + "/" + folder + "/plain.safetensors"));
    auto ids = batch.ids.values();
    if (folder == "bart") ids.push_back(2);  // the decoder's first
    std::set<std::int32_t> used(ids.begin(), ids.end());
    used.insert(0);  // is there at once
    for (const AnyMethod& method :
         std::vector<AnyMethod>{Full{}, LowRank{}, Meft1{}, Mezo<Full>{}, Zofo<LowRank>{.inner = 0}}) {
      CAPTURE(folder);
      CAPTURE(method_title(method));
      auto recipe = method_recipe(method);
      recipe.decay = recipe.clip = 0;
      recipe.rate = 1e-2;
      const auto train = [&](Classifier& learner) {
        const auto optimizer = train::state_over(train::optimizer_of(recipe, 3), nn::trainable<float, Cpu>(learner));
        train::Steps<float, Cpu> steps([&](const nn::Batch<>& b) { return learner.loss(b); }, 0, optimizer.get());
        std::vector<double> losses;
        for (int step = 0; step < 3; ++step) {
          for (const int part : {0, 1})
            losses.push_back(steps
                                 .run(
                                     batch, [] {}, part)
                                 .loss);
          (void)optimizer->step();
        }
        return losses;
      };
      auto whole = classifier(folder, method, false), pruned = classifier(folder, method, true);
      const auto file = words_of(whole);
      CHECK(words_of(pruned) == file);
      auto& rows = *pruned.model.embeddings->rows;
      CHECK(pruned.model.embeddings->word.shape()[0] == 1);
      rows.use(std::span(ids).first(1));  // not in ascending order with the others
      rows.use(ids);
      CHECK(pruned.model.embeddings->word.shape()[0] == static_cast<Index>(used.size()));
      CHECK(train(pruned) == train(whole));
      const auto expected = words_of(whole), found = words_of(pruned);
      const std::size_t width = file.size() / static_cast<std::size_t>(rows.count());
      bool trained = false;
      for (std::size_t i = 0; i < file.size(); ++i) {
        const bool there = used.contains(static_cast<std::int32_t>(i / width));
        REQUIRE(found[i] == (there ? expected[i] : file[i]));
        trained = trained || found[i] != file[i];
      }
      CHECK(trained == method_facts(method).trains_all);

      // Saved and read back by another, to which the rows are new.
      const test::Folder out;
      const std::string path = out.text() + "/adapter.safetensors";
      checkpoints::save_trained(path, nn::trainable<float, Cpu>(pruned), {}, nn::indices<Cpu>(pruned));
      const io::Safetensors saved(path);
      CHECK(saved.contains(rows.name()) == trained);
      auto again = classifier(folder, method, true);
      checkpoints::use_rows_of(saved, again.model);
      checkpoints::load_trained(saved, nn::trainable<float, Cpu>(again), nn::indices<Cpu>(again));
      CHECK(words_of(again) == found);
      auto other = batch;  // ids that no step saw
      other.ids = Tensor<std::int32_t>::full(batch.ids.shape(), 39);
      const auto logits = again.logits(other).value().values();
      checkpoints::restore_rows(again.model);
      CHECK(again.model.embeddings->word.value().values() == found);
      CHECK(again.logits(other).value().values() == logits);
      if (!used.contains(39) && std::holds_alternative<Full>(method))
        CHECK_THROWS_WITH_AS((void)pruned.logits(other), doctest::Contains("first time after an optimizer"), Error);
    }
    auto pruned = classifier(folder, HeadOnly{}, true);
    const std::int32_t outside[] = {3, 40};
    CHECK_THROWS_WITH_AS(pruned.model.embeddings->rows->use(outside), doctest::Contains("40 rows, found: 40"), Error);
    CHECK_THROWS_WITH_AS((void)pruned.model.language_head(), doctest::Contains("reads all rows"), Error);
  }
}
