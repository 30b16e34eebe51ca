// Owns: BERT and RoBERTa: configuration, embeddings, and how their checkpoints name the parts of a layer.
// Devlin et al., arXiv 1810.04805; Liu et al., arXiv 1907.11692. Names and arithmetic are those of Hugging Face's
// BertModel and RobertaModel (XLM-RoBERTa and CamemBERT are RoBERTa).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <meft/model/config.hpp>
#include <meft/model/spelling.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/language.hpp>
#include <meft/nn/transformer.hpp>
#include <meft/ops/embedding.hpp>

namespace meft::model {

struct BertConfig {
  bool roberta = false, tie_word_embeddings = true;
  Index vocab_size = 30522, hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12,
        intermediate_size = 3072;
  Index max_position_embeddings = 512, type_vocab_size = 2;
  Index first_position = 0;  // RoBERTa counts positions from pad_token_id + 1
  Activation hidden_act = Activation::gelu;
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1, attention_probs_dropout_prob = 0.1, classifier_dropout = 0.1;

  /// Reads a `config.json` (an io::Config, or anything with its integer, number, flag and text).
  static BertConfig read(const auto& c) {
    const std::string type = model_type(c, {"bert", "roberta", "xlm-roberta", "camembert"}, "bert");
    refuse_unless(c, "position_embedding_type", "absolute");
    refuse_flags(c, {"is_decoder", "add_cross_attention"});
    BertConfig out;
    out.roberta = type != "bert";
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.intermediate_size = c.integer("intermediate_size", {1, 1 << 20});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 24});
    out.type_vocab_size = c.integer("type_vocab_size", 2, {1, 1024});
    if (out.roberta) out.first_position = c.integer("pad_token_id", 1, {0, 1 << 20}) + 1;
    out.hidden_act = activation(c, "hidden_act", "gelu");
    out.layer_norm_eps = c.number("layer_norm_eps", 1e-12, {0.0, 1.0});
    out.hidden_dropout_prob = c.number("hidden_dropout_prob", 0.1, {0.0, 0.999});
    out.attention_probs_dropout_prob = c.number("attention_probs_dropout_prob", 0.1, {0.0, 0.999});
    out.classifier_dropout = c.number("classifier_dropout", out.hidden_dropout_prob, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    if (out.first_position >= out.max_position_embeddings)
      fail("config: pad_token_id leaves no positions", out.first_position, out.max_position_embeddings, c.path());
    return out;
  }

  Index longest() const { return max_position_embeddings - first_position; }
};

/// LN(word + position + token type), then dropout. [tokens, hidden].
template <Real T, Backend B = Cpu>
struct BertEmbeddings {
  Parameter<T, B> word, position, type;
  nn::LayerNorm<T, B> norm;
  float dropout = 0;
  Index first_position = 0;
  static constexpr std::uint32_t site = 0xe0000000u;

  Var<T, B> operator()(const nn::Batch<B>& batch) const {
    auto x = embedding(word, batch.ids) +
             embedding(position, places<B>(batch.offsets, first_position, position.shape()[0], "bert")) +
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
  static constexpr nn::LayerNames names{
      "attention.self.query",       "attention.self.key", "attention.self.value", "attention.output.dense",
      "attention.output.LayerNorm", "intermediate.dense", "output.dense",         "output.LayerNorm"};
  /// Norms of the first checkpoints are called gamma and beta.
  static constexpr Spelling spellings[] = {
      {"LayerNorm.weight", "LayerNorm.gamma"},
      {"LayerNorm.bias", "LayerNorm.beta"},
      {"cls.predictions.bias", "cls.predictions.decoder.bias", Spelling::Kind::wins},
      {"lm_head.bias", "lm_head.decoder.bias", Spelling::Kind::wins},
      {"embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", Spelling::Kind::output},
      {"embeddings.word_embeddings.weight", "lm_head.decoder.weight", Spelling::Kind::output}};

  Config config;
  BertEmbeddings<T, B> embeddings;
  std::vector<nn::TransformerLayer<T, B>> layers;

  explicit Bert(const Config& c)
      : config(c),
        embeddings{Parameter<T, B>::empty({c.vocab_size, c.hidden_size}),
                   Parameter<T, B>::empty({c.max_position_embeddings, c.hidden_size}),
                   Parameter<T, B>::empty({c.type_vocab_size, c.hidden_size}),
                   nn::LayerNorm<T, B>::empty(c.hidden_size, c.layer_norm_eps),
                   static_cast<float>(c.hidden_dropout_prob),
                   c.first_position} {
    const nn::LayerSpec spec{.width = c.hidden_size,
                             .heads = c.num_attention_heads,
                             .ffn = c.intermediate_size,
                             .activation = c.hidden_act,
                             .epsilon = c.layer_norm_eps,
                             .dropout = static_cast<float>(c.hidden_dropout_prob),
                             .attention_dropout = static_cast<float>(c.attention_probs_dropout_prob)};
    append_layers(layers, names, spec, c.num_hidden_layers);
  }

  Index hidden() const { return config.hidden_size; }
  /// In the names of checkpoints of models with a head.
  const char* prefix() const { return config.roberta ? "roberta." : "bert."; }

  /// The hidden states that enter the first layer.
  nn::Hidden<T, B> embed(const nn::Batch<B>& batch) const { return {embeddings(batch), {batch.offsets, batch.run}}; }
  /// The hidden states of a batch, with the layers run by `body`.
  nn::Hidden<T, B> run(const nn::Batch<B>& batch, const auto& body) const { return body(embed(batch)); }

  nn::HeadSpec head() const {
    if (config.roberta)
      return {.dropout_before = true,
              .dropout = config.classifier_dropout,
              .dense_name = "classifier.dense",
              .output_name = "classifier.out_proj"};
    return {.dropout = config.classifier_dropout};
  }
  /// The masked-language head over the word embeddings.
  nn::LanguageHead<T, B> language_head() const {
    const bool r = config.roberta;
    return nn::LanguageHead<T, B>::with_transform(
        embeddings.word, config.hidden_size, r ? Activation::gelu : config.hidden_act, config.layer_norm_eps,
        r ? nn::LanguageNames{"lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"}
          : nn::LanguageNames{"cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                              "cls.predictions.bias", "cls.predictions.decoder.weight"});
  }

  void initialise(std::uint64_t seed) { initialise_parameters<T, B>(*this, seed); }

  static void parts(auto& self, auto&& visit) {
    visit("embeddings", self.embeddings);
    visit("encoder.layer", self.layers);
  }
};

}  // namespace meft::model
