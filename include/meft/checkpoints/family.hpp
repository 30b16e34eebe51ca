// Owns: which family a Hugging Face folder's model is of, known only when the program runs.
#pragma once

#include <string>

#include <meft/io/config.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/gemma3.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/modernbert.hpp>
#include <meft/model/mpnet.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/t5.hpp>
#include <meft/model/vit.hpp>

namespace meft::checkpoints {

namespace detail {

template <class Config>
model::TransformerSpec read_as(const io::Config& config) {
  return Config::read(config).spec();
}

struct Family {
  const char* model_type;
  const char* classes;  // how the names of its classes in transformers begin
  model::TransformerSpec (*read)(const io::Config&);
  const char* classifiers = nullptr;  // where those that classify begin otherwise
};
inline constexpr Family families[] = {{"bert", "Bert", read_as<model::BertConfig>},
                                      {"roberta", "Roberta", read_as<model::BertConfig>},
                                      {"xlm-roberta", "XLMRoberta", read_as<model::BertConfig>},
                                      {"camembert", "Camembert", read_as<model::BertConfig>},
                                      {"mpnet", "MPNet", read_as<model::MpnetConfig>},
                                      {"modernbert", "ModernBert", read_as<model::ModernBertConfig>},
                                      {"opt", "OPT", read_as<model::OptConfig>},
                                      {"bart", "Bart", read_as<model::BartConfig>},
                                      {"llama", "Llama", read_as<model::LlamaConfig>},
                                      {"mistral", "Mistral", read_as<model::LlamaConfig>},
                                      {"qwen2", "Qwen2", read_as<model::LlamaConfig>},
                                      {"qwen3", "Qwen3", read_as<model::LlamaConfig>},
                                      {"gemma3_text", "Gemma3", read_as<model::Gemma3Config>, "Gemma3Text"},
                                      {"t5", "T5", read_as<model::T5Config>},
                                      {"vit", "ViT", read_as<model::VitConfig>},
                                      {"deit", "DeiT", read_as<model::VitConfig>},
                                      {"dinov2", "Dinov2", read_as<model::VitConfig>}};

}  // namespace detail

/// The model_type of each family: `bert, roberta … or dinov2`.
inline std::string model_types() {
  std::string out;
  for (const auto& family : detail::families) {
    const bool last = &family + 1 == std::end(detail::families);
    out += (out.empty() ? "" : last ? " or " : ", ") + std::string(family.model_type);
  }
  return out;
}

namespace detail {

/// Throws for a model_type that no family has, naming those that there are.
inline const Family& family_of(const io::Config& config, Where where) {
  const std::string type = config.text("model_type", std::string("bert"));
  for (const auto& family : families)
    if (type == family.model_type) return family;
  fail({config.path() + ": model_type: expected " + model_types() + ", found", where}, type);
}

}  // namespace detail

/// The description of the model that a config.json names. Throws for a model_type that no family has, naming those that
/// there are.
inline model::TransformerSpec read_spec(const io::Config& config, Where where = Where::current()) {
  return detail::family_of(config, where).read(config);
}

/// What a model predicts, as the names of its classes in transformers end.
enum class Predicts { classes, tokens };

/// The class of transformers that a config.json's model with a head is, as `BertForSequenceClassification`.
inline std::string class_name(const io::Config& config, Predicts what, Where where = Where::current()) {
  const auto& family = detail::family_of(config, where);
  const auto spec = family.read(config);
  const char* end = what == Predicts::classes ? (spec.patches ? "ForImageClassification" : "ForSequenceClassification")
                                              : (spec.causal    ? "ForCausalLM"
                                                 : spec.decoder ? "ForConditionalGeneration"
                                                                : "ForMaskedLM");
  return std::string(what == Predicts::classes && family.classifiers ? family.classifiers : family.classes) + end;
}

}  // namespace meft::checkpoints
