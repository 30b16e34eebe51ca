// Owns: decoders that are descriptions alone: RMS norm, a gated feed-forward network, grouped queries and rotary
// position, against Hugging Face transformers on the files of golden/ that make_decoders.py writes, and made
// reversible.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <meft/method/registry.hpp>
#include <meft/model/transformer.hpp>
#include <meft/ops/loss.hpp>

#include "golden.hpp"

namespace {

using namespace meft;

constexpr nn::LayerNames layer_names{.query = "self_attn.q_proj",
                                     .key = "self_attn.k_proj",
                                     .value = "self_attn.v_proj",
                                     .output = "self_attn.o_proj",
                                     .attention_norm = "input_layernorm",
                                     .up = "mlp.up_proj",
                                     .down = "mlp.down_proj",
                                     .mlp_norm = "post_attention_layernorm",
                                     .gate = "mlp.gate_proj"};

model::TransformerSpec described(const std::string& name) {
  model::TransformerSpec out{
      .family = "decoder",
      .names = {.embeddings = {.word = "embed_tokens.weight"}, .layers = "layers", .norm = "norm"},
      .layer_names = &layer_names,
      .causal = true,
      .width = 16,
      .embeddings = {.vocabulary = 40},
      .layers = {{.width = 16,
                  .heads = 4,
                  .key_heads = 2,
                  .head_width = 6,
                  .ffn = 24,
                  .activation = Activation::silu,
                  .gated = true,
                  .norm = nn::NormKind::rms,
                  .epsilon = 1e-6,
                  .norm_first = true,
                  .causal = true,
                  .bias = false,
                  .qkv_bias = false,
                  .rotary = RotarySpec{.rotated = 6}},
                 2},
      .norm = 1e-6,
      .context = 24,
      .language = nn::LanguageSpec{}};
  auto& layer = out.layers.layer;
  if (name == "llama") return out;
  layer.heads = 2;
  layer.head_width = 8;
  if (name == "stablelm") {
    layer.key_heads = 2;
    layer.norm = nn::NormKind::layer;
    layer.epsilon = 1e-5;
    layer.qkv_bias = true;
    layer.rotary = RotarySpec{.rotated = 4};
    out.norm = 1e-5;
  } else {
    layer.key_heads = 1;
    layer.activation = Activation::gelu_tanh;
    layer.epsilon = 1e-5;
    layer.rotary = RotarySpec{.rotated = 8, .base = 5e5, .interleaved = true};
    out.norm = 1e-5;
  }
  return out;
}

nn::Batch<> batch_of(const Values& plain) {
  const auto ids = plain.integer("ids"), labels = plain.integer("labels");
  const Index n = static_cast<Index>(ids.size());
  nn::Batch<> out;
  out.ids = Tensor<std::int32_t>::from({n}, ids);
  out.labels = Tensor<std::int32_t>::from({n}, labels);
  out.offsets = Offsets(plain.integer("offsets"));
  return out;
}

}  // namespace

TEST_CASE("decoders from descriptions equal those of transformers, gradients too") {
  for (const std::string name : {"llama", "stablelm", "ernie"}) {
    CAPTURE(name);
    const std::string folder = golden() + "/decoder_" + name;
    const Values weights(folder + "/model.safetensors"), plain(folder + "/plain.safetensors"),
        gradients(folder + "/gradients.safetensors");
    model::Transformer<double> model(described(name));
    CHECK(model.spec.longest() == 24);
    nn::for_each_parameter(
        model, [&](const std::string& at, Parameter<double>& p) { weights.fill("model." + at, p.value()); });
    const auto batch = batch_of(plain);
    const auto body = adapt(model, Full{});
    Comparison forward(plain), backward(gradients);
    Tape tape;
    const auto h = model.run(batch, body);
    forward.add("hidden", h.value.value());
    const auto loss = model.language_head().loss(h.value, batch.labels);
    forward.add("loss", loss.value().reshape({1}));
    tape.backward(loss);
    nn::for_each_parameter(model, [&](const std::string& at, Parameter<double>& p) {
      backward.gradient("model." + at, p.gradient(), p.shape());
    });
    CHECK(backward.names().size() == gradients.file.names().size());
    CAPTURE(forward.at());
    CAPTURE(backward.at());
    CHECK(forward.worst() < 1e-12);
    CHECK(backward.worst() < 1e-11);
  }
}

TEST_CASE(
    "decoders from descriptions made reversible: exact equal to stored bit for bit, with dropout") {
  for (const std::string name : {"llama", "stablelm", "ernie"}) {
    CAPTURE(name);
    const Values plain(golden() + "/decoder_" + name + "/plain.safetensors");
    auto batch = batch_of(plain);
    batch.run = {.seed = 5, .step = 2, .training = true};
    std::vector<std::vector<float>> found[2];
    for (const auto streams : {Streams::stored, Streams::exact}) {
      auto spec = described(name);
      auto& layer = spec.layers.layer;
      layer.dropout = layer.attention_dropout = layer.activation_dropout = 0.1f;
      model::Transformer<float> model(spec);
      model.initialise(3);
      const auto body =
          adapt(model, Meft1{.bottleneck = 3, .options = {.stack = {.streams = streams, .slice_tokens = 8}}});
      Tape tape;
      const auto h = model.run(batch, body);
      const auto loss = model.language_head().loss(h.value, batch.labels);
      tape.backward(loss);
      auto& out = found[streams == Streams::exact];
      out.push_back(h.value.value().values());
      nn::for_each_parameter(model, [&](const std::string&, Parameter<float>& p) {
        if (p.trainable()) out.push_back(p.gradient().values());
      });
    }
    CHECK(found[0].size() == 1 + 2 * 8);
    CHECK(found[0] == found[1]);
  }
}
