#include "folder.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <filesystem>

#include <meft/checkpoints/config.hpp>
#include <meft/checkpoints/family.hpp>
#include <meft/checkpoints/labels.hpp>
#include <meft/io/gguf_model.hpp>
#include <meft/io/json.hpp>
#include <meft/train/trainer.hpp>

#include "goal.hpp"
#include "terminal.hpp"

namespace finetune {

using namespace meft;
namespace fs = std::filesystem;

namespace {

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

bool is_model(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) || (io::is_gguf(path) && fs::exists(path, ignored));
}

std::string adapter_of(const Flags& flags) {
  const std::string path = train::RunFiles(flags.output).adapter;
  if (!exists(path))
    fail("--output: " + flags.output + " holds no adapter.safetensors, which training writes" +
         (exists(train::RunFiles(flags.output).state) ? " at an epoch's end: the run there has not come so far" : ""));
  return path;
}

/// peft's adapter and no run.
bool holds_peft(const Flags& flags) {
  return flags.loads() && !exists(train::RunFiles(flags.output).adapter) &&
         checkpoints::PeftAdapter::is_there(flags.output);
}

nlohmann::json config_of(const io::Safetensors& adapter) {
  const auto at = adapter.metadata().find("config");
  if (at == adapter.metadata().end())
    fail(adapter.path() + ": not an adapter of finetune: no `config` in its metadata");
  return parse_json(at->second, adapter.path() + ": config");
}

}  // namespace

FolderLock::FolderLock(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("--output: cannot make the folder " + folder, error.message());
  fd_ = io::detail::open_file(folder, O_RDONLY | O_DIRECTORY, "open the output folder", Where::current());
  if (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) fail("--output: " + folder + " is being written by another run");
}

std::vector<std::string> files_of(const Flags& flags) {
  const train::RunFiles files(flags.output);
  return {files.state,
          files.adapter,
          files.metrics,
          files.log,
          flags.output + "/" + checkpoints::peft_config,
          flags.output + "/" + checkpoints::peft_model};
}

void check_folder(const Flags& flags, const train::TrainOptions& options) {
  const train::RunFiles files(flags.output);
  if (flags.overwrite) return;
  if (!flags.resume) {
    for (const auto& file : files_of(flags))
      if (exists(file))
        throw FlagError("--output",
                        "a folder without a run; --resume to go on with the one that is there, or --overwrite to "
                        "remove it",
                        file);
    return;
  }
  if (!exists(files.state)) {
    for (const auto& file : {files.adapter, files.metrics, files.log})
      if (exists(file))
        throw FlagError("--resume", files.state + ", which a run goes on from (--overwrite starts anew)",
                        file + " alone");
    return;
  }
  const auto stored = train::run_of(io::Safetensors(files.state));
  try {
    train::require_same_run(stored, options.run, files.state, options.may_change);
  } catch (const Error& error) {
    throw FlagError(error.message());
  }
}

void remove_leavings(const Flags& flags) {
  if (!flags.overwrite) return;
  for (const char* name : {"predictions.tsv", checkpoints::peft_config, checkpoints::peft_model}) {
    const std::string path = flags.output + "/" + name;
    std::error_code error;
    if (fs::is_directory(path, error)) continue;
    fs::remove(path, error);
    if (error) fail("--overwrite: cannot remove " + path, error.message());
  }
}

std::string place_of_model(const Flags& flags) {
  const fs::path model = fs::absolute(flags.model);
  if (fs::is_directory(model)) return fs::canonical(model).string();
  return (fs::canonical(model.parent_path()) / model.filename()).string();
}

namespace {

/// Whether the task's head is over the vocabulary.
bool predicts_words(const Flags& flags, const model::TransformerSpec& spec) {
  return !flags.has_head() || (flags.kind() == Kind::choices && spec.causal);
}

}  // namespace

void write_peft(const Flags& flags, const model::TransformerSpec& spec, const checkpoints::LoadReport& loaded,
                const std::vector<std::string>& labels) {
  const std::string adapter = train::RunFiles(flags.output).adapter;
  if (!checkpoints::peft_form(flags.method, spec) || !exists(adapter)) return;
  const bool tokens = predicts_words(flags, spec);
  if (tokens && !loaded.initialised.empty()) return;  // a head that is neither in the checkpoint nor trained
  if (!tokens && flags.pooling != "model" && nn::pooling_from(flags.pooling) != spec.head.pooling) {
    say("no adapter_config.json: transformers has no such model with --pooling " + flags.pooling);
    return;
  }
  const auto config = checkpoints::read_config(flags.model);
  checkpoints::write_peft(
      flags.output, io::Safetensors(adapter), spec, flags.method,
      {.model = place_of_model(flags),
       .task = tokens         ? spec.causal    ? "CAUSAL_LM"
                                : spec.decoder ? "SEQ_2_SEQ_LM"
                                               : ""
               : spec.patches ? ""
                              : "SEQ_CLS",
       .architecture = checkpoints::class_name(
           config, tokens ? checkpoints::Predicts::tokens : checkpoints::Predicts::classes, Where::current()),
       .language = tokens,
       .rows = tokens ? std::vector<std::size_t>{} : checkpoints::rows_in(config, labels)});
}

