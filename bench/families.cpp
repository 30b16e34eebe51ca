// Owns: the bench of one training step of any family at a published size, with random weights: activation memory, all
// memory, seconds; and what stored full fine-tuning would take, from fewer layers where the whole does not fit. Whether
// the gradients are those of stored streams; on the emulated device, the step's bytes and launches.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <meft/io/file.hpp>
#include <meft/meft.hpp>
#include <meft/memory/resident.hpp>
#include <meft/method/registry.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/transformer.hpp>
#include <meft/model/vit.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/learner.hpp>
#include <meft/train/steps.hpp>

#include "count.hpp"
#include "device.hpp"
#include "rate.hpp"

namespace {

using namespace meft;

struct Options {
  Index batch = 1, tokens = 512, probe = 4, layers = 0, stored = 0;
  std::string precision = "bf16", device = "cpu", json;
  int steps = 2;
  double attention_dropout = -1;
  bool exact = false, count = false;
  bool words = false, alone = false;
};

using bench::mib;

/// The model called `name`, of its published sizes.
model::TransformerSpec spec_of(const std::string& name) {
  if (name == "bert-large") {
    model::BertConfig c;
    c.hidden_size = 1024, c.num_hidden_layers = 24, c.num_attention_heads = 16, c.intermediate_size = 4096;
    return c.spec();
  }
  if (name == "vit-large") {
    model::VitConfig c;
    c.hidden_size = 1024, c.num_hidden_layers = 24, c.num_attention_heads = 16, c.intermediate_size = 4096;
    return c.spec();
  }
  if (name == "bart-large") {
    model::BartConfig c;
    c.d_model = 1024, c.encoder_layers = c.decoder_layers = 12;
    c.encoder_attention_heads = c.decoder_attention_heads = 16, c.encoder_ffn_dim = c.decoder_ffn_dim = 4096;
    return c.spec();
  }
  if (name == "smollm2-135m" || name == "qwen2.5-0.5b") {
    const bool qwen = name == "qwen2.5-0.5b";
    model::LlamaConfig c;
    c.vocab_size = qwen ? 151936 : 49152, c.hidden_size = qwen ? 896 : 576, c.intermediate_size = qwen ? 4864 : 1536;
    c.num_hidden_layers = qwen ? 24 : 30, c.num_attention_heads = qwen ? 14 : 9, c.num_key_value_heads = qwen ? 2 : 3;
    c.head_dim = 64, c.max_position_embeddings = qwen ? 32768 : 8192, c.tie_word_embeddings = true, c.qkv_bias = qwen;
    c.rotary = {.rotated = c.head_dim, .base = qwen ? 1e6 : 1e5};
    return c.spec();
  }
  const bool large = name == "opt-1.3b";  // else opt-350m
  model::OptConfig c;
  c.hidden_size = c.word_embed_proj_dim = large ? 2048 : 1024;
  c.num_attention_heads = large ? 32 : 16;
  c.num_hidden_layers = 24;
  c.ffn_dim = 4 * c.hidden_size;
  if (!large) c.do_layer_norm_before = false, c.word_embed_proj_dim = 512;
  return c.spec();
}

model::TransformerSpec with_layers(model::TransformerSpec spec, Index layers) {
  spec.layers.count = layers;
  if (spec.decoder) spec.decoder->count = layers;
  return spec;
}

/// Random weights, those of a layer packed before the next are made, so that the originals never lie beside each other.
template <Backend B>
model::Transformer<float, B> make(const model::TransformerSpec& spec, bool frozen, Precision precision) {
  model::Transformer<float, B> model(with_layers(spec, 1));
  const auto fill = [&](auto& part, std::uint64_t seed) {
    model::initialise_parameters<float, B>(part, seed);
    if (!frozen) return;
    freeze(part);
    nn::set_precision<float, B>(part, precision);
    nn::pack<float, B>(part);
    B::pool().trim();
  };
  fill(model, 1);
  const auto deepen = [&](auto& layers, const model::LayersSpec& what) {
    for (Index i = 1; i < what.count; ++i) {
      const auto number = static_cast<std::uint32_t>(i);
      layers.push_back(nn::TransformerLayer<float, B>::empty(*spec.layer_names, what.at(i), number));
      fill(layers.back(), number + 2);
    }
  };
  deepen(model.layers, spec.layers);
  if (spec.decoder) deepen(model.decoder_layers, *spec.decoder);
  return model;
}

template <Backend B>
nn::Batch<B> batch_for(const model::TransformerSpec& spec, const Options& o) {
  nn::Batch<B> batch;
  if (spec.patches) {
    batch.pixels = Tensor<float, B>({o.batch, spec.patches->channels, spec.patches->image, spec.patches->image});
    fill_normal(batch.pixels, {1, 7, 0}, 1.0);
  } else {
    std::vector<std::vector<std::int32_t>> ids;
    for (Index i = 0; i < o.batch; ++i) {
      ids.emplace_back();
      for (Index j = 0; j < o.tokens; ++j)
        ids.back().push_back(
            static_cast<std::int32_t>(random_bits({1, 8, 0}, static_cast<std::uint64_t>(i * o.tokens + j)) %
                                      static_cast<std::uint32_t>(spec.embeddings.vocabulary)));
    }
    batch = nn::Batch<B>::pack(ids);
  }
  std::vector<std::int32_t> labels;
  for (Index i = 0; i < o.batch; ++i) labels.push_back(static_cast<std::int32_t>(i % 2));
  batch.labels = Tensor<std::int32_t, B>::from({o.batch}, labels);
  batch.run = {1, 0, true};
  return batch;
}

/// The model called `name` as the options change it.
model::TransformerSpec spec_of(const std::string& name, const Options& o) {
  auto spec = spec_of(name);
  if (o.layers) spec = with_layers(spec, o.layers);
  if (o.attention_dropout >= 0) {
    spec.layers.layer.attention_dropout = static_cast<float>(o.attention_dropout);
    if (spec.decoder) spec.decoder->layer.attention_dropout = static_cast<float>(o.attention_dropout);
  }
  return spec;
}

struct Measured {
  double activation = 0, parameters = 0, seconds = 0;
  std::vector<float> gradient{};  // of all that trains, in the first step
  bench::Counts counts{};         // of the last step
};
struct Row {
  std::string name;
  Index layers;
  Measured exact;
  double resident, full;  // MiB; full: of stored full fine-tuning
};

template <Backend B, class Learner>
Measured steps_of(Learner& learner, nn::Batch<B> batch, const Options& o) {
  auto adam = optim::AdamW{.rate = 1e-4}.over<float, B>(learner);
  train::Steps passes(learner);
  Measured out{0, mib(B::pool().read().of(Use::parameter)), 0};
  for (int i = 0; i < o.steps; ++i) {
    const double start = bench::now();
    const bench::Counting counting(o.count, !B::on_host);
    out.activation = std::max(out.activation, mib(passes.run(batch, [] {}).activation_bytes));
    if (o.exact && i == 0)
      nn::for_each_parameter(learner, [&](const std::string&, Parameter<float, B>& p) {
        if (!p.trainable() || !p.gradient().defined()) return;
        const auto values = p.gradient().values();
        out.gradient.insert(out.gradient.end(), values.begin(), values.end());
      });
    adam.step();
    B::synchronize();
    const double seconds = bench::now() - start;
    out.seconds = i < 2 ? seconds : std::min(out.seconds, seconds);
    out.counts = counting.counts();
    ++batch.run.step;
  }
  return out;
}

/// The steps of one method on `layers` layers.
template <Backend B, class Method>
Measured steps(const model::TransformerSpec& spec, const Method& method, bool frozen, const Options& o) {
  using Model = model::Transformer<float, B>;
  auto model = make<B>(spec, frozen, precision_from(o.precision));
  auto body = adapt(model, method);
  if (!frozen)  // in few layers the gradient of the word table would be the highest point
    nn::for_each_parameter(model, [](const std::string& name, Parameter<float, B>& p) {
      if (name.find("embed") != name.npos || name == "shared.weight") p.set_trainable(false);
    });
  auto batch = batch_for<B>(spec, o);
  if (o.words) {
    if (!spec.causal) fail("--words: expected a decoder", spec.family);
    std::vector<std::int32_t> labels;
    for (Index i = 0; i < o.batch; ++i)
      for (const auto label :
           task::causal_labels(std::as_const(batch.ids).rows(i * o.tokens, (i + 1) * o.tokens).values()))
        labels.push_back(label);
    batch.labels = Tensor<std::int32_t, B>::from({std::ssize(labels)}, labels);
    auto head = model.language_head();
    task::LanguageLearner<Model> learner{std::move(model), std::move(body), std::move(head)};
    return steps_of<B>(learner, std::move(batch), o);
  }
  task::Learner<Model> learner{std::move(model), std::move(body), {}};
  learner.head = nn::Classifier<float, B>::make(learner.model.hidden(), 2, {1, 9, 0});
  const bool last = spec.head.pooling == nn::Pooling::last;
  learner.head.pooling = last ? nn::Pooling::last : nn::Pooling::first;
  return steps_of<B>(learner, std::move(batch), o);
}

/// Whether exact MEFT1's gradients are bit for bit those of stored streams.
template <Backend B>
bool exact(const std::string& name, Options o) {
  const auto spec = spec_of(name, o);
  o.steps = 1;
  Meft1 stored;
  stored.options.stack.streams = Streams::stored;
  const auto found = steps<B>(spec, Meft1{}, true, o).gradient, expected = steps<B>(spec, stored, true, o).gradient;
  const bool same = !found.empty() && found.size() == expected.size() &&
                    std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0;
  std::printf("%-11s %lld layers: %zu elements of gradients %s those of stored streams\n", name.c_str(),
              static_cast<long long>(spec.layers.count), found.size(), same ? "are bit for bit" : "DIFFER from");
  return same;
}

/// The step's bytes and launches, from steps of few layers and one and two sequences: what a layer takes once a slice
/// and once a sequence, and what the rest takes.
template <Backend B>
void count(const std::string& name, Options o) {
  auto spec = spec_of(name, o);
  spec.embeddings.vocabulary = std::min<Index>(spec.embeddings.vocabulary, 1024);  // only rows that are read count
  bench::Extrapolated all{.layers = spec.layers.count,
                          .batch = o.batch,
                          .slices = (o.batch * o.tokens + B::slice_tokens - 1) / B::slice_tokens,
                          .depths = {(o.probe + 1) / 2, o.probe}};
  o.steps = 1;
  for (int depth = 0; depth < 2; ++depth)
    for (int batch = 0; batch < 2; ++batch) {
      o.batch = batch + 1;
      all.found[depth][batch] = steps<B>(with_layers(spec, all.depths[depth]), Meft1{}, true, o).counts;
    }
  all.print(name, o.tokens, spec.width);
}

template <Backend B>
Row measure(const std::string& name, const Options& o) {
  const auto spec = spec_of(name, o);
  const Index layers = spec.layers.count;
  Meft1 method;
  method.options.stack.stored_layers = o.stored;
  const auto exact = steps<B>(spec, method, true, o);
  // A device's memory is its pool's; on the host the process has more.
  const double all = mib(B::on_host ? Resident::now().peak : B::pool().reserved());
  if (o.alone) return {name, layers, exact, all, 0};
  // Stored full fine-tuning of the layers: one step each at two depths, and a line through them.
  Options once = o;
  once.steps = 1;
  double at[2];
  const Index depth[2] = {(std::min(layers, o.probe) + 1) / 2, std::min(layers, o.probe)};
  for (int i = 0; i < 2; ++i) {
    B::pool().trim();
    at[i] = steps<B>(with_layers(spec, depth[i]), Full{}, false, once).activation;
  }
  const double slope = depth[1] > depth[0] ? (at[1] - at[0]) / static_cast<double>(depth[1] - depth[0]) : 0;
  return {name, layers, exact, all, at[0] + slope * static_cast<double>(layers - depth[0])};
}

nlohmann::ordered_json json(const Row& row, const Options& o) {
  const auto bytes = [](double mebibytes) { return static_cast<std::size_t>(mebibytes * (1 << 20)); };
  return {{"model", row.name},
          {"method", std::string(Described<Meft1>::name)},
          {"device", o.device},
          {"precision", o.precision},
          {"layers", row.layers},
          {"stored_layers", o.stored},
          {"batch", o.batch},
          {"seq", o.tokens},
          {"words", o.words},
          {"attention_dropout",
           o.attention_dropout < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(o.attention_dropout)},
          {"activation_bytes", bytes(row.exact.activation)},
          {"parameter_bytes", bytes(row.exact.parameters)},
          {"resident_bytes", bytes(row.resident)},
          {"step_seconds", row.exact.seconds},
          {"full_activation_bytes", o.alone ? nlohmann::ordered_json() : nlohmann::ordered_json(bytes(row.full))},
          {"threads", threads()},
          {"processor", bench::processor()}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("One step of exact MEFT1 at published sizes, random weights, beside stored full fine-tuning.");
  const std::vector<std::string> known{"bert-large", "vit-large",    "bart-large",  "opt-350m",
                                       "opt-1.3b",   "smollm2-135m", "qwen2.5-0.5b"};
  std::vector<std::string> models{"bert-large", "vit-large", "bart-large", "opt-1.3b"};
  int threads = 0;
  Options o;
  app.add_option("--models", models, "a,b,c")->delimiter(',')->check(CLI::IsMember(known))->capture_default_str();
  app.add_option("--batch", o.batch, "sequences or images [1]")->check(CLI::PositiveNumber);
  app.add_option("--seq", o.tokens, "tokens of a sequence [512]")->check(CLI::PositiveNumber);
  app.add_option("--precision", o.precision, "of frozen weights [bf16]")->check(CLI::IsMember({"f32", "bf16"}));
  auto* const steps = app.add_option("--steps", o.steps, "of MEFT1; the least time behind the first is shown [2]")
                          ->check(CLI::PositiveNumber);
  app.add_option("--probe-layers", o.probe, "depth of the deeper stored step, the other has half [4]")
      ->check(CLI::Range(2, 1024));
  app.add_flag("--words", o.words, "decoders: the loss is of each next word, not of a class");
  auto* const alone = app.add_flag("--alone", o.alone, "no stored fine-tuning beside it");
  app.add_option("--threads", threads, "all processors by default")->check(CLI::PositiveNumber);
  auto* const rows = app.add_option("--json", o.json, "file for the rows, a JSON object a line");
  app.add_option("--layers", o.layers, "in place of the model's own number")->check(CLI::PositiveNumber);
  auto* const kept = app.add_option("--stored-layers", o.stored, "the highest so many keep what they computed [0]")
                         ->check(CLI::NonNegativeNumber);
  app.add_option("--attention-dropout", o.attention_dropout, "in place of the model's own")
      ->check(CLI::Range(0.0, 0.9));
  auto* const compared =
      app.add_flag("--exact", o.exact, "compare gradients with those of stored streams, and nothing else");
  app.add_flag("--count", o.count, "on the emulated device: bytes and launches of a step, and nothing else")
      ->excludes(rows, compared, steps, alone, kept);
  compared->excludes(rows, steps, alone, kept);
  bench::add_device(app, o.device);
  CLI11_PARSE(app, argc, argv);
  if (threads > 0) set_threads(threads);
  try {
    if (o.exact || o.count) {
      bool same = true;
      for (const auto& name : models)
        with_device(o.device, [&]<Backend B>() {
          if (o.count) count<B>(name, o);
          else same = exact<B>(name, o) && same;
        });
      return same ? 0 : 1;
    }
    std::printf("%s, %d threads, %s, batch %lld x %lld tokens (images: whole), frozen weights in %s; memory in MiB\n",
                bench::processor().c_str(), meft::threads(), o.device.c_str(), static_cast<long long>(o.batch),
                static_cast<long long>(o.tokens), o.precision.c_str());
    std::printf("%-12s %6s %7s %10s %9s %8s %13s %9s\n", "model", "layers", "meft1", "weights", "resident", "s/step",
                "full (stored)", "share");
    std::string lines;
    for (const auto& name : models) {
      const Row r = with_device(o.device, [&]<Backend B>() { return measure<B>(name, o); });
      std::printf("%-12s %6lld %7.1f %10.1f %9.1f %8.4f", name.c_str(), static_cast<long long>(r.layers),
                  r.exact.activation, r.exact.parameters, r.resident, r.exact.seconds);
      if (o.alone) std::printf("\n");
      else std::printf(" %13.1f %8.2f%%\n", r.full, 100 * r.exact.activation / r.full);
      std::fflush(stdout);
      lines += json(r, o).dump() + "\n";
      if (!o.json.empty()) io::write_atomically(o.json, lines);
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "families: %s\n", error.message().c_str());
    return 1;
  }
  return 0;
}
