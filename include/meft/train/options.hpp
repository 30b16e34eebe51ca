// Owns: the options of a training run. Must not know: how training goes, and what a command line calls them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <meft/io/json.hpp>
#include <meft/io/safetensors.hpp>
#include <meft/method/option.hpp>
#include <meft/optim/schedule.hpp>
#include <meft/tensor/ragged.hpp>
#include <meft/train/optimizers.hpp>

namespace meft::train {

/// How many examples are scored at a time, at most: no more than a training batch has, so that it needs no more memory
/// (see task::end_of_pass).
constexpr std::size_t scored_at_once(std::size_t batch) { return batch < 32 ? batch : 32; }

/// What trains is chosen anew in the course of a run: by choose(), false when stopped, each time that `every` steps
/// were done; or as a file of the run has it.
struct Renewal {
  std::int64_t every = 0;  // 0: never
  std::function<bool()> choose{};
  std::function<void(const io::Safetensors&)> choose_as_in{};

  /// Whether others train in the step behind `steps`.
  bool due(std::int64_t steps) const { return every > 0 && steps > 0 && steps % every == 0; }
  /// How many steps were done when what trained in the last of `steps` was chosen.
  std::int64_t last(std::int64_t steps) const { return std::max<std::int64_t>(0, steps - 1) / every * every; }
};

/// What the operations of a batch follow from: its sequences, among them as the last the `answers` that a decoder
/// gives; or its images; the words that it predicts.
struct BatchSizes {
  Offsets tokens{}, answers{};
  Index images = 0, height = 0, width = 0, words = 0;
};

/// How a run goes, and where its files lie. The trainer throws for what is out of range.
struct TrainOptions {
  std::size_t batch = 16, accumulate = 1;  // sequences a batch, batches a step
  std::int64_t epochs = 3;
  std::int64_t max_steps = 0;  // 0: all steps of the epochs
  AnyOptimizer optimizer = optim::AdamW{.rate = 5e-4, .decay = 0.1, .clip = 1.0};
  double warmup = 0.06;  // share of the steps
  Schedule schedule = Schedule::linear;
  std::uint64_t seed = 0;
  std::vector<std::string> metrics{"accuracy"};
  std::string main_metric = "accuracy";

  std::string folder{};                              // of the files below, made when missing; empty: none is written
  nlohmann::json run = nlohmann::json::object();     // the options that make the run; a state of another is refused
  nlohmann::json config = nlohmann::json::object();  // goes into adapter.safetensors
  std::vector<std::string> may_change{};             // names in `run` that a resumed run may have otherwise
  bool resume = false;                               // from the folder's state; a folder without a run begins one
  bool overwrite = false;                            // a run that is in the folder is removed
  std::size_t recordings = 32;                       // of steps on a device, at most; 0: none, batches as they are
  std::int64_t log_every = 10;                       // steps
  std::int64_t save_steps = 0;                       // save the state every so many steps; 0: never
  double save_seconds = 60;                          // and every so many seconds; 0: never
  Renewal renewal{};                                 // see train/prepare.hpp
  std::function<double(const BatchSizes&)>
      light{};                   // seconds that a batch's products need (train/light.hpp); may be empty
  std::function<bool()> stop{};  // asked between batches; true: save and return

  /// Of the rate in the step behind `step` of `steps`.
  double factor(std::int64_t step, std::int64_t steps) const {
    const auto rises = static_cast<std::int64_t>(std::ceil(warmup * static_cast<double>(steps)));
    return schedule == Schedule::constant && step >= rises ? 1.0 : optim::linear_schedule(step, rises, steps);
  }
};

}  // namespace meft::train
