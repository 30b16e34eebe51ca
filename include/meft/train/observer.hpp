// Owns: what a training run tells while it goes. The library prints nothing: a program hands in functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <meft/method/option.hpp>
#include <meft/reversible/range.hpp>
#include <meft/task/metric.hpp>
#include <meft/train/memory.hpp>

namespace meft::train {

/// After an optimizer step.
struct StepReport {
  std::int64_t epoch = 0, epochs = 0;  // from 1
  std::int64_t step = 0, steps = 0;    // done, of all
  double loss = 0;                     // of the step
  double mean_loss = 0;                // over the epoch so far
  double rate = 0, gradient_norm = 0;
  double sequences_per_second = 0;  // since the run was started or resumed
  double light = 0;                 // share of that time in which its products could be done; 0: not known
  double seconds_left = 0;
  std::size_t activation_bytes = 0;       // of the step: its highest batch
  std::size_t peak_activation_bytes = 0;  // of the steps since the run was started or resumed: the highest
  MemoryReport memory{};                  // highest of those steps
};

/// After an epoch's predictions on the dev examples.
struct EpochReport {
  std::int64_t epoch = 0, epochs = 0, step = 0;
  double mean_loss = 0;
  std::vector<task::Score> scores;
  bool best = false;
};

/// A step, or the scoring behind it, in which a value left its stream's range: it is done again.
struct RangeReport {
  std::int64_t step = 0;
  Widened by{};
};

/// An option that a resumed run does not have as it was.
struct Change {
  std::string name, before, now;
};

/// A run that starts at `step` of `steps`, in `epoch`, from 1.
struct StartReport {
  std::int64_t step = 0, steps = 0, epoch = 0;
  bool resumed = false;
  bool nothing_to_resume = false;  // it was asked for, but the folder holds no run: this is a new one
  std::vector<Change> changed{};   // from here on the bits are not those of an undisturbed run
  double rate = 0;                 // of the coming step
  Schedule schedule = Schedule::linear;
};

/// A step whose numbers went where no gradient is. The message says which step and what is kept; `trained` false:
/// nothing was learned before, so that the weights, the data or the method's options are the cause; true: it diverged.
/// What failed is nested in it, as a StreamError.
class StepError : public NumberError {
 public:
  std::int64_t step, kept;  // that failed, from 1; of the state in the run's folder, -1: there is none
  bool trained;

  StepError(std::string message, std::int64_t at_step, std::int64_t kept_step, bool was_trained, Where where)
      : NumberError(std::move(message), where), step(at_step), kept(kept_step), trained(was_trained) {}
};

/// Functions that a run calls, each may be empty: at its start, after a step, an epoch, a wider range.
struct Observer {
  std::function<void(const StartReport&)> started{};
  std::function<void(const StepReport&)> stepped{};
  std::function<void(const EpochReport&)> evaluated{};
  std::function<void(const RangeReport&)> widened{};
  std::function<void(std::size_t done, std::size_t of)> scoring{};  // dev examples, before each batch of them
};

}  // namespace meft::train
