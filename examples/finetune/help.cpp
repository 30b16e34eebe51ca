#include "help.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <numeric>
#include <string_view>
#include <utility>

#include <meft/checkpoints/family.hpp>

#include "flags.hpp"
#include "terminal.hpp"

namespace finetune {

namespace {

/// Names that other trainers have for our flags.
constexpr std::pair<std::string_view, std::string_view> synonyms[] = {
    {"model-name-or-path", "model"},
    {"model-name", "model"},
    {"model-path", "model"},
    {"checkpoint", "model"},
    {"pretrained-model-name-or-path", "model"},
    {"base-model", "model"},
    {"task-name", "task"},
    {"dataset", "data"},
    {"dataset-name", "data"},
    {"dataset-path", "data"},
    {"data-dir", "data"},
    {"data-path", "data"},
    {"train-file", "data"},
    {"train-data", "data"},
    {"train", "data"},
    {"input", "data"},
    {"output-dir", "output"},
    {"out", "output"},
    {"save-dir", "output"},
    {"text-column", "text"},
    {"text-column-name", "text"},
    {"sentence", "text"},
    {"label-column", "label"},
    {"label-column-name", "label"},
    {"pair", "text-pair"},
    {"peft-type", "method"},
    {"peft", "method"},
    {"adapter-type", "method"},
    {"lora-r", "lora-rank"},
    {"lora-dim", "lora-rank"},
    {"r", "lora-rank"},
    {"rank", "lora-rank"},
    {"target-modules", "lora-targets"},
    {"lora-target", "lora-targets"},
    {"adapter-size", "bottleneck"},
    {"bottleneck-size", "bottleneck"},
    {"reduction-factor", "bottleneck"},
    {"gradient-checkpointing", "recompute"},
    {"bf16", "weights"},
    {"fp16", "weights"},
    {"dtype", "weights"},
    {"torch-dtype", "weights"},
    {"learning-rate", "lr"},
    {"rate", "lr"},
    {"num-train-epochs", "epochs"},
    {"num-epochs", "epochs"},
    {"n-epochs", "epochs"},
    {"max-epochs", "epochs"},
    {"max-train-steps", "max-steps"},
    {"num-steps", "max-steps"},
    {"steps", "max-steps"},
    {"per-device-train-batch-size", "batch"},
    {"per-gpu-train-batch-size", "batch"},
    {"train-batch-size", "batch"},
    {"batch-size", "batch"},
    {"bs", "batch"},
    {"gradient-accumulation-steps", "accumulate"},
    {"gradient-accumulation", "accumulate"},
    {"accumulate-grad-batches", "accumulate"},
    {"grad-accum", "accumulate"},
    {"warmup-ratio", "warmup"},
    {"warmup-steps", "warmup"},
    {"num-warmup-steps", "warmup"},
    {"wd", "weight-decay"},
    {"max-grad-norm", "clip"},
    {"clip-grad-norm", "clip"},
    {"gradient-clip-val", "clip"},
    {"gradient-clipping", "clip"},
    {"max-seq-length", "max-length"},
    {"max-seq-len", "max-length"},
    {"max-len", "max-length"},
    {"max-source-length", "max-length"},
    {"model-max-length", "max-length"},
    {"max-new-tokens", "max-target-length"},
    {"generation-max-length", "max-target-length"},
    {"block-size", "max-length"},
    {"cutoff-len", "max-length"},
    {"random-seed", "seed"},
    {"data-seed", "seed"},
    {"use-cpu", "device"},
    {"no-cuda", "device"},
    {"gpu", "device"},
    {"cuda", "device"},
    {"num-workers", "threads"},
    {"num-threads", "threads"},
    {"n-threads", "threads"},
    {"resume-from-checkpoint", "resume"},
    {"continue", "resume"},
    {"overwrite-output-dir", "overwrite"},
    {"force", "overwrite"},
    {"save-steps", "save-every"},
    {"save-interval", "save-every"},
    {"checkpointing-steps", "save-every"},
    {"logging-steps", "log-every"},
    {"log-steps", "log-every"},
    {"log-interval", "log-every"},
    {"do-eval", "eval-only"},
    {"evaluate", "eval-only"},
    {"eval", "eval-only"},
    {"do-predict", "predict"},
    {"predict-file", "predict"},
    {"test-file", "predict"},
    {"prediction-file", "predictions"},
    {"predictions-file", "predictions"},
};

/// Letters to be added, left out or replaced to make one of the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

void print(const std::string& line) { std::fputs((line + "\n").c_str(), stdout); }

}  // namespace

std::string nearest(std::string name, const std::vector<std::string>& known) {
  name.erase(0, name.find_first_not_of('-'));
  for (char& c : name) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (std::find(known.begin(), known.end(), name) != known.end()) return name;
  for (const auto& [other, ours] : synonyms)
    if (name == other) return std::string(ours);
  for (const auto& method : meft::all_methods())
    if (name == meft::method_name(method)) return "method";
  std::string best;
  std::size_t least = std::max<std::size_t>(name.size() / 3, 1) + 1;
  const auto look = [&](std::string_view written, std::string_view ours) {
    if (const std::size_t d = distance(name, written); d < least) least = d, best = ours;
  };
  for (const auto& flag : known) look(flag, flag);
  for (const auto& [other, ours] : synonyms) look(other, ours);
  if (!best.empty() || name.size() < 3) return best;
  for (const auto& flag : known)  // a beginning
    if (flag.starts_with(name)) return flag;
  return best;
}

std::string in_flags(std::string message) {
  constexpr std::string_view option = "option ";
  const auto known = flag_names();
  for (auto at = message.find(option); at != message.npos; at = message.find(option, at + 1)) {
    const auto name = at + option.size(), end = message.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", name);
    if (std::find(known.begin(), known.end(), message.substr(name, end - name)) != known.end())
      message.replace(at, option.size(), "--");
  }
  return message;
}

void refuse_extras(const CLI::App& app) {
  const auto left = app.remaining();
  if (left.empty()) return;
  const auto flag = std::find_if(left.begin(), left.end(), [](const std::string& s) { return s.starts_with('-'); });
  if (flag == left.end()) throw FlagError("unexpected `" + left.front() + "`: every value stands behind its flag");
  const std::string name = flag->substr(0, flag->find('='));
  const std::string meant = nearest(name, flag_names());
  throw FlagError(name + ": unknown" + (meant.empty() ? "" : "; did you mean --" + meant + "?"));
}

void print_help(const CLI::App& app) {
  const std::size_t width = on_terminal() ? std::max<std::size_t>(terminal_width(), 21) - 1 : 80;
  const auto paragraph = [&](const std::string& text) {
    for (const auto& line : wrapped(text, width, 0)) print(line);
  };
  paragraph(
      "Fine-tunes a checkpoint in Hugging Face form (model_type " + meft::checkpoints::model_types() +
      "), or a GGUF file, on a task, by default reversibly, so that activations are not stored. Writes log.jsonl, "
      "metrics.json, adapter.safetensors and state.safetensors to the output folder.");
  print("");
  paragraph("finetune --model DIR|FILE --task TASK --data DIR|FILE [flags]");
  paragraph("finetune --output DIR --predict FILE|DIR [flags]");
  const std::size_t column = width >= 70 ? 28 : 6;
  std::string group;
  for (const CLI::Option* option : app.get_options()) {
    std::string own = option->get_lnames().empty() ? option->get_name() : "";
    for (const auto& name : option->get_lnames()) own += (own.empty() ? "--" : ", --") + name;
    if (option->get_group() != group) {
      group = option->get_group();
      print("\n" + (group == "Options" ? "Help" : group) + ":");
    }
    const std::string name = "  " + own + (option->get_type_name().empty() ? "" : " " + option->get_type_name());
    const auto about = wrapped(option->get_description(), width - column, 0);
    std::size_t next = 0;
    std::string line = name;
    if (columns(name) + 2 <= column) line += std::string(column - columns(name), ' ') + about[next++];
    if (columns(line) <= width) print(line);
    else
      for (const auto& part : wrapped(line.substr(2), width - 2, 4)) print("  " + part);
    for (; next < about.size(); ++next) print(std::string(column, ' ') + about[next]);
  }
}

}  // namespace finetune
