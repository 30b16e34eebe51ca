// Owns: putting data, checkpoint, method and trainer together.
#include "session.hpp"

#include <sys/file.h>

#include <filesystem>
#include <iostream>
#include <numeric>

#include <meft/model/bert.hpp>
#include <meft/text/wordpiece.hpp>
#include <meft/train/estimate.hpp>
#include <meft/train/hf.hpp>
#include <meft/train/trainer.hpp>

#include "report.hpp"

namespace finetune {

namespace {

using namespace meft;
using Bert = model::Bert<float>;
using Learner = train::Learner<Bert>;

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

/// What stands for the checkpoint in a state: its weights, configuration and tokenizer.
std::string fingerprint_of_model(const std::string& folder) {
  std::uint64_t hash = 1;
  const io::Safetensors weights(folder);
  for (const auto& name : weights.names()) hash = fold(fold(hash, name), weights.find(name).bytes);
  for (const char* file : {"config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json"})
    if (std::filesystem::exists(folder + "/" + file)) hash = fold(fold(hash, file), io::read_text(folder + "/" + file));
  return hex(hash);
}

std::string fingerprint_of_data(const data::Dataset& data) {
  std::uint64_t hash = 1;
  for (const auto* set : {&data.train, &data.dev})
    for (const auto& e : *set) hash = mix(fold(fold(hash, e.text), e.pair), std::bit_cast<std::uint32_t>(e.label));
  return std::to_string(data.train.size()) + "+" + std::to_string(data.dev.size()) + " examples " + hex(hash);
}

/// The one process that writes a folder. Ends with it.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) fail("--output: cannot make the folder " + folder, error.message());
    fd_ = io::detail::open_file(folder, O_RDONLY | O_DIRECTORY, "open the output folder", Where::current());
    if (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) fail("--output: " + folder + " is being written by another run");
  }

 private:
  io::detail::Descriptor fd_;
};

