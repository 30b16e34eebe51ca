// Owns: what a training run tells while it goes. The library prints nothing: a program hands in functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include <meft/train/metric.hpp>

namespace meft::train {

/// After an optimizer step.
struct StepReport {
  std::int64_t epoch = 0, epochs = 0;  // from 1
  std::int64_t step = 0, steps = 0;    // done, of all
  double loss = 0;                     // of the step
  double mean_loss = 0;                // over the epoch so far
  double rate = 0, gradient_norm = 0;
  double sequences_per_second = 0;  // since the run was started or resumed
  double seconds_left = 0;
  std::size_t activation_bytes = 0;  // of the step: its highest batch
};

/// After an epoch's predictions on the dev examples.
struct EpochReport {
  std::int64_t epoch = 0, epochs = 0, step = 0;
  double mean_loss = 0;
  std::vector<Score> scores;
  bool best = false;
};

/// A run that starts at `step` of `steps`.
struct StartReport {
  std::int64_t step = 0, steps = 0, epoch = 0;
  bool resumed = false;
};

struct Observer {
  std::function<void(const StartReport&)> started{};
  std::function<void(const StepReport&)> stepped{};
  std::function<void(const EpochReport&)> evaluated{};
};

}  // namespace meft::train
