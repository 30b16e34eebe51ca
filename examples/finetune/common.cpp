#include "common.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>
#include <iostream>

#include "report.hpp"

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

/// Refuses a folder that holds a run, unless it is this one and resumed.
void check_folder(const Flags& flags, const nlohmann::json& run) {
  const train::RunFiles files(flags.output);
  for (const auto& file : {files.state, files.adapter})
    if (!flags.resume && std::filesystem::exists(file))
      throw FlagError("--output", "a folder without a run, or --resume to go on with the one that is there", file);
  if (!flags.resume || !std::filesystem::exists(files.state)) return;
  const io::Safetensors state(files.state);
  const auto at = state.metadata().find("run");
  if (at == state.metadata().end()) fail(files.state + ": not the state of a run: no `run` in its metadata");
  const auto stored = parse_json(at->second, files.state + ": run");
  try {
    train::require_same_run(stored, run, files.state);
  } catch (const Error& error) {
    throw FlagError(error.message());
  }
}

std::string joined(const std::vector<std::string>& names, std::size_t most = 4) {
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) out += (i ? ", " : "") + names[i];
  return out + (names.size() > most ? ", ... (" + std::to_string(names.size()) + ")" : "");
}

}  // namespace

std::string fingerprint_of_model(const std::string& folder) {
  std::uint64_t hash = 1;
  const io::Weights weights(folder);
  for (const auto& name : weights.names()) hash = fold(fold(hash, name), weights.find(name).bytes);
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
  return sized(data.train.size(), data.dev.size(), hash);
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
/// Of the examples' places and labels: the images themselves are read when they are used.
std::string fingerprint_of(const data::ImageDataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& e : *set)
      hash = mix(mix(fold(hash, std::filesystem::path(data.files.at(e.file)).filename().string()), e.offset), e.label);
  return sized(data.train.size(), data.dev.size(), hash);
}
std::string fingerprint_of(const std::vector<std::string>& train, const std::vector<std::string>& dev) {
  std::uint64_t hash = 1;
  for (const auto* set : {&train, &dev})
    for (const auto& line : *set) hash = fold(hash, line);
  return sized(train.size(), dev.size(), hash);
}

FolderLock::FolderLock(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail("--output: cannot make the folder " + folder, error.message());
  fd_ = io::detail::open_file(folder, O_RDONLY | O_DIRECTORY, "open the output folder", Where::current());
  if (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) fail("--output: " + folder + " is being written by another run");
}

train::TrainOptions options_of(const Flags& flags, const Goal& goal, const Stop& stop) {
  train::TrainOptions options;
  options.batch = static_cast<std::size_t>(flags.batch);
  options.accumulate = static_cast<std::size_t>(flags.accumulate);
  options.epochs = flags.epochs;
  options.max_steps = flags.max_steps;
  options.optimizer = {.rate = flags.rate, .decay = flags.decay, .clip = flags.clip};
  options.warmup = flags.warmup;
  options.seed = flags.seed;
  options.metrics = goal.metrics;
  options.main_metric = goal.main_metric;
  options.folder = flags.output;
  options.run = describe(flags);
  options.run["model"] = goal.model;
  options.run["data"] = goal.data;
  check_folder(flags, options.run);
  options.config = options.run;
  options.config["labels"] = goal.labels;
  options.config["pair"] = goal.pair;
  options.resume = flags.resume;
  options.log_every = flags.log_every;
  options.save_steps = flags.save_steps;
  options.save_seconds = flags.save_seconds;
  options.stop = stop;
  return options;
}

void say_loaded(const train::LoadReport& report) {
  if (!report.initialised.empty())
    std::cout << "not in the checkpoint, newly made: " << joined(report.initialised) << "\n";
  if (!report.unused.empty()) std::cout << "in the checkpoint, not used: " << joined(report.unused) << "\n";
}

void say_cost(const std::string& name, Index trained, double weight_bytes, double activation_bytes) {
  std::cout << name << ": " << grouped(trained) << " parameters train; weights " << mebibytes(weight_bytes)
            << ", gradients and moments " << mebibytes(12.0 * static_cast<double>(trained))
            << ", activation (expected) " << mebibytes(activation_bytes) << "\n";
}

void say_outcome(const Flags& flags, const train::Outcome& outcome, std::int64_t steps) {
  const train::RunFiles files(flags.output);
  if (!outcome.finished) {
    std::cout << "stopped at step " << outcome.place.step << " of " << steps << "; --resume goes on from "
              << files.state << "\n";
    return;
  }
  const auto& best = outcome.place.epochs[static_cast<std::size_t>(outcome.place.best_epoch)];
  std::cout << "best: epoch " << outcome.place.best_epoch + 1 << ", dev " << text(best.scores) << "; activation memory "
            << mebibytes(static_cast<double>(outcome.activation_bytes)) << "; " << files.adapter << "\n";
}

Earlier earlier_run(Flags& flags) {
  const train::RunFiles files(flags.output);
  if (!std::filesystem::exists(files.adapter))
    fail("--output: " + flags.output + " holds no adapter.safetensors, which training writes");
  Earlier out{io::Safetensors(files.adapter), {}, false};
  if (!out.saved.metadata().contains("config"))
    fail(files.adapter + ": not an adapter of finetune: no `config` in its metadata");
  const auto config = parse_json(out.saved.metadata().at("config"), files.adapter + ": config");
  take(flags, config, files.adapter);
  const JsonField field(config, files.adapter + ": config");
  if (const auto found = fingerprint_of_model(flags.model); found != field.at("model").string())
    throw FlagError("--model",
                    "the checkpoint that " + files.adapter + " was trained on (" + field.at("model").string() + ")",
                    flags.model + " (" + found + ")");
  for (std::size_t i = 0; i < field.at("labels").array().size(); ++i)
    out.labels.push_back(field.at("labels").at(i).string());
  out.pair = field.at("pair").boolean();
  return out;
}

std::string table_of(const train::Predictions& predictions, const std::vector<std::string>& names) {
  char number[32];
  std::string out = predictions.labels == 1 ? "value" : "label";
  for (const auto& name : names) out += "\tp(" + name + ")";
  out += "\n";
  const auto values = predictions.values();
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    if (predictions.labels == 1) {
      std::snprintf(number, sizeof number, "%.9g", static_cast<double>(values[i]));
      out += number;
    } else {
      out += names.at(static_cast<std::size_t>(values[i]));
      for (const double p : predictions.probabilities(i)) {
        std::snprintf(number, sizeof number, "\t%.6f", p);
        out += number;
      }
    }
    out += "\n";
  }
  return out;
}

}  // namespace finetune
