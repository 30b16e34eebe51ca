// Owns: Llama, Mistral, Qwen2 and Qwen3: configuration and description. SmolLM2 and Qwen2.5 are of these.
// Touvron et al., arXiv 2307.09288; Jiang et al., arXiv 2310.06825; Qwen, arXiv 2412.15115 and 2505.09388. Names and
// arithmetic are those of Hugging Face's LlamaModel, MistralModel, Qwen2Model and Qwen3Model.
#pragma once

#include <string>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/rotary.hpp>

namespace meft::model {

struct LlamaConfig {
  Index vocab_size = 32000, hidden_size = 4096, num_hidden_layers = 32, intermediate_size = 11008;
  Index pad_token_id = -1;  // -1: none
  Index num_attention_heads = 32, num_key_value_heads = 32, head_dim = 128, max_position_embeddings = 2048;
  Activation hidden_act = Activation::silu;
  double rms_norm_eps = 1e-6, attention_dropout = 0;
  bool tie_word_embeddings = false, mlp_bias = false;
  bool qkv_bias = false, output_bias = false;  // attention_bias; Qwen2's are on its queries, keys and values alone
  bool head_norms = false;                     // Qwen3's, of queries and keys
  Index sliding_window = 0;                    // 0: none
  std::vector<bool> slides{};                  // of each layer
  RotarySpec rotary{};

  static LlamaConfig read(const auto& c) {
    const std::string type = model_type(c, {"llama", "mistral", "qwen2", "qwen3"}, "llama");
    refuse_off(c, {"is_causal"});
    if (c.has("quantization_config")) fail("config: quantization_config is not supported", c.path());
    LlamaConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.pad_token_id = c.integer("pad_token_id", out.pad_token_id, {-1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.intermediate_size = c.integer("intermediate_size", {1, 1 << 20});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    const Index key_heads = type == "mistral" ? 8 : out.num_attention_heads;
    out.num_key_value_heads = c.integer("num_key_value_heads", key_heads, {1, 1024});
    check_heads(c, out.num_attention_heads, out.num_key_value_heads, "num_attention_heads", "num_key_value_heads");
    if (type != "qwen3" && !c.has("head_dim"))
      check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    const Index width = type == "qwen3" ? 128 : out.hidden_size / out.num_attention_heads;
    out.head_dim = c.integer("head_dim", width, {1, 1 << 12});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 30});
    out.hidden_act = activation(c, "hidden_act", "silu");
    out.rms_norm_eps = c.number("rms_norm_eps", 1e-6, {0.0, 1.0});
    out.attention_dropout = c.number("attention_dropout", 0.0, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", false);
    if (type == "llama") out.mlp_bias = c.flag("mlp_bias", false);
    if (type == "llama" || type == "qwen3") out.qkv_bias = out.output_bias = c.flag("attention_bias", false);
    if (type == "qwen2") out.qkv_bias = true;
    out.head_norms = type == "qwen3";
    out.read_windows(c, type);
    out.rotary = read_rotary(c, out.head_dim);
    return out;
  }

  TransformerSpec spec() const;

 private:
  /// Mistral's layers all slide; of Qwen's those that `layer_types` says, or else those from max_window_layers on.
  void read_windows(const auto& c, const std::string& type) {
    const bool qwen = type.starts_with("qwen");
    if (type == "mistral" || (qwen && c.flag("use_sliding_window", false)))
      sliding_window = c.null("sliding_window") ? 0 : c.integer("sliding_window", 4096, {1, 1 << 30});
    const Index first = qwen ? c.integer("max_window_layers", 28, {0, 1 << 20}) : 0;
    slides = local_layers(c, num_hidden_layers, [&](Index i) { return sliding_window && i >= first; });
    for (const bool slide : slides) {
      if (slide && !sliding_window)
        fail("config: layer_types: sliding_attention without a sliding_window that is in use", c.path());
      if (!qwen && slide != (sliding_window > 0))
        fail("config: layer_types: " + type + " has no layers of different kinds", c.path());
    }
  }
};

namespace llama {

inline constexpr nn::LayerNames layer_names{.query = "self_attn.q_proj",
                                            .key = "self_attn.k_proj",
                                            .value = "self_attn.v_proj",
                                            .output = "self_attn.o_proj",
                                            .attention_norm = "input_layernorm",
                                            .up = "mlp.up_proj",
                                            .down = "mlp.down_proj",
                                            .mlp_norm = "post_attention_layernorm",
                                            .gate = "mlp.gate_proj",
                                            .query_norm = "self_attn.q_norm",
                                            .key_norm = "self_attn.k_norm"};
inline constexpr Spelling spellings[] = {{"embed_tokens.weight", "lm_head.weight", Spelling::Kind::output}};

}  // namespace llama

inline TransformerSpec LlamaConfig::spec() const {
  const nn::LayerSpec layer{.width = hidden_size,
                            .heads = num_attention_heads,
                            .key_heads = num_key_value_heads,
                            .head_width = head_dim,
                            .ffn = intermediate_size,
                            .activation = hidden_act,
                            .gated = true,
                            .norm = nn::NormKind::rms,
                            .epsilon = rms_norm_eps,
                            .norm_first = true,
                            .causal = true,
                            .bias = mlp_bias,
                            .qkv_bias = qkv_bias,
                            .output_bias = output_bias,
                            .head_norms = head_norms,
                            .rotary = rotary,
                            .attention_dropout = static_cast<float>(attention_dropout)};
  TransformerSpec out{.family = "llama",
                      .prefix = "model.",
                      .spellings = llama::spellings,
                      .names = {.embeddings = {.word = "embed_tokens.weight"}, .layers = "layers", .norm = "norm"},
                      .layer_names = &llama::layer_names,
                      .causal = true,
                      .tied = tie_word_embeddings,
                      .width = hidden_size,
                      .embeddings = {.vocabulary = vocab_size},
                      .layers = {layer, num_hidden_layers},
                      .norm = rms_norm_eps,
                      .context = max_position_embeddings,
                      .head = score_head(pad_token_id),
                      .language = nn::LanguageSpec{.names = {.word = "lm_head.weight"}}};
  if (sliding_window) {
    out.layers.local = layer;
    out.layers.local->window = sliding_window;
    out.layers.is_local = slides;
  }
  return out;
}

}  // namespace meft::model
