// Owns: ModernBERT: configuration and description.
// Warner et al., arXiv 2412.13663. Names and arithmetic are those of Hugging Face's ModernBertModel, but that
// attention's Wqkv is its queries, keys and values, and the feed-forward block's Wi its gate and what that gates.
#pragma once

#include <string>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/rotary.hpp>

namespace meft::model {

struct ModernBertConfig {
  Index vocab_size = 50368, hidden_size = 768, intermediate_size = 1152, num_hidden_layers = 22;
  Index num_attention_heads = 12, max_position_embeddings = 8192, local_attention = 128;
  Activation hidden_activation = Activation::gelu, classifier_activation = Activation::gelu;
  double norm_eps = 1e-5, embedding_dropout = 0, mlp_dropout = 0, classifier_dropout = 0;
  bool norm_bias = false, attention_bias = false, mlp_bias = false, decoder_bias = true, classifier_bias = false;
  bool tie_word_embeddings = true;
  nn::Pooling classifier_pooling = nn::Pooling::first;
  std::vector<bool> local{};            // of each layer
  RotarySpec rotary{}, local_rotary{};  // of the layers that see all, and of the local ones

  static ModernBertConfig read(const auto& c) {
    model_type(c, {"modernbert"}, "modernbert");
    refuse_rates(c, {"attention_dropout"});
    ModernBertConfig out;
    out.vocab_size = c.integer("vocab_size", out.vocab_size, {1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", out.hidden_size, {1, 1 << 16});
    out.intermediate_size = c.integer("intermediate_size", out.intermediate_size, {1, 1 << 20});
    out.num_hidden_layers = c.integer("num_hidden_layers", out.num_hidden_layers, {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", out.num_attention_heads, {1, 1024});
    out.max_position_embeddings = c.integer("max_position_embeddings", out.max_position_embeddings, {1, 1 << 30});
    out.local_attention = c.integer("local_attention", out.local_attention, {2, 1 << 30});
    // Half of that, which counts where both are there.
    if (c.has("sliding_window")) out.local_attention = 2 * c.integer("sliding_window", {1, 1 << 29});
    out.hidden_activation = activation(c, "hidden_activation", "gelu");
    out.classifier_activation = activation(c, "classifier_activation", "gelu");
    out.norm_eps = c.number("norm_eps", 1e-5, {0.0, 1.0});
    out.embedding_dropout = c.number("embedding_dropout", 0.0, {0.0, 0.999});
    out.mlp_dropout = c.number("mlp_dropout", 0.0, {0.0, 0.999});
    out.classifier_dropout = c.number("classifier_dropout", 0.0, {0.0, 0.999});
    out.norm_bias = c.flag("norm_bias", false);
    out.attention_bias = c.flag("attention_bias", false);
    out.mlp_bias = c.flag("mlp_bias", false);
    out.decoder_bias = c.flag("decoder_bias", true);
    out.classifier_bias = c.flag("classifier_bias", false);
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    const std::string pooling = c.text("classifier_pooling", std::string("cls"));
    if (pooling != "cls" && pooling != "mean")
      fail("config: classifier_pooling: expected cls or mean, found", pooling, c.path());
    out.classifier_pooling = pooling == "cls" ? nn::Pooling::first : nn::Pooling::mean;
    const Index each = c.integer("global_attn_every_n_layers", 3, {1, 1 << 20});
    out.local = local_layers(c, out.num_hidden_layers, [&](Index i) { return i % each != 0; });
    const Index width = out.hidden_size / out.num_attention_heads;
    out.rotary = read_rotary(c, "full_attention", "global_rope_theta", 160000, true, width);
    const double local = c.null("local_rope_theta") ? out.rotary.base : 10000;  // as transformers 4 has it
    out.local_rotary = read_rotary(c, "sliding_attention", "local_rope_theta", local, true, width);
    return out;
  }

  TransformerSpec spec() const;
};

namespace modernbert {

inline constexpr nn::LayerNames layer_names{.query = "attn.query",
                                            .key = "attn.key",
                                            .value = "attn.value",
                                            .output = "attn.Wo",
                                            .attention_norm = "attn_norm",
                                            .up = "mlp.up",
                                            .down = "mlp.Wo",
                                            .mlp_norm = "mlp_norm",
                                            .gate = "mlp.gate"};
inline constexpr auto part = Spelling::Kind::part;
inline constexpr Spelling spellings[] = {
    {"attn.query.weight", "attn.Wqkv.weight", part, 0, 3},
    {"attn.key.weight", "attn.Wqkv.weight", part, 1, 3},
    {"attn.value.weight", "attn.Wqkv.weight", part, 2, 3},
    {"attn.query.bias", "attn.Wqkv.bias", part, 0, 3},
    {"attn.key.bias", "attn.Wqkv.bias", part, 1, 3},
    {"attn.value.bias", "attn.Wqkv.bias", part, 2, 3},
    {"mlp.gate.weight", "mlp.Wi.weight", part, 0, 2},
    {"mlp.up.weight", "mlp.Wi.weight", part, 1, 2},
    {"mlp.gate.bias", "mlp.Wi.bias", part, 0, 2},
    {"mlp.up.bias", "mlp.Wi.bias", part, 1, 2},
    {"embeddings.tok_embeddings.weight", "decoder.weight", Spelling::Kind::output}};

}  // namespace modernbert

/// Both heads have the same layer in front. A local layer's tokens see local_attention/2 others on each side.
inline TransformerSpec ModernBertConfig::spec() const {
  const auto norm = norm_bias ? nn::NormKind::layer : nn::NormKind::layer_no_bias;
  nn::LayerSpec layer{.width = hidden_size,
                      .heads = num_attention_heads,
                      .ffn = intermediate_size,
                      .activation = hidden_activation,
                      .gated = true,
                      .norm = norm,
                      .epsilon = norm_eps,
                      .norm_first = true,
                      .bias = mlp_bias,
                      .qkv_bias = attention_bias,
                      .output_bias = attention_bias,
                      .rotary = rotary,
                      .activation_dropout = static_cast<float>(mlp_dropout)};
  TransformerSpec out{.family = "modernbert",
                      .prefix = "model.",
                      .spellings = modernbert::spellings,
                      .names = {.embeddings = {.word = "embeddings.tok_embeddings.weight", .norm = "embeddings.norm"},
                                .layers = "layers",
                                .norm = "final_norm"},
                      .layer_names = &modernbert::layer_names,
                      .tied = tie_word_embeddings,
                      .width = hidden_size,
                      .embeddings = {.vocabulary = vocab_size,
                                     .norm = norm_eps,
                                     .norm_kind = norm,
                                     .dropout = static_cast<float>(embedding_dropout)},
                      .layers = {.layer = layer, .count = num_hidden_layers, .first_normed = false},
                      .norm = norm_eps,
                      .context = max_position_embeddings,
                      .head = {.pooling = classifier_pooling,
                               .dropout = classifier_dropout,
                               .dense_name = "head.dense",
                               .activation = classifier_activation,
                               .dense_bias = classifier_bias,
                               .norm = norm_eps,
                               .norm_kind = norm,
                               .norm_name = "head.norm"},
                      .language = nn::LanguageSpec{true,
                                                   classifier_activation,
                                                   norm_eps,
                                                   {"head.dense", "head.norm", "decoder.bias", "decoder.weight"},
                                                   norm,
                                                   decoder_bias,
                                                   classifier_bias}};
  layer.window = local_attention / 2 + 1;
  layer.rotary = local_rotary;
  out.layers.local = layer;
  out.layers.is_local = local;
  return out;
}

}  // namespace meft::model
