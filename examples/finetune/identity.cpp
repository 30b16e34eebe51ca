// Owns: the JSON that says which run it is, and the reading back of it.
#include <array>

#include "flags.hpp"

namespace finetune {

nlohmann::json describe(const Flags& f) {
  const auto& m = f.method;
  nlohmann::json out{{"task", f.task},
                     {"encoding", f.encoding},
                     {"method", m.name},
                     {"precision", m.precision == meft::Precision::bf16 ? "bf16" : "f32"},
                     {"pooling", f.pooling},
                     {"augment", f.augment},
                     {"batch", f.batch},
                     {"accumulate", f.accumulate},
                     {"epochs", f.epochs},
                     {"max-steps", f.max_steps},
                     {"lr", f.rate},
                     {"warmup", f.warmup},
                     {"weight-decay", f.decay},
                     {"clip", f.clip},
                     {"max-length", f.max_length},
                     {"seed", f.seed}};
  if (f.task == "tsv") {
    out["text"] = f.columns.text;
    out["label"] = f.columns.label;
    out["header"] = f.header;
    out["regression"] = f.columns.regression;
    if (!f.columns.label_names.empty()) out["label-names"] = f.columns.label_names;
    if (!f.columns.pair.empty()) out["text-pair"] = f.columns.pair;
    if (f.columns.threshold) out["threshold"] = *f.columns.threshold;
  }
  if (m.reversible()) {
    out["streams"] = meft::name_of(m.streams);
    if (m.streams != meft::Streams::rounded) out["fraction-bits"] = m.fraction_bits;
    out["lambda"] = m.chosen_lambda().reduced().text();
    out["beta"] = m.chosen_beta().reduced().text();
    out["readout"] = m.readout;
    if (m.deviation != meft::train::MethodOptions{}.deviation) out["adapter-deviation"] = m.deviation;
    out["reversible-layers"] = m.reversible_layers < 0 ? nlohmann::json("all") : nlohmann::json(m.reversible_layers);
  } else {
    out["recompute"] = m.recompute;
  }
  if (f.device != "cpu") out["device"] = f.device;
  if (m.bottlenecked()) out["bottleneck"] = m.bottleneck;
  if (m.name == "lora") out["lora-rank"] = m.rank;
  return out;
}

void take(Flags& f, const nlohmann::json& config, const std::string& path) {
  const auto text = [](const nlohmann::json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  const nlohmann::json now = describe(f);
  // How data is found and cut into batches may change between training and prediction; what the adapter fixes may not.
  for (const auto& [key, value] : config.items())
    if (f.given.contains(key) && now.contains(key) && now[key] != value && key != "encoding" && key != "batch" &&
        key != "text" && key != "text-pair" && key != "label" && key != "header" && key != "device")
      throw FlagError("--" + key, text(value) + ", as in " + path, text(now[key]));
  const auto read = [&](const char* key, auto& to) {
    if (config.contains(key)) config.at(key).get_to(to);
  };
  const auto unless_given = [&](const char* key, auto& to) {
    if (!f.given.contains(key)) read(key, to);
  };
  try {
    auto& m = f.method;
    config.at("task").get_to(f.task);
    unless_given("encoding", f.encoding);
    f.columns.encoding = meft::data::encoding(f.encoding);
    config.at("method").get_to(m.name);
    config.at("pooling").get_to(f.pooling);
    f.augment = config.value("augment", false);
    m.precision = meft::precision_from(config.value("precision", "f32"));
    config.at("max-length").get_to(f.max_length);
    config.at("seed").get_to(f.seed);
    m.seed = f.seed;
    unless_given("text", f.columns.text);
    unless_given("text-pair", f.columns.pair);
    unless_given("label", f.columns.label);
    unless_given("header", f.header);
    f.columns.header = f.header == "yes"  ? meft::data::Header::present
                       : f.header == "no" ? meft::data::Header::absent
                                          : meft::data::Header::automatic;
    read("regression", f.columns.regression);
    if (config.contains("threshold")) f.columns.threshold = config.at("threshold").get<double>();
    if (f.task == "tsv" && !f.columns.regression) config.at("labels").get_to(f.columns.label_names);
    if (m.reversible()) {
      m.streams = meft::streams_from(config.at("streams").get<std::string>());
      m.fraction_bits = config.value("fraction-bits", meft::train::MethodOptions{}.fraction_bits);
      m.lambda = meft::Lambda::parse(config.at("lambda").get<std::string>());
      m.beta = meft::Lambda::parse(config.at("beta").get<std::string>());
      config.at("readout").get_to(m.readout);
      m.reversible_layers =
          config.at("reversible-layers").is_string() ? -1 : config.at("reversible-layers").get<meft::Index>();
    }
    m.recompute = false;
    read("bottleneck", m.bottleneck);
    read("lora-rank", m.rank);
  } catch (const nlohmann::json::exception& error) {
    meft::fail(path + ": config: not what a run of finetune writes", error.what());
  }
}

}  // namespace finetune
