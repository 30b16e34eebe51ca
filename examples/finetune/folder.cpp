#include "folder.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <filesystem>

#include <meft/io/gguf_model.hpp>
#include <meft/io/json.hpp>
#include <meft/train/trainer.hpp>

#include "goal.hpp"

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

void check_folder(const Flags& flags, const train::TrainOptions& options) {
  const train::RunFiles files(flags.output);
  if (flags.overwrite) return;
  if (!flags.resume) {
    for (const auto& file : {files.state, files.adapter})
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

void remove_predictions(const Flags& flags) {
  const std::string path = flags.output + "/predictions.tsv";
  std::error_code error;
  if (!flags.overwrite || fs::is_directory(path, error)) return;
  fs::remove(path, error);
  if (error) fail("--overwrite: cannot remove " + path, error.message());
}

void find_model(Flags& flags) {
  std::error_code ignored;
  std::string why;
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

Earlier earlier_run(Flags& flags) {
  const std::string adapter = adapter_of(flags);
  Earlier out{io::Safetensors(adapter), {}, false};
  const auto config = config_of(out.saved);
  take(flags, config, adapter);
  const JsonField field(config, adapter + ": config");
  if (const auto found = fingerprint_of_model(flags.model); found != field.at("model").string())
    throw FlagError("--model",
                    "the checkpoint that " + adapter + " was trained on (" + field.at("model").string() + ")",
                    flags.model + " (" + found + ")");
  for (std::size_t i = 0; i < field.at("labels").array().size(); ++i)
    out.labels.push_back(field.at("labels").at(i).string());
  out.pair = field.at("pair").boolean();
  return out;
}

}  // namespace finetune
