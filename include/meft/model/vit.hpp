// Owns: ViT, DeiT and DINOv2: configuration and description.
// Dosovitskiy et al., arXiv 2010.11929; Touvron et al., arXiv 2012.12877; Oquab et al., arXiv 2304.07193. Names and
// arithmetic are those of Hugging Face's ViTModel, DeiTModel and Dinov2Model.
#pragma once

#include <iterator>
#include <span>
#include <string>

#include <meft/model/config.hpp>

namespace meft::model {

struct VitConfig {
  enum class Family { vit, deit, dinov2 };
  Family family = Family::vit;
  Index hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12, intermediate_size = 3072;
  Index image_size = 224, patch_size = 16, num_channels = 3;
  Activation hidden_act = Activation::gelu;
  double layer_norm_eps = 1e-12;
  bool qkv_bias = true;
  double hidden_dropout_prob = 0, attention_probs_dropout_prob = 0;

  static VitConfig read(const auto& c) {
    const std::string type = model_type(c, {"vit", "deit", "dinov2"}, "vit");
    refuse_flags(c, {"use_swiglu_ffn"});
    refuse_rates(c, {"drop_path_rate"});
    VitConfig out;
    out.family = type == "vit" ? Family::vit : type == "deit" ? Family::deit : Family::dinov2;
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.intermediate_size = out.family == Family::dinov2 ? out.hidden_size * c.integer("mlp_ratio", 4, {1, 64})
                                                         : c.integer("intermediate_size", {1, 1 << 20});
    out.image_size = c.side("image_size", 224, {1, 1 << 14});
    out.patch_size = c.side("patch_size", out.family == Family::dinov2 ? 14 : 16, {1, 1 << 12});
    out.num_channels = c.integer("num_channels", 3, {1, 64});
    out.hidden_act = activation(c, "hidden_act", "gelu");
    out.layer_norm_eps = c.number("layer_norm_eps", out.family == Family::dinov2 ? 1e-6 : 1e-12, {0.0, 1.0});
    out.qkv_bias = c.flag("qkv_bias", true);
    out.hidden_dropout_prob = c.number("hidden_dropout_prob", 0.0, {0.0, 0.999});
    out.attention_probs_dropout_prob = c.number("attention_probs_dropout_prob", 0.0, {0.0, 0.999});
    check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    if (out.patch_size > out.image_size)
      fail("config: patch_size is larger than image_size", out.patch_size, out.image_size, c.path());
    return out;
  }

  TransformerSpec spec() const;
};

namespace vit {

inline constexpr nn::LayerNames layer_names{"attention.attention.query",
                                            "attention.attention.key",
                                            "attention.attention.value",
                                            "attention.output.dense",
                                            "layernorm_before",
                                            "intermediate.dense",
                                            "output.dense",
                                            "layernorm_after"};
inline constexpr nn::LayerNames dinov2_layer_names{.query = "attention.attention.query",
                                                   .key = "attention.attention.key",
                                                   .value = "attention.attention.value",
                                                   .output = "attention.output.dense",
                                                   .attention_norm = "norm1",
                                                   .up = "mlp.fc1",
                                                   .down = "mlp.fc2",
                                                   .mlp_norm = "norm2",
                                                   .attention_scale = "layer_scale1.lambda1",
                                                   .mlp_scale = "layer_scale2.lambda1"};

/// ViT's and DeiT's in order; DINOv2's are those of attention.
inline constexpr Renamed modules[] = {{"attention.attention.query", "attention.q_proj"},
                                      {"attention.attention.key", "attention.k_proj"},
                                      {"attention.attention.value", "attention.v_proj"},
                                      {"attention.output.dense", "attention.o_proj"},
                                      {"encoder.layer.", "layers."},
                                      {"intermediate.dense", "mlp.fc1"},
                                      {"output.dense", "mlp.fc2"}};

}  // namespace vit

/// DINOv2 classifies the class token beside the mean of the patches, and drops nothing of what its blocks add.
inline TransformerSpec VitConfig::spec() const {
  const bool dino = family == Family::dinov2;
  return {.family = "vit",
          .prefix = dino                     ? "dinov2."
                    : family == Family::deit ? "deit."
                                             : "vit.",
          .modules = std::span(vit::modules).first(dino ? 4 : std::size(vit::modules)),
          .names = {.norm = "layernorm"},
          .layer_names = dino ? &vit::dinov2_layer_names : &vit::layer_names,
          .width = hidden_size,
          .patches = nn::PatchSpec{image_size, patch_size, num_channels, family == Family::deit ? 2 : 1,
                                   static_cast<float>(hidden_dropout_prob)},
          .layers = {{.width = hidden_size,
                      .heads = num_attention_heads,
                      .ffn = intermediate_size,
                      .activation = hidden_act,
                      .epsilon = layer_norm_eps,
                      .norm_first = true,
                      .scaled = dino,
                      .qkv_bias = qkv_bias,
                      .dropout = dino ? 0.0f : static_cast<float>(hidden_dropout_prob),
                      .attention_dropout = static_cast<float>(attention_probs_dropout_prob)},
                     num_hidden_layers},
          .norm = layer_norm_eps,
          .head = {.pooling = dino ? nn::Pooling::first_and_mean : nn::Pooling::first, .dense = false}};
}

}  // namespace meft::model