/// The checkpoint with the method on it and the task's head.
Learner make_learner(const Flags& flags, int labels, train::LoadReport& report) {
  const auto frozen = flags.method.name == "full" ? std::nullopt : std::optional(flags.method.precision);
  auto bert = train::hf<Bert>(flags.model, &report, frozen);
  auto head = train::load_head(flags.model, bert, labels, nn::pooling_from(flags.pooling), flags.seed, &report);
  auto body = train::adapt(bert, flags.method);
  return {std::move(bert), std::move(body), std::move(head)};
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

/// The numbers of the batch with the most tokens of the run.
std::vector<std::uint32_t> largest_batch(const train::Encoded& examples, const Flags& flags) {
  const auto lengths = examples.lengths();
  std::vector<std::uint32_t> largest;
  std::uint64_t most = 0;
  for (std::int64_t epoch = 0; epoch < std::min<std::int64_t>(flags.epochs, 8); ++epoch)
    for (auto& rows : data::batches(lengths, static_cast<std::size_t>(flags.batch), flags.seed,
                                    static_cast<std::uint64_t>(epoch), true)) {
      std::uint64_t tokens = 0;
      for (const auto row : rows) tokens += lengths[row];
      if (tokens > most) most = tokens, largest = std::move(rows);
    }
  return largest;
}

/// What the user gets, beside what full fine-tuning takes.
void say_costs(const Flags& flags, Learner& learner, const Offsets& batch) {
  Index all = 0, trained = 0;
  nn::for_each_parameter(learner, [&](const std::string& name, const auto& p) {
    const auto has = [&](const char* part) { return name.find(part) != name.npos; };
    if (!has("_adapter.") && !has("lora_") && !has("readout.")) all += p.size();  // full training adds nothing
    if (p.trainable()) trained += p.size();
  });
  nn::walk(learner, [&](const std::string&, const nn::Linear<float>& l) {
    all += l.packed.defined() ? l.packed.shape().size() : 0;
  });
  const auto activation = [&](const train::MethodOptions& method) {
    return static_cast<double>(train::ActivationEstimate<float>(learner.model.config, method, batch).bytes());
  };
  const auto line = [](const std::string& name, Index count, double weights, double active) {
    std::cout << name << ": " << grouped(count) << " parameters train; weights " << mebibytes(weights)
              << ", gradients and moments " << mebibytes(12.0 * static_cast<double>(count))
              << ", activation (expected) " << mebibytes(active) << "\n";
  };
  const auto weights = static_cast<double>(Cpu::pool().read().of(Use::parameter));
  train::MethodOptions full;
  full.name = "full";
  line(flags.method.name, trained, weights, activation(flags.method));
  if (flags.method.name != "full" || flags.method.recompute)
    line("full", all, 4.0 * static_cast<double>(all), activation(full));
  std::cout << "(largest batch: " << batch.sequences() << " sequences, " << grouped(batch.tokens())
            << " tokens, the longest " << batch.longest() << ")\n";
}

/// What the checkpoint's configuration allows.
void check_against_model(Flags& flags, const text::WordPiece& tokenizer) {
  const auto config = model::BertConfig::read(io::Config(flags.model));
  if (!flags.given.contains("max-length"))
    flags.max_length = std::min<std::int64_t>(flags.max_length, config.max_position_embeddings);
  if (flags.max_length > config.max_position_embeddings)
    throw FlagError(
        "--max-length",
        "at most " + std::to_string(config.max_position_embeddings) + ", the checkpoint's max_position_embeddings",
        std::to_string(flags.max_length));
  if (flags.method.reversible_layers > config.num_hidden_layers)
    throw FlagError("--reversible-layers",
                    "at most " + std::to_string(config.num_hidden_layers) + ", the checkpoint's layers",
                    std::to_string(flags.method.reversible_layers));
  if (static_cast<Index>(tokenizer.size()) > config.vocab_size)
    fail(flags.model + ": the tokenizer has more tokens than the model's vocab_size", tokenizer.size(),
         config.vocab_size);
}

std::string joined(const std::vector<std::string>& names, std::size_t most = 4) {
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) out += (i ? ", " : "") + names[i];
  return out + (names.size() > most ? ", ... (" + std::to_string(names.size()) + ")" : "");
}

void say_loaded(const train::LoadReport& report) {
  if (!report.initialised.empty())
    std::cout << "not in the checkpoint, newly made: " << joined(report.initialised) << "\n";
  if (!report.unused.empty()) std::cout << "in the checkpoint, not used: " << joined(report.unused) << "\n";
}

bool train_it(Flags flags, const std::function<bool()>& stop) {
  const FolderLock lock(flags.output);
  const auto data = data::load(flags.task, flags.data, flags.columns);
  const text::WordPiece tokenizer(flags.model);
  check_against_model(flags, tokenizer);
  const auto length = static_cast<std::size_t>(flags.max_length);
  const auto train_set = train::encode(tokenizer, data.train, data.task.pair, length),
             dev_set = train::encode(tokenizer, data.dev, data.task.pair, length);

  train::TrainOptions options;
  options.batch = static_cast<std::size_t>(flags.batch);
  options.accumulate = static_cast<std::size_t>(flags.accumulate);
  options.epochs = flags.epochs;
  options.max_steps = flags.max_steps;
  options.optimizer = {.rate = flags.rate, .decay = flags.decay, .clip = flags.clip};
  options.warmup = flags.warmup;
  options.seed = flags.seed;
  options.metrics = data.task.metrics;
  options.main_metric = data.task.main_metric;
  options.folder = flags.output;
  options.run = describe(flags);
  options.run["model"] = fingerprint_of_model(flags.model);
  options.run["data"] = fingerprint_of_data(data);
  check_folder(flags, options.run);
  options.config = options.run;
  options.config["labels"] = data.task.label_names;
  options.config["pair"] = data.task.pair;
  options.resume = flags.resume;
  options.log_every = flags.log_every;
  options.save_steps = flags.save_steps;
  options.save_seconds = flags.save_seconds;
  options.stop = stop;

  train::LoadReport loaded;
  auto learner = make_learner(flags, data.task.labels, loaded);
  const auto largest = largest_batch(train_set, flags);
  say_costs(flags, learner, train::batch_of(train_set, largest).offsets);

  Progress progress;
  train::Trainer trainer(learner, train_set, dev_set, options, progress.observer());
  std::cout << data.train.size() << " examples to train on, " << data.dev.size()
            << (data.held_out ? " held out" : " to score on") << "; task " << data.task.name << ", " << trainer.steps()
            << " steps\n";
  say_loaded(loaded);
  const auto outcome = trainer.run();
  progress.end_line();
  const train::RunFiles files(flags.output);
  if (!outcome.finished) {
    std::cout << "stopped at step " << outcome.place.step << " of " << trainer.steps() << "; --resume goes on from "
              << files.state << "\n";
    return false;
  }
  const auto& best = outcome.place.epochs[static_cast<std::size_t>(outcome.place.best_epoch)];
  std::cout << "best: epoch " << outcome.place.best_epoch + 1 << ", dev " << text(best.scores) << "; activation memory "
            << mebibytes(static_cast<double>(outcome.activation_bytes)) << "; " << files.adapter << "\n";
  return true;
}

