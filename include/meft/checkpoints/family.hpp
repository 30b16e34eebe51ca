// Owns: which family a Hugging Face folder's model is of, known only when the program runs.
#pragma once

#include <string>

#include <meft/io/config.hpp>
#include <meft/model/bart.hpp>
#include <meft/model/bert.hpp>
#include <meft/model/llama.hpp>
#include <meft/model/opt.hpp>
#include <meft/model/vit.hpp>

namespace meft::checkpoints {

namespace detail {

template <class Config>
model::TransformerSpec read_as(const io::Config& config) {
  return Config::read(config).spec();
}

struct Family {
  const char* model_type;
  model::TransformerSpec (*read)(const io::Config&);
};
inline constexpr Family families[] = {
    {"bert", read_as<model::BertConfig>},        {"roberta", read_as<model::BertConfig>},
    {"xlm-roberta", read_as<model::BertConfig>}, {"camembert", read_as<model::BertConfig>},
    {"opt", read_as<model::OptConfig>},          {"bart", read_as<model::BartConfig>},
    {"llama", read_as<model::LlamaConfig>},      {"mistral", read_as<model::LlamaConfig>},
    {"qwen2", read_as<model::LlamaConfig>},      {"qwen3", read_as<model::LlamaConfig>},
    {"vit", read_as<model::VitConfig>},          {"deit", read_as<model::VitConfig>},
    {"dinov2", read_as<model::VitConfig>}};

}  // namespace detail

/// The description of the model that a config.json names. Throws for a model_type that no family has, naming those that
/// there are.
inline model::TransformerSpec read_spec(const io::Config& config, Where where = Where::current()) {
  const std::string type = config.text("model_type", std::string("bert"));
  std::string expected;
  for (const auto& family : detail::families) {
    if (type == family.model_type) return family.read(config);
    const bool last = &family + 1 == std::end(detail::families);
    expected += (expected.empty() ? "" : last ? " or " : ", ") + std::string(family.model_type);
  }
  fail({config.path() + ": model_type: expected " + expected + ", found", where}, type);
}

}  // namespace meft::checkpoints
