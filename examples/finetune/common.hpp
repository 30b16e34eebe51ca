// Owns: what runs of every family and task share: fingerprints, the folder's lock, what is said, the files written.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <meft/data/choice.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/task.hpp>
#include <meft/io/file.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/train/hf.hpp>
#include <meft/train/learner.hpp>
#include <meft/train/trainer.hpp>

#include "flags.hpp"

namespace finetune {

using Stop = std::function<bool()>;

/// What stands for the checkpoint in a state: its weights, configuration and tokenizer.
std::string fingerprint_of_model(const std::string& folder);
std::string fingerprint_of(const meft::data::Dataset& data);
std::string fingerprint_of(const meft::data::ChoiceDataset& data);
std::string fingerprint_of(const meft::data::ImageDataset& data);
std::string fingerprint_of(const std::vector<std::string>& train, const std::vector<std::string>& dev);

/// The one process that writes a folder. Ends with it.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);

 private:
  meft::Descriptor fd_;
};

/// What a run learns and how it is scored.
struct Goal {
  std::string task, model, data;  // the last two are fingerprints
  std::vector<std::string> labels{}, metrics{};
  std::string main_metric{};
  bool pair = false, held_out = false;
};

/// The trainer's options for a run. Refuses a folder that holds another one.
meft::train::TrainOptions options_of(const Flags& flags, const Goal& goal, const Stop& stop);

void say_loaded(const meft::train::LoadReport& report);
/// Trained parameters, weights, gradients and moments, expected activation.
void say_cost(const std::string& name, meft::Index trained, double weight_bytes, double activation_bytes);
void say_outcome(const Flags& flags, const meft::train::Outcome& outcome, std::int64_t steps);

/// What an earlier run left in the output folder; its options are taken over into `flags`.
struct Earlier {
  meft::io::Safetensors saved;
  std::vector<std::string> labels;
  bool pair = false;
};
Earlier earlier_run(Flags& flags);

/// `label`, then a probability a class; `value` of a regression. One row an input row.
std::string table_of(const meft::train::Predictions& predictions, const std::vector<std::string>& names);

}  // namespace finetune