/// `label`, then a probability a class; `value` of a regression. One row an input row.
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

bool use(Flags flags, const std::function<bool()>& stop) {
  const train::RunFiles files(flags.output);
  if (!std::filesystem::exists(files.adapter))
    fail("--output: " + flags.output + " holds no adapter.safetensors, which training writes");
  const io::Safetensors saved(files.adapter);
  if (!saved.metadata().contains("config"))
    fail(files.adapter + ": not an adapter of finetune: no `config` in its metadata");
  const auto config = parse_json(saved.metadata().at("config"), files.adapter + ": config");
  take(flags, config, files.adapter);
  const JsonField field(config, files.adapter + ": config");
  if (const auto found = fingerprint_of_model(flags.model); found != field.at("model").string())
    throw FlagError("--model",
                    "the checkpoint that " + files.adapter + " was trained on (" + field.at("model").string() + ")",
                    flags.model + " (" + found + ")");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < field.at("labels").array().size(); ++i)
    names.push_back(field.at("labels").at(i).string());
  const bool pair = field.at("pair").boolean();

  const text::WordPiece tokenizer(flags.model);
  check_against_model(flags, tokenizer);
  train::LoadReport ignored;
  auto learner = make_learner(flags, names.empty() ? 1 : static_cast<int>(names.size()), ignored);
  train::load_trained(saved, learner);
  const auto length = static_cast<std::size_t>(flags.max_length);

  if (flags.eval_only) {
    const auto data = data::load(flags.task, flags.data, flags.columns);
    const auto set = train::encode(tokenizer, data.dev, pair, length);
    const auto predictions = train::predict(learner, set, 32, stop);
    if (stop()) return false;
    std::cout << data.dev.size() << (data.held_out ? " held-out" : " dev")
              << " examples: " << text(train::metrics(data.task.metrics, predictions.values(), set.labels)) << "\n";
  }
  if (!flags.predict.empty()) {
    const auto inputs = data::load_inputs(flags.task, flags.predict, flags.columns);
    const auto predictions = train::predict(learner, train::encode(tokenizer, inputs, pair, length), 32, stop);
    if (stop()) return false;
    const std::string path = flags.output + "/predictions.tsv";
    io::write_atomically(path, table_of(predictions, names));
    std::cout << inputs.size() << " predictions in " << path << "\n";
  }
  return true;
}

}  // namespace

bool run(Flags flags, const std::function<bool()>& stop) {
  if (flags.threads > 0) set_threads(static_cast<int>(flags.threads));
  return flags.loads() ? use(std::move(flags), stop) : train_it(std::move(flags), stop);
}

}  // namespace finetune
