#include "goal.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <span>

#include <meft/io/file.hpp>
#include <meft/io/weights.hpp>
#include <meft/train/optimizers.hpp>

#include "folder.hpp"

namespace finetune {

using namespace meft;

namespace {

/// A hash as text.
std::string hex(std::uint64_t hash) {
  std::string out(16, '0');
  for (std::size_t i = 16; i-- > 0; hash >>= 4) out[i] = "0123456789abcdef"[hash & 15];
  return out;
}

std::uint64_t fold(std::uint64_t hash, std::span<const std::byte> bytes) {
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    hash = mix(hash, word);
  }
  for (const std::byte b : bytes) hash = mix(hash, static_cast<std::uint64_t>(b));
  return mix(hash, bytes.size());
}
std::uint64_t fold(std::uint64_t hash, std::string_view text) {
  return fold(hash, std::as_bytes(std::span(text.data(), text.size())));
}

std::string sized(std::size_t train, std::size_t dev, std::uint64_t hash) {
  return std::to_string(train) + "+" + std::to_string(dev) + " examples " + hex(hash);
}

std::uint64_t fold(std::uint64_t hash, const std::vector<std::string>& names) {
  for (const auto& name : names) hash = fold(hash, name);
  return mix(hash, names.size());
}

/// Of a file its size, beginning and end.
std::uint64_t fold_file(std::uint64_t hash, const std::string& path) {
  InputFile file(path);
  std::array<std::byte, 4096> bytes;
  hash = fold(mix(hash, file.size()), std::span(bytes).first(file.read(bytes.data(), bytes.size())));
  if (file.size() <= bytes.size()) return hash;
  file.seek(file.size() - std::min<std::uint64_t>(file.size() - bytes.size(), bytes.size()));
  return fold(hash, std::span(bytes).first(file.read(bytes.data(), bytes.size())));
}

}  // namespace

std::string fingerprint_of_model(const std::string& folder) {
  std::uint64_t hash = 1;
  const io::Weights weights(folder);
  for (const auto& name : weights.names()) hash = fold(fold(hash, name), weights.find(name).bytes);
  if (io::is_gguf(folder)) return hex(fold(hash, io::Gguf(folder).header()));
  for (const char* file :
       {"config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
        "special_tokens_map.json", "tokenizer_config.json", "preprocessor_config.json"})
    if (std::filesystem::exists(folder + "/" + file)) hash = fold(fold(hash, file), io::read_text(folder + "/" + file));
  return hex(hash);
}

std::string fingerprint_of(const data::Dataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& e : *set) hash = mix(fold(fold(hash, e.text), e.pair), std::bit_cast<std::uint32_t>(e.label));
  return sized(data.train.size(), data.dev.size(), hash) + " " + hex(fold(1, data.task.label_names));
}
std::string fingerprint_of(const data::ChoiceDataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& q : *set) {
      hash = fold(hash, q.context);
      for (const auto& option : q.options) hash = fold(hash, option);
      hash = mix(hash, static_cast<std::uint64_t>(q.answer));
    }
  return sized(data.train.size(), data.dev.size(), hash);
}
/// Of the examples' places and labels, then of the classes' names and the files.
std::string fingerprint_of(const data::ImageDataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& e : *set)
      hash = mix(mix(fold(hash, std::filesystem::path(data.files.at(e.file)).filename().string()), e.offset), e.label);
  std::uint64_t files = fold(1, data.label_names);
  for (const auto& file : data.files) files = fold_file(files, file);
  return sized(data.train.size(), data.dev.size(), hash) + " " + hex(files);
}
std::string fingerprint_of(const data::LineDataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& line : *set) hash = fold(hash, line);
  return sized(data.train.size(), data.dev.size(), hash);
}

namespace {

/// What a run's files say of it is UTF-8; names of folders and words on a command line may be something else.
void require_utf8(const std::string& key, const nlohmann::json& value) {
  try {
    (void)value.dump();
  } catch (const nlohmann::json::type_error&) {
    const bool labels = key == "labels", path = key == "model_path";
    fail((labels ? "the classes" : "--" + (path ? "model" : key)) + ": expected names in UTF-8, found " +
         value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

}  // namespace

train::TrainOptions options_of(const Flags& flags, const Goal& goal, const Stop& stop) {
  train::TrainOptions options;
  options.batch = static_cast<std::size_t>(flags.batch);
  options.accumulate = static_cast<std::size_t>(flags.accumulate);
  options.epochs = flags.epochs;
  options.max_steps = flags.max_steps;
  options.optimizer = train::optimizer_of(flags.recipe, flags.seed);
  options.warmup = flags.recipe.warmup;
  options.schedule = flags.recipe.schedule;
  options.seed = flags.seed;
  options.metrics = goal.metrics;
  options.main_metric = goal.main_metric;
  options.folder = flags.output;
  options.run = describe(flags);
  options.run["model"] = goal.model;
  options.run["data"] = goal.data;
  options.config = options.run;
  options.config["labels"] = goal.labels;
  options.config["pair"] = goal.pair;
  options.config["model_path"] = place_of_model(flags);
  for (const auto& [key, value] : options.config.items()) require_utf8(key, value);
  // What a run may have otherwise when it goes on; only where it is asked for.
  for (const char* name : {"epochs", "max-steps", "lr"})
    if (flags.given.contains(name)) options.may_change.emplace_back(name);
  check_folder(flags, options);
  options.resume = flags.resume;
  options.overwrite = flags.overwrite;
  options.log_every = flags.log_every;
  options.save_steps = flags.save_steps;
  options.save_seconds = flags.save_seconds;
  options.stop = stop;
  return options;
}

}  // namespace finetune
