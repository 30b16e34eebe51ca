// Owns: MPNet: configuration and description.
// Song et al., arXiv 2004.09297. Names and arithmetic are those of Hugging Face's MPNetModel: RoBERTa's layers with
// biases of relative position in all of them, and no token types.
#pragma once

#include <meft/model/bert.hpp>

namespace meft::model {

struct MpnetConfig {
  BertConfig encoder{};
  Index relative_attention_num_buckets = 32;

  static MpnetConfig read(const auto& c) {
    model_type(c, {"mpnet"}, "mpnet");
    MpnetConfig out;
    out.encoder = BertConfig::read_encoder(c);
    out.encoder.roberta = true;
    out.encoder.type_vocab_size = 0;
    out.encoder.first_position = 2;  // whatever pad_token_id
    out.encoder.classifier_dropout = out.encoder.hidden_dropout_prob;
    if (out.encoder.max_position_embeddings <= 2)
      fail("config: max_position_embeddings: expected more than 2, found", out.encoder.max_position_embeddings,
           c.path());
    out.relative_attention_num_buckets =
        c.integer("relative_attention_num_buckets", 32, {32, 32});  // transformers' own
    return out;
  }

  TransformerSpec spec() const;
};

namespace mpnet {

inline constexpr nn::LayerNames layer_names{"attention.attn.q", "attention.attn.k",    "attention.attn.v",
                                            "attention.attn.o", "attention.LayerNorm", "intermediate.dense",
                                            "output.dense",     "output.LayerNorm"};

}  // namespace mpnet

inline TransformerSpec MpnetConfig::spec() const {
  TransformerSpec out = encoder.spec();
  out.family = "mpnet";
  out.prefix = "mpnet.";
  out.layer_names = &mpnet::layer_names;
  out.names.embeddings.type = "";
  out.names.relative = "encoder.relative_attention_bias";
  out.layers.layer.relative = nn::RelativeSpec{.buckets = relative_attention_num_buckets};
  return out;
}

}  // namespace meft::model
