// Owns: what a run learns and how it is scored, the fingerprints of what it is made from, and the trainer's options.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <meft/data/choice.hpp>
#include <meft/data/image_files.hpp>
#include <meft/data/lines.hpp>
#include <meft/data/task.hpp>
#include <meft/train/trainer.hpp>

#include "flags.hpp"

namespace finetune {

using Stop = std::function<bool()>;

/// What stands for the checkpoint in a state: its weights, configuration and tokenizer.
std::string fingerprint_of_model(const std::string& folder);
std::string fingerprint_of(const meft::data::Dataset& data);
std::string fingerprint_of(const meft::data::ChoiceDataset& data);
std::string fingerprint_of(const meft::data::ImageDataset& data);
std::string fingerprint_of(const meft::data::LineDataset& data);

struct Goal {
  std::string task, model, data;  // the last two are fingerprints
  std::vector<std::string> labels{}, metrics{};
  std::string main_metric{};
  bool pair = false, held_out = false;
};

/// The trainer's options for a run.
meft::train::TrainOptions options_of(const Flags& flags, const Goal& goal, const Stop& stop);

}  // namespace finetune
