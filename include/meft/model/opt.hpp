// Owns: OPT: configuration, embeddings, final norm, and how its checkpoints name the parts of a layer.
// Zhang et al., arXiv 2205.01068; names and arithmetic are those of Hugging Face's OPTModel. OPT-350M norms after its
// blocks and projects its narrower word embeddings in and out; the others norm before.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/spelling.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/language.hpp>
#include <meft/ops/embedding.hpp>

namespace meft::model {

struct OptConfig {
  Index vocab_size = 50272, hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12, ffn_dim = 3072;
  Index max_position_embeddings = 2048, word_embed_proj_dim = 768;
  Activation activation_function = Activation::relu;
  bool do_layer_norm_before = true, remove_final_layer_norm = false, enable_bias = true, tie_word_embeddings = true;
  double dropout = 0.1, attention_dropout = 0;
  static constexpr Index first_position = 2;
  static constexpr double layer_norm_eps = 1e-5;

  static OptConfig read(const auto& c) {
    model_type(c, {"opt"}, "opt");
    if (!c.flag("layer_norm_elementwise_affine", true))
      fail("config: layer_norm_elementwise_affine false is not supported", c.path());
    OptConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.ffn_dim = c.integer("ffn_dim", {1, 1 << 20});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 24});
    out.word_embed_proj_dim = c.integer("word_embed_proj_dim", out.hidden_size, {1, 1 << 16});
    out.activation_function = activation(c, "activation_function", "relu");
    out.do_layer_norm_before = c.flag("do_layer_norm_before", true);
    out.remove_final_layer_norm = c.flag("_remove_final_layer_norm", false);
    out.enable_bias = c.flag("enable_bias", true);
    out.dropout = c.number("dropout", 0.1, {0.0, 0.999});
    out.attention_dropout = c.number("attention_dropout", 0.0, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    return out;
  }

  Index longest() const { return max_position_embeddings; }
  bool projects() const { return word_embed_proj_dim != hidden_size; }
  bool final_norm() const { return do_layer_norm_before && !remove_final_layer_norm; }
};

/// The causal decoder without a head. Parameters are uninitialised until a checkpoint is loaded or `initialise` called.
template <Real T, Backend B = Cpu>
struct Opt {
  using value_type = T;
  using backend = B;
  using Config = OptConfig;
  static constexpr nn::LayerNames names{"self_attn.q_proj",
                                        "self_attn.k_proj",
                                        "self_attn.v_proj",
                                        "self_attn.out_proj",
                                        "self_attn_layer_norm",
                                        "fc1",
                                        "fc2",
                                        "final_layer_norm"};
  /// Those of metaseq, from which checkpoints were converted, among them.
  static constexpr Spelling spellings[] = {{"decoder.final_layer_norm.weight", "decoder.layer_norm.weight"},
                                           {"decoder.final_layer_norm.bias", "decoder.layer_norm.bias"},
                                           {"decoder.project_in.weight", "decoder.project_in_dim.weight"},
                                           {"decoder.project_out.weight", "decoder.project_out_dim.weight"},
                                           {"decoder.embed_tokens.weight", "lm_head.weight", Spelling::Kind::output}};

  Config config;
  Parameter<T, B> word, position;
  std::optional<nn::Linear<T, B>> project_in{}, project_out{};
  std::optional<nn::LayerNorm<T, B>> final_norm{};
  std::vector<nn::TransformerLayer<T, B>> layers;

  explicit Opt(const Config& c)
      : config(c),
        word(Parameter<T, B>::empty({c.vocab_size, c.word_embed_proj_dim})),
        position(Parameter<T, B>::empty({c.max_position_embeddings + Config::first_position, c.hidden_size})) {
    if (c.projects()) {
      project_in = nn::Linear<T, B>::empty(c.word_embed_proj_dim, c.hidden_size, false);
      project_out = nn::Linear<T, B>::empty(c.hidden_size, c.word_embed_proj_dim, false);
    }
    if (c.final_norm()) final_norm = nn::LayerNorm<T, B>::empty(c.hidden_size, Config::layer_norm_eps);
    const nn::LayerSpec spec{.width = c.hidden_size,
                             .heads = c.num_attention_heads,
                             .ffn = c.ffn_dim,
                             .activation = c.activation_function,
                             .epsilon = Config::layer_norm_eps,
                             .norm_first = c.do_layer_norm_before,
                             .causal = true,
                             .bias = c.enable_bias,
                             .dropout = static_cast<float>(c.dropout),
                             .attention_dropout = static_cast<float>(c.attention_dropout)};
    append_layers(layers, names, spec, c.num_hidden_layers);
  }

  /// The width of what `run` gives.
  Index hidden() const { return config.word_embed_proj_dim; }
  const char* prefix() const { return "model."; }

  nn::Hidden<T, B> embed(const nn::Batch<B>& batch) const {
    Var<T, B> x = embedding(word, batch.ids);
    if (project_in) x = (*project_in)(x);
    x = x + embedding(position, places<B>(batch.offsets, Config::first_position, position.shape()[0], "opt"));
    return {x, {batch.offsets, batch.run}};
  }
  /// Behind the last layer.
  nn::Hidden<T, B> finish(nn::Hidden<T, B> h) const {
    if (final_norm) h.value = (*final_norm)(h.value);
    if (project_out) h.value = (*project_out)(h.value);
    return h;
  }
  /// The hidden states of a batch, with the layers run by `body`.
  nn::Hidden<T, B> run(const nn::Batch<B>& batch, const auto& body) const { return finish(body(embed(batch))); }

  nn::HeadSpec head() const {
    return {.pooling = nn::Pooling::last, .dense = false, .bias = false, .output_name = "score"};
  }
  /// The causal-language head: the word embeddings again.
  nn::LanguageHead<T, B> language_head() const { return {.word = word, .names = {.word = "lm_head.weight"}}; }

  void initialise(std::uint64_t seed) { initialise_parameters<T, B>(*this, seed); }

  static void parts(auto& self, auto&& visit) {
    visit("decoder.embed_tokens.weight", self.word);
    visit("decoder.embed_positions.weight", self.position);
    visit("decoder.project_in", self.project_in);
    visit("decoder.project_out", self.project_out);
    visit("decoder.final_layer_norm", self.final_norm);
    visit("decoder.layers", self.layers);
  }
};

}  // namespace meft::model
