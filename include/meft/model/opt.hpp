// Owns: OPT: configuration and description.
// Zhang et al., arXiv 2205.01068; names and arithmetic are those of Hugging Face's OPTModel. OPT-350M norms after its
// blocks and projects its narrower word embeddings in and out; the others norm before.
#pragma once

#include <meft/model/config.hpp>

namespace meft::model {

struct OptConfig {
  Index vocab_size = 50272, hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12, ffn_dim = 3072;
  Index pad_token_id = 1;  // -1: none
  Index max_position_embeddings = 2048, word_embed_proj_dim = 768;
  Activation activation_function = Activation::relu;
  bool do_layer_norm_before = true, remove_final_layer_norm = false, enable_bias = true, tie_word_embeddings = true;
  double dropout = 0.1, attention_dropout = 0;
  static constexpr Index first_position = 2;
  static constexpr double layer_norm_eps = 1e-5;

  static OptConfig read(const auto& c) {
    model_type(c, {"opt"}, "opt");
    refuse_off(c, {"is_causal", "layer_norm_elementwise_affine"});
    refuse_rates(c, {"layerdrop"});
    OptConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.pad_token_id = c.integer("pad_token_id", out.pad_token_id, {-1, 1 << 24});
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

  TransformerSpec spec() const;
};

namespace opt {

inline constexpr nn::LayerNames layer_names{"self_attn.q_proj",
                                            "self_attn.k_proj",
                                            "self_attn.v_proj",
                                            "self_attn.out_proj",
                                            "self_attn_layer_norm",
                                            "fc1",
                                            "fc2",
                                            "final_layer_norm"};
/// Those of metaseq, from which checkpoints were converted, among them.
inline constexpr Spelling spellings[] = {{"decoder.final_layer_norm.weight", "decoder.layer_norm.weight"},
                                         {"decoder.final_layer_norm.bias", "decoder.layer_norm.bias"},
                                         {"decoder.project_in.weight", "decoder.project_in_dim.weight"},
                                         {"decoder.project_out.weight", "decoder.project_out_dim.weight"},
                                         {"decoder.embed_tokens.weight", "lm_head.weight", Spelling::Kind::output}};

}  // namespace opt

inline TransformerSpec OptConfig::spec() const {
  TransformerSpec out{.family = "opt",
                      .prefix = "model.",
                      .spellings = opt::spellings,
                      .names = {.embeddings = {.word = "decoder.embed_tokens.weight",
                                               .position = "decoder.embed_positions.weight",
                                               .project = "decoder.project_in"},
                                .layers = "decoder.layers",
                                .norm = "decoder.final_layer_norm",
                                .project_out = "decoder.project_out",
                                .norm_before_layers = true},
                      .layer_names = &opt::layer_names,
                      .causal = true,
                      .tied = tie_word_embeddings,
                      .width = hidden_size,
                      .word_width = word_embed_proj_dim,
                      .embeddings = {.vocabulary = vocab_size,
                                     .positions = max_position_embeddings + first_position,
                                     .first_position = first_position},
                      .layers = {{.width = hidden_size,
                                  .heads = num_attention_heads,
                                  .ffn = ffn_dim,
                                  .activation = activation_function,
                                  .epsilon = layer_norm_eps,
                                  .norm_first = do_layer_norm_before,
                                  .causal = true,
                                  .bias = enable_bias,
                                  .qkv_bias = enable_bias,
                                  .dropout = static_cast<float>(dropout),
                                  .attention_dropout = static_cast<float>(attention_dropout)},
                                 num_hidden_layers},
                      .head = score_head(pad_token_id),
                      .language = nn::LanguageSpec{.names = {.word = "lm_head.weight"}}};
  if (do_layer_norm_before && !remove_final_layer_norm) out.norm = layer_norm_eps;
  return out;
}

}  // namespace meft::model
