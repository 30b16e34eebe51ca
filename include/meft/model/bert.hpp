// Owns: BERT and RoBERTa: configuration and description.
// Devlin et al., arXiv 1810.04805; Liu et al., arXiv 1907.11692. Names and arithmetic are those of Hugging Face's
// BertModel and RobertaModel (XLM-RoBERTa and CamemBERT are RoBERTa).
#pragma once

#include <string>

#include <meft/model/config.hpp>

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
    BertConfig out = read_encoder(c);
    out.roberta = type != "bert";
    if (out.type_vocab_size == 1 && c.text("model_type", std::string()).empty())
      fail("config: model_type is missing: expected bert or, as type_vocab_size 1 tells, roberta", c.path());
    if (out.roberta) out.first_position = c.integer("pad_token_id", 1, {0, 1 << 20}) + 1;
    if (out.first_position >= out.max_position_embeddings)
      fail("config: pad_token_id leaves no positions", out.first_position, out.max_position_embeddings, c.path());
    return out;
  }
  /// What MPNet has too.
  static BertConfig read_encoder(const auto& c) {
    refuse_flags(c, {"is_decoder", "add_cross_attention"});
    BertConfig out;
    out.vocab_size = c.integer("vocab_size", {1, 1 << 24});
    out.hidden_size = c.integer("hidden_size", {1, 1 << 16});
    out.num_hidden_layers = c.integer("num_hidden_layers", {1, 1024});
    out.num_attention_heads = c.integer("num_attention_heads", {1, 1024});
    out.intermediate_size = c.integer("intermediate_size", {1, 1 << 20});
    out.max_position_embeddings = c.integer("max_position_embeddings", {1, 1 << 24});
    out.type_vocab_size = c.integer("type_vocab_size", 2, {1, 1024});
    out.hidden_act = activation(c, "hidden_act", "gelu");
    out.layer_norm_eps = c.number("layer_norm_eps", 1e-12, {0.0, 1.0});
    out.hidden_dropout_prob = c.number("hidden_dropout_prob", 0.1, {0.0, 0.999});
    out.attention_probs_dropout_prob = c.number("attention_probs_dropout_prob", 0.1, {0.0, 0.999});
    out.classifier_dropout = c.number("classifier_dropout", out.hidden_dropout_prob, {0.0, 0.999});
    out.tie_word_embeddings = c.flag("tie_word_embeddings", true);
    check_heads(c, out.hidden_size, out.num_attention_heads, "hidden_size", "num_attention_heads");
    return out;
  }

  TransformerSpec spec() const;
};

namespace bert {

inline constexpr nn::LayerNames layer_names{
    "attention.self.query",       "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense",         "output.LayerNorm"};
/// Norms of the first checkpoints are called gamma and beta.
inline constexpr Spelling spellings[] = {
    {"LayerNorm.weight", "LayerNorm.gamma"},
    {"LayerNorm.bias", "LayerNorm.beta"},
    {"cls.predictions.bias", "cls.predictions.decoder.bias", Spelling::Kind::wins},
    {"lm_head.bias", "lm_head.decoder.bias", Spelling::Kind::wins},
    {"embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", Spelling::Kind::output},
    {"embeddings.word_embeddings.weight", "lm_head.decoder.weight", Spelling::Kind::output}};

}  // namespace bert

inline TransformerSpec BertConfig::spec() const {
  TransformerSpec out{.family = "bert",
                      .prefix = roberta ? "roberta." : "bert.",
                      .spellings = bert::spellings,
                      .names = {.embeddings = {.word = "embeddings.word_embeddings.weight",
                                               .position = "embeddings.position_embeddings.weight",
                                               .type = "embeddings.token_type_embeddings.weight",
                                               .norm = "embeddings.LayerNorm"}},
                      .layer_names = &bert::layer_names,
                      .tied = tie_word_embeddings,
                      .width = hidden_size,
                      .embeddings = {.vocabulary = vocab_size,
                                     .positions = max_position_embeddings,
                                     .types = type_vocab_size,
                                     .first_position = first_position,
                                     .norm = layer_norm_eps,
                                     .dropout = static_cast<float>(hidden_dropout_prob)},
                      .layers = {{.width = hidden_size,
                                  .heads = num_attention_heads,
                                  .ffn = intermediate_size,
                                  .activation = hidden_act,
                                  .epsilon = layer_norm_eps,
                                  .dropout = static_cast<float>(hidden_dropout_prob),
                                  .attention_dropout = static_cast<float>(attention_probs_dropout_prob)},
                                 num_hidden_layers},
                      .head = {.dropout = classifier_dropout}};
  out.language = nn::LanguageSpec{true,
                                  roberta ? Activation::gelu : hidden_act,
                                  layer_norm_eps,
                                  {"cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                                   "cls.predictions.bias", "cls.predictions.decoder.weight"}};
  if (roberta) {
    out.head.dropout_before = true;
    out.head.dense_name = "classifier.dense";
    out.head.output_name = "classifier.out_proj";
    out.language->names = {"lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"};
  }
  return out;
}

}  // namespace meft::model
