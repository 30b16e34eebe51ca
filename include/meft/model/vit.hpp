// Owns: ViT, DeiT and DINOv2: configuration, patch embedding, and how their checkpoints name the parts of a layer.
// Dosovitskiy et al., arXiv 2010.11929; Touvron et al., arXiv 2012.12877; Oquab et al., arXiv 2304.07193. Names and
// arithmetic are those of Hugging Face's ViTModel, DeiTModel and Dinov2Model.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/shape.hpp>

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
    if (c.number("drop_path_rate", 0.0, {0.0, 1.0}) != 0) fail("config: drop_path_rate is not supported", c.path());
    VitConfig out;
    out.family = type == "vit" ? Family::vit : type == "deit" ? Family::deit : Family::dinov2;
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.intermediate_size = out.family == Family::dinov2 ? out.hidden_size * c.integer("mlp_ratio", 4, {1, 64})
                                                         : c.integer("intermediate_size", {1, 1 << 20});
    out.image_size = c.integer("image_size", 224, {1, 1 << 14});
    out.patch_size = c.integer("patch_size", 16, {1, 1 << 12});
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

  Index grid() const { return image_size / patch_size; }
  /// Tokens in front of the patches: the class, and DeiT's distillation token.
  Index leading() const { return family == Family::deit ? 2 : 1; }
};

namespace detail {

/// Bicubic interpolation of `from` values at the centres of `to` cells, as a matrix [to, from]. Keys 1981 with a = −3/4
/// and repeated edges, as PyTorch's interpolate without aligned corners.
inline std::vector<double> bicubic(Index from, Index to) {
  constexpr double a = -0.75;
  const auto weight = [](double x) {
    x = std::abs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0.0;
  };
  std::vector<double> out(static_cast<std::size_t>(to * from));
  for (Index i = 0; i < to; ++i) {
    const double at = (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const auto base = static_cast<Index>(std::floor(at));
    for (Index j = base - 1; j <= base + 2; ++j)
      out[static_cast<std::size_t>(i * from + std::clamp<Index>(j, 0, from - 1))] +=
          weight(at - static_cast<double>(j));
  }
  return out;
}

}  // namespace detail

/// Images to tokens: class token, patches, positions.
template <Real T, Backend B = Cpu>
struct PatchEmbeddings {
  Parameter<T, B> class_token, distillation_token, position;
  nn::Linear<T, B> projection;  // [hidden, channels · patch · patch]
  Index grid = 0, patch = 0;
  float dropout = 0;
  static constexpr std::uint32_t site = 0xe0000000u;

  /// pixels [images, channels, height, width] → [images · (leading + patches), hidden] and their offsets. Heights and
  /// widths beyond whole patches are cut off, as a convolution does.
  std::pair<Var<T, B>, Offsets> operator()(const nn::Batch<B>& batch) const {
    const auto& pixels = batch.pixels;
    require(pixels.defined() && pixels.rank() == 4 && pixels.dim(1) * patch * patch == projection.in(),
            "vit: expected pixels [images, channels, height, width] with the model's channels", pixels,
            projection.in());
    const Index images = pixels.dim(0), rows = pixels.dim(2) / patch, columns = pixels.dim(3) / patch;
    require(images > 0 && rows > 0 && columns > 0, "vit: no whole patch in the pixels", pixels, patch);
    const Var<T, B> x = nn::cast<T>(pixels);
    const auto whole = slice(slice(x, 2, 0, rows * patch), 3, 0, columns * patch);
    const auto cells = reshape(whole, {images, pixels.dim(1), rows, patch, columns, patch});
    const auto patches =
        projection(reshape(permute(cells, {0, 2, 4, 1, 3, 5}), {images * rows * columns, projection.in()}));

    const Index width = projection.out(), leading = distillation_token.defined() ? 2 : 1,
                each = leading + rows * columns;
    std::vector<Var<T, B>> tokens{reshape(class_token, {1, width})};
    if (leading == 2) tokens.push_back(reshape(distillation_token, {1, width}));
    tokens.push_back(patches);
    std::vector<std::int32_t> order, place;
    for (Index i = 0; i < images; ++i)
      for (Index j = 0; j < each; ++j) {
        order.push_back(static_cast<std::int32_t>(j < leading ? j : j + i * rows * columns));
        place.push_back(static_cast<std::int32_t>(j));
      }
    const Index n = images * each;
    auto y = gather(concat(tokens, 0), Tensor<std::int32_t, B>::from({n}, order)) +
             gather(positions(rows, columns, leading), Tensor<std::int32_t, B>::from({n}, place));
    if (batch.run.training && dropout > 0) y = meft::dropout(y, dropout, batch.run.key(site));
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(images), static_cast<std::int32_t>(each));
    return {y, Offsets::of_lengths(lengths)};
  }

  static void parts(auto& self, auto&& visit) {
    visit("cls_token", self.class_token);
    visit("distillation_token", self.distillation_token);
    visit("position_embeddings", self.position);
    visit("patch_embeddings.projection", self.projection);
  }

