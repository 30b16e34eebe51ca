// Owns: T5 and Flan-T5: configuration and description.
// Raffel et al., arXiv 1910.10683; Chung et al., arXiv 2210.11416. Names and arithmetic are those of Hugging Face's
// T5Model.
#pragma once

#include <cmath>
#include <string>

#include <meft/model/config.hpp>

namespace meft::model {

struct T5Config {
  Index vocab_size = 32128, d_model = 512, d_kv = 64, d_ff = 2048, num_layers = 6, num_decoder_layers = 6;
  Index num_heads = 8, relative_attention_num_buckets = 32, relative_attention_max_distance = 128;
  Index decoder_start_token_id = 0;
  Activation activation = Activation::relu;
  bool gated = false, tie_word_embeddings = true;
  bool scale_decoder_outputs = true;  // in front of the language head: until transformers 5 where words are tied
  double layer_norm_epsilon = 1e-6, dropout_rate = 0.1, classifier_dropout = 0;

  static T5Config read(const auto& c) {
    model_type(c, {"t5"}, "t5");
    refuse_off(c, {"is_encoder_decoder", "is_causal"});
    T5Config out;
    out.vocab_size = c.integer("vocab_size", out.vocab_size, {1, 1 << 24});
    out.d_model = c.integer("d_model", out.d_model, {1, 1 << 16});
    out.d_kv = c.integer("d_kv", out.d_kv, {1, 1 << 12});
    out.d_ff = c.integer("d_ff", out.d_ff, {1, 1 << 20});
    out.num_layers = c.integer("num_layers", out.num_layers, {1, 1024});
    out.num_decoder_layers = c.integer("num_decoder_layers", out.num_layers, {1, 1024});
    out.num_heads = c.integer("num_heads", out.num_heads, {1, 1024});
    out.relative_attention_num_buckets = c.integer("relative_attention_num_buckets", 32, {4, 1 << 16});
    out.relative_attention_max_distance =
        c.integer("relative_attention_max_distance", 128, {out.relative_attention_num_buckets / 2 + 1, 1 << 16});
    out.decoder_start_token_id = c.integer(
        "decoder_start_token_id", c.integer("pad_token_id", 0, {0, out.vocab_size - 1}), {0, out.vocab_size - 1});
    out.read_activation(c, c.text("feed_forward_proj", std::string("relu")));
    out.gated = c.flag("is_gated_act", out.gated);  // what is said apart counts
    if (!c.text("dense_act_fn", std::string()).empty()) out.activation = model::activation(c, "dense_act_fn", "relu");
    out.layer_norm_epsilon = c.number("layer_norm_epsilon", 1e-6, {0.0, 1.0});
    out.dropout_rate = c.number("dropout_rate", 0.1, {0.0, 0.999});
    out.classifier_dropout = c.number("classifier_dropout", 0.0, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    out.scale_decoder_outputs = c.flag("scale_decoder_outputs", out.tie_word_embeddings);
    return out;
  }

  TransformerSpec spec() const;

 private:
  /// `relu` or `gated-gelu`, whose GELU is that with tanh.
  void read_activation(const auto& c, const std::string& name) {
    const std::string lead = "gated-";
    gated = name.starts_with(lead);
    const std::string own = gated ? name.substr(lead.size()) : name;
    try {
      activation = activation_from(gated && own == "gelu" ? "gelu_new" : own);
    } catch (Error& error) {
      error.within(c.path() + ": feed_forward_proj");
      throw;
    }
  }
};

namespace t5 {

inline constexpr nn::LayerNames layer_names{.query = "layer.0.SelfAttention.q",
                                            .key = "layer.0.SelfAttention.k",
                                            .value = "layer.0.SelfAttention.v",
                                            .output = "layer.0.SelfAttention.o",
                                            .attention_norm = "layer.0.layer_norm",
                                            .up = "layer.1.DenseReluDense.wi",
                                            .down = "layer.1.DenseReluDense.wo",
                                            .mlp_norm = "layer.1.layer_norm"};
inline constexpr nn::LayerNames gated_names = [] {
  auto out = layer_names;
  out.gate = "layer.1.DenseReluDense.wi_0";
  out.up = "layer.1.DenseReluDense.wi_1";
  return out;
}();
inline constexpr nn::LayerNames decoder_names = [] {
  auto out = layer_names;
  out.cross_query = "layer.1.EncDecAttention.q";
  out.cross_key = "layer.1.EncDecAttention.k";
  out.cross_value = "layer.1.EncDecAttention.v";
  out.cross_output = "layer.1.EncDecAttention.o";
  out.cross_norm = "layer.1.layer_norm";
  out.up = "layer.2.DenseReluDense.wi";
  out.down = "layer.2.DenseReluDense.wo";
  out.mlp_norm = "layer.2.layer_norm";
  return out;
}();
inline constexpr nn::LayerNames gated_decoder_names = [] {
  auto out = decoder_names;
  out.gate = "layer.2.DenseReluDense.wi_0";
  out.up = "layer.2.DenseReluDense.wi_1";
  return out;
}();
inline constexpr Spelling spellings[] = {{"shared.weight", "encoder.embed_tokens.weight"},
                                         {"shared.weight", "decoder.embed_tokens.weight"},
                                         {"shared.weight", "lm_head.weight", Spelling::Kind::output}};

}  // namespace t5

/// Both sides share the words, each has biases of relative position of its own. The last token of a text, which its
/// class is read from, is its `</s>`.
inline TransformerSpec T5Config::spec() const {
  const auto dropped = static_cast<float>(dropout_rate);
  nn::LayerSpec layer{.width = d_model,
                      .heads = num_heads,
                      .head_width = d_kv,
                      .ffn = d_ff,
                      .activation = activation,
                      .gated = gated,
                      .norm = nn::NormKind::rms,
                      .epsilon = layer_norm_epsilon,
                      .norm_first = true,
                      .scale = 1,
                      .bias = false,
                      .qkv_bias = false,
                      .relative = nn::RelativeSpec{relative_attention_num_buckets, relative_attention_max_distance},
                      .dropout = dropped,
                      .attention_dropout = dropped,
                      .activation_dropout = dropped};
  TransformerSpec out{.family = "t5",
                      .prefix = "transformer.",
                      .spellings = t5::spellings,
                      .bare_language = true,
                      .names = {.embeddings = {.word = "shared.weight"},
                                .layers = "encoder.block",
                                .decoder_layers = "decoder.block",
                                .norm = "decoder.final_layer_norm",
                                .relative = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
                                .decoder_relative = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
                                .encoder_norm = "encoder.final_layer_norm"},
                      .layer_names = gated ? &t5::gated_names : &t5::layer_names,
                      .decoder_layer_names = gated ? &t5::gated_decoder_names : &t5::decoder_names,
                      .tied = tie_word_embeddings,
                      .width = d_model,
                      .embeddings = {.vocabulary = vocab_size, .dropout = dropped},
                      .layers = {layer, num_layers},
                      .decoder_start = decoder_start_token_id,
                      .norm = layer_norm_epsilon,
                      .encoder_norm = true,
                      .dropout = dropped,
                      .context = 1 << 24,
                      .head = {.pooling = nn::Pooling::last,
                               .dropout_before = true,
                               .dropout = classifier_dropout,
                               .dense_name = "classification_head.dense",
                               .output_name = "classification_head.out_proj"},
                      .language = nn::LanguageSpec{.names = {.word = "lm_head.weight"}}};
  if (scale_decoder_outputs) out.language->scale = 1 / std::sqrt(static_cast<double>(d_model));
  layer.relative->both_ways = false;
  layer.causal = layer.cross = true;
  out.decoder = LayersSpec{layer, num_decoder_layers};
  return out;
}

}  // namespace meft::model
