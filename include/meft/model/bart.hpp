// Owns: BART: configuration and description.
// Lewis et al., arXiv 1910.13461; names and arithmetic are those of Hugging Face's BartModel.
#pragma once

#include <cmath>

#include <meft/model/config.hpp>

namespace meft::model {

struct BartConfig {
  Index vocab_size = 50265, d_model = 768, max_position_embeddings = 1024;
  Index encoder_layers = 6, encoder_attention_heads = 12, encoder_ffn_dim = 3072;
  Index decoder_layers = 6, decoder_attention_heads = 12, decoder_ffn_dim = 3072;
  Index decoder_start_token_id = 2;
  Activation activation_function = Activation::gelu;
  bool scale_embedding = false, tie_word_embeddings = true;
  double dropout = 0.1, attention_dropout = 0, activation_dropout = 0, classifier_dropout = 0;
  static constexpr Index first_position = 2;
  static constexpr double layer_norm_eps = 1e-5;

  static BartConfig read(const auto& c) {
    model_type(c, {"bart"}, "bart");
    refuse_flags(c, {"normalize_before", "add_final_layer_norm", "static_position_embeddings"});
    refuse_off(c, {"is_causal"});
    refuse_rates(c, {"encoder_layerdrop", "decoder_layerdrop"});
    BartConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.d_model = c.integer("d_model", {1, 1 << 16});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 24});
    out.encoder_layers = c.integer("encoder_layers", {1, 1024});
    out.encoder_attention_heads = c.integer("encoder_attention_heads", {1, 1024});
    out.encoder_ffn_dim = c.integer("encoder_ffn_dim", {1, 1 << 20});
    out.decoder_layers = c.integer("decoder_layers", {1, 1024});
    out.decoder_attention_heads = c.integer("decoder_attention_heads", {1, 1024});
    out.decoder_ffn_dim = c.integer("decoder_ffn_dim", {1, 1 << 20});
    out.decoder_start_token_id = c.integer("decoder_start_token_id", 2, {0, out.vocab_size - 1});
    out.activation_function = activation(c, "activation_function", "gelu");
    out.scale_embedding = c.flag("scale_embedding", false);
    out.dropout = c.number("dropout", 0.1, {0.0, 0.999});
    out.attention_dropout = c.number("attention_dropout", 0.0, {0.0, 0.999});
    out.activation_dropout = c.number("activation_dropout", 0.0, {0.0, 0.999});
    out.classifier_dropout = c.number("classifier_dropout", 0.0, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.d_model, out.encoder_attention_heads, "d_model", "encoder_attention_heads");
    check_heads(c, out.d_model, out.decoder_attention_heads, "d_model", "decoder_attention_heads");
    return out;
  }

  TransformerSpec spec() const;
};

namespace bart {

inline constexpr nn::LayerNames layer_names{.query = "self_attn.q_proj",
                                            .key = "self_attn.k_proj",
                                            .value = "self_attn.v_proj",
                                            .output = "self_attn.out_proj",
                                            .attention_norm = "self_attn_layer_norm",
                                            .up = "fc1",
                                            .down = "fc2",
                                            .mlp_norm = "final_layer_norm",
                                            .cross_query = "encoder_attn.q_proj",
                                            .cross_key = "encoder_attn.k_proj",
                                            .cross_value = "encoder_attn.v_proj",
                                            .cross_output = "encoder_attn.out_proj",
                                            .cross_norm = "encoder_attn_layer_norm"};
inline constexpr Spelling spellings[] = {{"shared.weight", "encoder.embed_tokens.weight"},
                                         {"shared.weight", "decoder.embed_tokens.weight"},
                                         {"shared.weight", "lm_head.weight", Spelling::Kind::output}};

}  // namespace bart

/// Both sides share the words. The last token of a text, which its class is read from, is its `</s>`.
inline TransformerSpec BartConfig::spec() const {
  nn::LayerSpec layer{.width = d_model,
                      .heads = encoder_attention_heads,
                      .ffn = encoder_ffn_dim,
                      .activation = activation_function,
                      .epsilon = layer_norm_eps,
                      .dropout = static_cast<float>(dropout),
                      .attention_dropout = static_cast<float>(attention_dropout),
                      .activation_dropout = static_cast<float>(activation_dropout)};
  TransformerSpec out{.family = "bart",
                      .prefix = "model.",
                      .spellings = bart::spellings,
                      .names = {.embeddings = {.word = "shared.weight",
                                               .position = "encoder.embed_positions.weight",
                                               .norm = "encoder.layernorm_embedding"},
                                .decoder_embeddings = {.position = "decoder.embed_positions.weight",
                                                       .norm = "decoder.layernorm_embedding"},
                                .layers = "encoder.layers",
                                .decoder_layers = "decoder.layers"},
                      .layer_names = &bart::layer_names,
                      .tied = tie_word_embeddings,
                      .width = d_model,
                      .embeddings = {.vocabulary = vocab_size,
                                     .positions = max_position_embeddings + first_position,
                                     .first_position = first_position,
                                     .scale = scale_embedding ? std::sqrt(static_cast<double>(d_model)) : 1.0,
                                     .norm = layer_norm_eps,
                                     .dropout = static_cast<float>(dropout)},
                      .layers = {layer, encoder_layers},
                      .decoder_start = decoder_start_token_id,
                      .head = {.pooling = nn::Pooling::last,
                               .dropout_before = true,
                               .dropout = classifier_dropout,
                               .dense_name = "classification_head.dense",
                               .output_name = "classification_head.out_proj"},
                      .language = nn::LanguageSpec{.names = {.bias = "final_logits_bias", .word = "lm_head.weight"}}};
  layer.heads = decoder_attention_heads;
  layer.ffn = decoder_ffn_dim;
  layer.causal = layer.cross = true;
  out.decoder = LayersSpec{layer, decoder_layers};
  return out;
}

}  // namespace meft::model
