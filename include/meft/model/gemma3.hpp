// Owns: the text model of Gemma 3: configuration and description.
// Gemma team, arXiv 2503.19786. Names and arithmetic are those of Hugging Face's Gemma3TextModel.
#pragma once

#include <cmath>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/rotary.hpp>

namespace meft::model {

struct Gemma3Config {
  Index vocab_size = 262208, hidden_size = 2304, num_hidden_layers = 26, intermediate_size = 9216;
  Index pad_token_id = 0;  // -1: none
  Index num_attention_heads = 8, num_key_value_heads = 4, head_dim = 256, max_position_embeddings = 131072;
  Activation hidden_activation = Activation::gelu_tanh;
  double rms_norm_eps = 1e-6, attention_dropout = 0, query_pre_attn_scalar = 256;
  bool tie_word_embeddings = true, attention_bias = false;
  Index sliding_window = 4096;
  std::vector<bool> slides{};           // of each layer
  RotarySpec rotary{}, local_rotary{};  // of the layers that see all and of those that slide

  static Gemma3Config read(const auto& c) {
    model_type(c, {"gemma3_text"}, "gemma3_text");
    refuse_flags(c, {"use_bidirectional_attention"});
    refuse_off(c, {"is_causal"});
    for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping", "quantization_config"})
      if (c.has(name)) fail("config: " + std::string(name) + " is not supported", c.path());
    Gemma3Config out;
    out.vocab_size = c.integer("vocab_size", out.vocab_size, {1, 1 << 24});
    out.pad_token_id = c.integer("pad_token_id", out.pad_token_id, {-1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.intermediate_size = c.integer("intermediate_size", {1, 1 << 20});
    out.num_attention_heads = c.integer("num_attention_heads", out.num_attention_heads, {1, 1024});
    out.num_key_value_heads = c.integer("num_key_value_heads", out.num_key_value_heads, {1, 1024});
    check_heads(c, out.num_attention_heads, out.num_key_value_heads, "num_attention_heads", "num_key_value_heads");
    out.head_dim = c.integer("head_dim", out.head_dim, {1, 1 << 12});
    out.max_position_embeddings = c.integer("max_position_embeddings", out.max_position_embeddings, {1, 1 << 30});
    out.hidden_activation = activation(c, "hidden_activation", "gelu_pytorch_tanh");
    out.rms_norm_eps = c.number("rms_norm_eps", 1e-6, {0.0, 1.0});
    out.attention_dropout = c.number("attention_dropout", 0.0, {0.0, 0.999});
    out.query_pre_attn_scalar = c.number("query_pre_attn_scalar", 256.0, {1e-6, 1e6});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    out.attention_bias = c.flag("attention_bias", false);
    out.sliding_window = c.integer("sliding_window", out.sliding_window, {1, 1 << 30});
    const Index each = c.integer("sliding_window_pattern", 6, {1, 1 << 20});
    out.slides = local_layers(c, out.num_hidden_layers, [&](Index i) { return (i + 1) % each != 0; });
    out.rotary = read_rotary(c, "full_attention", "rope_theta", 1e6, true, out.head_dim);
    out.local_rotary = read_rotary(c, "sliding_attention", "rope_local_base_freq", 1e4, false, out.head_dim);
    return out;
  }

  TransformerSpec spec() const;
};

namespace gemma3 {

inline constexpr nn::LayerNames layer_names = [] {
  auto out = llama::layer_names;
  out.attention_post_norm = "post_attention_layernorm";
  out.mlp_norm = "pre_feedforward_layernorm";
  out.mlp_post_norm = "post_feedforward_layernorm";
  return out;
}();

}  // namespace gemma3

inline TransformerSpec Gemma3Config::spec() const {
  nn::LayerSpec layer{.width = hidden_size,
                      .heads = num_attention_heads,
                      .key_heads = num_key_value_heads,
                      .head_width = head_dim,
                      .ffn = intermediate_size,
                      .activation = hidden_activation,
                      .gated = true,
                      .norm = nn::NormKind::rms_plus_one,
                      .epsilon = rms_norm_eps,
                      .norm_first = true,
                      .sandwich = true,
                      .scale = 1 / std::sqrt(query_pre_attn_scalar),
                      .causal = true,
                      .bias = false,
                      .qkv_bias = attention_bias,
                      .output_bias = attention_bias,
                      .head_norms = true,
                      .rotary = rotary,
                      .attention_dropout = static_cast<float>(attention_dropout)};
  TransformerSpec out{.family = "gemma3",
                      .prefix = "model.",
                      .spellings = llama::spellings,
                      .names = {.embeddings = {.word = "embed_tokens.weight"}, .layers = "layers", .norm = "norm"},
                      .layer_names = &gemma3::layer_names,
                      .causal = true,
                      .tied = tie_word_embeddings,
                      .width = hidden_size,
                      .embeddings = {.vocabulary = vocab_size, .scale = std::sqrt(static_cast<double>(hidden_size))},
                      .layers = {layer, num_hidden_layers},
                      .norm = rms_norm_eps,
                      .context = max_position_embeddings,
                      .head = score_head(pad_token_id),
                      .language = nn::LanguageSpec{.names = {.word = "lm_head.weight"}}};
  layer.window = sliding_window;
  layer.rotary = local_rotary;
  out.layers.local = layer;
  out.layers.is_local = slides;
  return out;
}

}  // namespace meft::model
