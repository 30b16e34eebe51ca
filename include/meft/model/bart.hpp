// Owns: BART: configuration, embeddings, encoder and decoder, and how its checkpoints name the parts of a layer.
// Lewis et al., arXiv 1910.13461; names and arithmetic are those of Hugging Face's BartModel. The decoder reads the
// encoder's output as a side input of its layers.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/spelling.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/language.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/embedding.hpp>

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
    out.classifier_dropout =
        c.number("classifier_dropout", c.number("classif_dropout", 0.0, {0.0, 0.999}), {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.d_model, out.encoder_attention_heads, "d_model", "encoder_attention_heads");
    check_heads(c, out.d_model, out.decoder_attention_heads, "d_model", "decoder_attention_heads");
    return out;
  }

  Index longest() const { return max_position_embeddings; }
};

/// LN(√d?·word + position), then dropout. The words are shared by both sides.
template <Real T, Backend B = Cpu>
struct BartEmbeddings {
  Parameter<T, B> position;
  nn::LayerNorm<T, B> norm;
  float dropout = 0;
  std::uint32_t site = 0;

  Var<T, B> operator()(const Parameter<T, B>& word, double scale, const Tensor<std::int32_t, B>& ids,
                       const Offsets& offsets, const Run& run) const {
    Var<T, B> x = embedding(word, ids);
    if (scale != 1) x = x * static_cast<T>(scale);
    const auto y =
        norm(x + embedding(position, places<B>(offsets, BartConfig::first_position, position.shape()[0], "bart")));
    return run.training && dropout > 0 ? meft::dropout(y, dropout, run.key(site)) : y;
  }

  static void parts(auto& self, auto&& visit) {
    visit("embed_positions.weight", self.position);
    visit("layernorm_embedding", self.norm);
  }
};

/// Encoder and decoder without a head. Parameters are uninitialised until a checkpoint is loaded or `initialise`
/// called.
template <Real T, Backend B = Cpu>
struct Bart {
  using value_type = T;
  using backend = B;
  using Config = BartConfig;
  static constexpr nn::LayerNames names{.query = "self_attn.q_proj",
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
  static constexpr Spelling spellings[] = {{"shared.weight", "encoder.embed_tokens.weight"},
                                           {"shared.weight", "decoder.embed_tokens.weight"},
                                           {"shared.weight", "lm_head.weight", Spelling::Kind::output}};

  Config config;
  Parameter<T, B> word;
  BartEmbeddings<T, B> encoder_embeddings, decoder_embeddings;
  std::vector<nn::TransformerLayer<T, B>> layers, decoder_layers;

  explicit Bart(const Config& c)
      : config(c),
        word(Parameter<T, B>::empty({c.vocab_size, c.d_model})),
        encoder_embeddings(embeddings(0xe0000000u)),
        decoder_embeddings(embeddings(0xe0000001u)) {
    nn::LayerSpec spec{.width = c.d_model,
                       .heads = c.encoder_attention_heads,
                       .ffn = c.encoder_ffn_dim,
                       .activation = c.activation_function,
                       .epsilon = Config::layer_norm_eps,
                       .dropout = static_cast<float>(c.dropout),
                       .attention_dropout = static_cast<float>(c.attention_dropout),
                       .activation_dropout = static_cast<float>(c.activation_dropout)};
    append_layers(layers, names, spec, c.encoder_layers);
    spec.heads = c.decoder_attention_heads;
    spec.ffn = c.decoder_ffn_dim;
    spec.causal = spec.cross = true;
    append_layers(decoder_layers, names, spec, c.decoder_layers, c.encoder_layers);
  }

  Index hidden() const { return config.d_model; }
  const char* prefix() const { return "model."; }

  nn::Hidden<T, B> embed(const nn::Batch<B>& batch) const {
    return {encoder_embeddings(word, scale(), batch.ids, batch.offsets, batch.run), {batch.offsets, batch.run}};
  }
  /// What enters the decoder: the batch's own tokens, one place later, behind the start token.
  nn::Hidden<T, B> embed_decoder(const nn::Batch<B>& batch, const nn::Hidden<T, B>& encoded) const {
    constexpr std::size_t one = sizeof(std::int32_t);
    const auto start = Tensor<std::int32_t, B>::from({1}, {static_cast<std::int32_t>(config.decoder_start_token_id)});
    Tensor<std::int32_t, B> shifted(batch.ids.shape());
    if (batch.ids.size() > 1) B::copy(shifted.data() + 1, batch.ids.data(), batch.ids.bytes() - one);
    for (Index s = 0; s < batch.offsets.sequences(); ++s)
      if (batch.offsets.length(s)) B::copy(shifted.data() + batch.offsets.begin(s), start.data(), one);
    return {decoder_embeddings(word, scale(), shifted, batch.offsets, batch.run),
            {batch.offsets, batch.run, 0, {{encoded.value, encoded.context.offsets}}}};
  }
  /// The decoder's hidden states of a batch, with the layers run by `body`.
  nn::Hidden<T, B> run(const nn::Batch<B>& batch, const auto& body) const {
    const auto encoded = body.encoder(embed(batch));
    return body.decoder(embed_decoder(batch, encoded));
  }

  /// The last token of a text is its </s>.
  nn::HeadSpec head() const {
    return {.pooling = nn::Pooling::last,
            .dropout_before = true,
            .dropout = config.classifier_dropout,
            .dense_name = "classification_head.dense",
            .output_name = "classification_head.out_proj"};
  }
  nn::LanguageHead<T, B> language_head() const {
    return {.word = word, .names = {.bias = "final_logits_bias", .word = "lm_head.weight"}};
  }

  void initialise(std::uint64_t seed) { initialise_parameters<T, B>(*this, seed); }

  static void parts(auto& self, auto&& visit) {
    visit("shared.weight", self.word);
    visit("encoder", self.encoder_embeddings);
    visit("encoder.layers", self.layers);
    visit("decoder", self.decoder_embeddings);
    visit("decoder.layers", self.decoder_layers);
  }

 private:
  double scale() const { return config.scale_embedding ? std::sqrt(static_cast<double>(config.d_model)) : 1.0; }
  BartEmbeddings<T, B> embeddings(std::uint32_t site) const {
    return {Parameter<T, B>::empty({config.max_position_embeddings + Config::first_position, config.d_model}),
            nn::LayerNorm<T, B>::empty(config.d_model, Config::layer_norm_eps), static_cast<float>(config.dropout),
            site};
  }
};

}  // namespace meft::model
