// Owns: BERT: its configuration, embeddings, and how its checkpoint names the parts of a layer.
// Devlin et al., arXiv 1810.04805; names and arithmetic are those of Hugging Face's BertModel.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <meft/nn/batch.hpp>
#include <meft/nn/transformer.hpp>
#include <meft/ops/embedding.hpp>

namespace meft::model {

struct BertConfig {
  Index vocab_size = 30522, hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12,
        intermediate_size = 3072;
  Index max_position_embeddings = 512, type_vocab_size = 2;
  Activation hidden_act = Activation::gelu;
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1, attention_probs_dropout_prob = 0.1;

  /// Reads a `config.json` (an io::Config, or anything with its integer, number and text).
  static BertConfig read(const auto& c) {
    const std::string type = c.text("model_type", std::string("bert"));
    if (type != "bert") fail("bert: expected model_type bert, found", type, c.path());
    const std::string position = c.text("position_embedding_type", std::string("absolute"));
    if (position != "absolute") fail("bert: expected position_embedding_type absolute, found", position, c.path());
    if (c.flag("is_decoder", false)) fail("bert: is_decoder is not supported", c.path());
    BertConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.intermediate_size = c.integer("intermediate_size", {1, 1 << 20});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 24});
    out.type_vocab_size = c.integer("type_vocab_size", 2, {1, 1024});
    try {
      out.hidden_act = activation_from(c.text("hidden_act", std::string("gelu")));
    } catch (Error& error) {
      error.within(c.path());
      throw;
    }
    out.layer_norm_eps = c.number("layer_norm_eps", 1e-12, {0.0, 1.0});
    out.hidden_dropout_prob = c.number("hidden_dropout_prob", 0.1, {0.0, 0.999});
    out.attention_probs_dropout_prob = c.number("attention_probs_dropout_prob", 0.1, {0.0, 0.999});
    if (out.hidden_size % out.num_attention_heads)
      fail("bert: hidden_size is not a multiple of num_attention_heads", out.hidden_size, out.num_attention_heads,
           c.path());
    return out;
  }
};

/// LN(word + position + token type), then dropout. [tokens, hidden].
template <Real T, Backend B = Cpu>
struct BertEmbeddings {
  Parameter<T, B> word, position, type;
  nn::LayerNorm<T, B> norm;
  float dropout = 0;
  static constexpr std::uint32_t site = 0xe0000000u;

  Var<T, B> operator()(const nn::Batch<B>& batch) const {
    const auto& offsets = batch.offsets;
    require(offsets.longest() <= position.shape()[0], "bert: a sequence is longer than max_position_embeddings",
            offsets.longest(), position.shape()[0]);
    std::vector<std::int32_t> places;
    places.reserve(static_cast<std::size_t>(offsets.tokens()));
    for (Index s = 0; s < offsets.sequences(); ++s)
      for (Index i = 0; i < offsets.length(s); ++i) places.push_back(static_cast<std::int32_t>(i));
    auto x = embedding(word, batch.ids) +
             embedding(position, Tensor<std::int32_t, B>::from({offsets.tokens()}, places)) +
             embedding(type, batch.types);
    auto y = norm(x);
    return batch.run.training && dropout > 0 ? meft::dropout(y, dropout, batch.run.key(site)) : y;
  }

  static void parts(auto& self, auto&& visit) {
    visit("word_embeddings.weight", self.word);
    visit("position_embeddings.weight", self.position);
    visit("token_type_embeddings.weight", self.type);
    visit("LayerNorm", self.norm);
  }
};

/// The encoder without a head. Parameters are uninitialised until a checkpoint is loaded or `initialise` called.
template <Real T, Backend B = Cpu>
struct Bert {
  using value_type = T;
  using backend = B;
  using Config = BertConfig;
  static constexpr const char* prefix = "bert.";  // in checkpoints of models with a head
  static constexpr nn::LayerNames names{
      "attention.self.query",       "attention.self.key", "attention.self.value", "attention.output.dense",
      "attention.output.LayerNorm", "intermediate.dense", "output.dense",         "output.LayerNorm"};

  Config config;
  BertEmbeddings<T, B> embeddings;
  std::vector<nn::TransformerLayer<T, B>> layers;

  explicit Bert(const Config& c)
      : config(c),
        embeddings{Parameter<T, B>::empty({c.vocab_size, c.hidden_size}),
                   Parameter<T, B>::empty({c.max_position_embeddings, c.hidden_size}),
                   Parameter<T, B>::empty({c.type_vocab_size, c.hidden_size}),
                   nn::LayerNorm<T, B>::empty(c.hidden_size, c.layer_norm_eps),
                   static_cast<float>(c.hidden_dropout_prob)} {
    for (Index i = 0; i < c.num_hidden_layers; ++i) {
      nn::TransformerLayer<T, B> layer{&names,
                                       nn::SelfAttention<T, B>::empty(c.hidden_size, c.num_attention_heads),
                                       nn::LayerNorm<T, B>::empty(c.hidden_size, c.layer_norm_eps),
                                       nn::Linear<T, B>::empty(c.hidden_size, c.intermediate_size),
                                       nn::Linear<T, B>::empty(c.intermediate_size, c.hidden_size),
                                       nn::LayerNorm<T, B>::empty(c.hidden_size, c.layer_norm_eps),
                                       c.hidden_act,
                                       static_cast<float>(c.hidden_dropout_prob),
                                       static_cast<std::uint32_t>(i) * nn::TransformerLayer<T, B>::sites};
      layer.attention.dropout = static_cast<float>(c.attention_probs_dropout_prob);
      layer.attention.site = layer.site;
      layers.push_back(std::move(layer));
    }
  }

  Index hidden() const { return config.hidden_size; }

  /// The hidden states that enter the first layer.
  nn::Hidden<T, B> embed(const nn::Batch<B>& batch) const { return {embeddings(batch), {batch.offsets, batch.run}}; }

  /// Hugging Face's initialisation: matrices N(0, 0.02²), biases zero, norms the identity.
  void initialise(std::uint64_t seed) {
    std::uint32_t site = 0;
    nn::for_each_parameter(*this, [&](const std::string& name, Parameter<T, B>& p) {
      if (p.shape().rank() == 2) fill_normal(p.value(), {seed, site++, 0}, 0.02);
      else if (name.ends_with("LayerNorm.weight")) p.value() = Parameter<T, B>::ones(p.shape()).value();
      else p.value().zero();
    });
  }

  static void parts(auto& self, auto&& visit) {
    visit("embeddings", self.embeddings);
    visit("encoder.layer", self.layers);
  }
};

}  // namespace meft::model