void find_model(Flags& flags) {
  std::error_code ignored;
  std::string why;
  if (flags.model.empty() && holds_peft(flags)) {
    const auto config = checkpoints::PeftAdapter(flags.output).config;
    flags.model = config.text("base_model_name_or_path", std::string());
    if (!is_model(flags.model))
      throw FlagError("--model", "the checkpoint that " + config.path() + " is of", flags.model + ", which is none");
    return;
  }
  if (flags.model.empty()) {
    const std::string adapter = adapter_of(flags);
    const auto config = config_of(io::Safetensors(adapter));
    const auto path = config.find("model_path");
    if (path == config.end() || !path->is_string())
      throw FlagError("--model",
                      "the folder of the checkpoint that was trained on, which " + adapter + " does not name",
                      "nothing");
    flags.model = *path;
    if (!is_model(flags.model))
      fail("--model: expected the checkpoint that " + adapter + " was trained on: it is no longer at " + flags.model +
           "; say where it is by --model");
    return;
  }
  if (is_model(flags.model)) return;
  const std::string expected =
      "--model: expected a folder with config.json, weights and tokenizer, or a file that ends in .gguf, found " +
      flags.model;
  if (fs::exists(flags.model, ignored)) fail(expected + ", which is a file");
  const bool hub = flags.model.front() != '/' && flags.model.front() != '.' &&
                   std::count(flags.model.begin(), flags.model.end(), '/') < 2;
  fail(expected + ", which is not there" +
       (hub ? " (a name on the Hugging Face hub is not looked up: download it first, `hf download " + flags.model +
                  " --local-dir FOLDER`)"
            : ""));
}

namespace {

/// The classes of a head with so many rows: those of the task or of --label-names, else those that the checkpoint's
/// config.json names, else LABEL_0 …
std::vector<std::string> classes_of(const Flags& flags, Index rows) {
  std::vector<std::string> out = flags.columns.label_names;
  if (const auto* form = flags.task == "tsv" || flags.kind() != Kind::texts
                             ? nullptr
                             : data::detail::form_of(flags.task, flags.columns, true))
    out = form->task.label_names;
  if (out.empty() && rows > 1) out = checkpoints::HeadLabels::read(checkpoints::read_config(flags.model), rows).names;
  if (out.empty() && rows > 1)
    for (Index i = 0; i < rows; ++i) out.push_back("LABEL_" + std::to_string(i));
  return out;
}

Earlier peft_run(Flags& flags) {
  Earlier out{.peft = checkpoints::PeftAdapter(flags.output)};
  const auto& config = out.peft->config;
  const std::string path = config.path();
  if (flags.task.empty()) throw FlagError("--task", "what was trained, which " + path + " does not say", "nothing");
  const auto spec = checkpoints::read_spec(checkpoints::read_config(flags.model));
  const auto method = out.peft->method(spec);
  if (const auto task = config.tree().value("task_type", nlohmann::json()); !task.is_null()) {
    using Names = std::vector<std::string_view>;
    const auto expected = predicts_words(flags, spec) ? Names{"CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"}
                                                      : Names{"SEQ_CLS", "FEATURE_EXTRACTION"};
    if (std::none_of(expected.begin(), expected.end(), [&](std::string_view one) { return task == one; }))
      config.wrong("task_type", std::string(expected.front()) + ", for --task " + flags.task, Where::current());
  }
  if (flags.given.contains("method") && method.index() != flags.method.index())
    throw FlagError("--method", std::string(method_name(method)) + ", as in " + path,
                    std::string(method_name(flags.method)));
  flags.method = method;
  require_same_options(flags, path);
  out.peft->check_size(spec);
  const Index rows = out.peft->classes(spec);
  out.labels = classes_of(flags, rows);
  if (flags.regresses() && rows > 1)
    throw FlagError(flags.task == "stsb" ? "--task" : "--regression",
                    "a head of one row, for a value, in " + out.peft->weights.path(), std::to_string(rows) + " rows");
  if (flags.kind() == Kind::texts)
    out.pair = flags.task == "tsv" ? !flags.columns.pair.empty()
                                   : data::detail::form_of(flags.task, flags.columns, true)->task.pair;
  return out;
}

}  // namespace

Earlier earlier_run(Flags& flags) {
  if (holds_peft(flags)) return peft_run(flags);
  const std::string adapter = adapter_of(flags);
  Earlier out{.saved = io::Safetensors(adapter)};
  const auto config = config_of(*out.saved);
  take(flags, config, adapter);
  const JsonField field(config, adapter + ": config");
  if (const auto found = fingerprint_of_model(flags.model); found != field.at("model").string())
    throw FlagError("--model",
                    "the checkpoint that " + adapter + " was trained on (" + field.at("model").string() + ")",
                    flags.model + " (" + found + "): another one, or its weights, config.json, tokenizer's or " +
                        "preprocessor's files were changed");
  for (std::size_t i = 0; i < field.at("labels").array().size(); ++i)
    out.labels.push_back(field.at("labels").at(i).string());
  out.pair = field.at("pair").boolean();
  flags.trained_on = field.at("data").string();
  return out;
}

}  // namespace finetune