 private:
  /// [leading + rows · columns, width]; interpolated where the grid is another than the checkpoint's.
  Var<T, B> positions(Index rows, Index columns, Index leading) const {
    const Var<T, B> all = reshape(position, {leading + grid * grid, projection.out()});
    if (rows == grid && columns == grid) return all;
    const auto down = detail::bicubic(grid, rows), across = detail::bicubic(grid, columns);
    std::vector<T> matrix;
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c)
        for (Index i = 0; i < grid; ++i)
          for (Index j = 0; j < grid; ++j)
            matrix.push_back(static_cast<T>(down[static_cast<std::size_t>(r * grid + i)] *
                                            across[static_cast<std::size_t>(c * grid + j)]));
    const auto weights = Tensor<T, B>::from({rows * columns, grid * grid}, matrix);
    return concat({slice(all, 0, 0, leading), matmul(weights, slice(all, 0, leading, leading + grid * grid))}, 0);
  }
};

/// The encoder without a head. Parameters are uninitialised until a checkpoint is loaded or `initialise` called.
template <Real T, Backend B = Cpu>
struct Vit {
  using value_type = T;
  using backend = B;
  using Config = VitConfig;
  static constexpr nn::LayerNames vit_names{"attention.attention.query",
                                            "attention.attention.key",
                                            "attention.attention.value",
                                            "attention.output.dense",
                                            "layernorm_before",
                                            "intermediate.dense",
                                            "output.dense",
                                            "layernorm_after"};
  static constexpr nn::LayerNames dino_names{.query = "attention.attention.query",
                                             .key = "attention.attention.key",
                                             .value = "attention.attention.value",
                                             .output = "attention.output.dense",
                                             .attention_norm = "norm1",
                                             .up = "mlp.fc1",
                                             .down = "mlp.fc2",
                                             .mlp_norm = "norm2",
                                             .attention_scale = "layer_scale1.lambda1",
                                             .mlp_scale = "layer_scale2.lambda1"};

  Config config;
  PatchEmbeddings<T, B> embeddings;
  std::vector<nn::TransformerLayer<T, B>> layers;
  nn::LayerNorm<T, B> norm;

  explicit Vit(const Config& c)
      : config(c),
        embeddings{Parameter<T, B>::empty({1, 1, c.hidden_size}),
                   {},
                   Parameter<T, B>::empty({1, c.leading() + c.grid() * c.grid(), c.hidden_size}),
                   nn::Linear<T, B>::empty(c.num_channels * c.patch_size * c.patch_size, c.hidden_size),
                   c.grid(),
                   c.patch_size,
                   static_cast<float>(c.hidden_dropout_prob)},
        norm(nn::LayerNorm<T, B>::empty(c.hidden_size, c.layer_norm_eps)) {
    if (c.family == Config::Family::deit) embeddings.distillation_token = Parameter<T, B>::empty({1, 1, c.hidden_size});
    const bool dino = c.family == Config::Family::dinov2;
    const nn::LayerSpec spec{.width = c.hidden_size,
                             .heads = c.num_attention_heads,
                             .ffn = c.intermediate_size,
                             .activation = c.hidden_act,
                             .epsilon = c.layer_norm_eps,
                             .norm_first = true,
                             .scaled = dino,
                             .qkv_bias = c.qkv_bias,
                             .dropout = static_cast<float>(c.hidden_dropout_prob),
                             .attention_dropout = static_cast<float>(c.attention_probs_dropout_prob)};
    append_layers(layers, dino ? dino_names : vit_names, spec, c.num_hidden_layers);
  }

  Index hidden() const { return config.hidden_size; }
  const char* prefix() const {
    return config.family == Config::Family::vit ? "vit." : config.family == Config::Family::deit ? "deit." : "dinov2.";
  }

  /// The hidden states that enter the first layer, from `batch.pixels`.
  nn::Hidden<T, B> embed(const nn::Batch<B>& batch) const {
    auto [x, offsets] = embeddings(batch);
    return {x, {std::move(offsets), batch.run}};
  }
  /// Behind the last layer.
  nn::Hidden<T, B> finish(nn::Hidden<T, B> h) const {
    h.value = norm(h.value);
    return h;
  }
  /// The hidden states of a batch, with the layers run by `body`.
  nn::Hidden<T, B> run(const nn::Batch<B>& batch, const auto& body) const { return finish(body(embed(batch))); }

  /// DINOv2 classifies the class token beside the mean of the patches.
  nn::HeadSpec head() const {
    const bool dino = config.family == Config::Family::dinov2;
    return {.pooling = dino ? nn::Pooling::first_and_mean : nn::Pooling::first, .dense = false};
  }

  void initialise(std::uint64_t seed) { initialise_parameters<T, B>(*this, seed); }

  static void parts(auto& self, auto&& visit) {
    visit("embeddings", self.embeddings);
    visit("encoder.layer", self.layers);
    visit("layernorm", self.norm);
  }
};

}  // namespace meft::model
