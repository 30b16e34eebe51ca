// Owns: one run of the fine-tuner, of whichever family the checkpoint is.
#pragma once

#include <functional>

#include "flags.hpp"

namespace finetune {

/// Trains, or uses what a run left. `stop()` true asks to save and end; then false is given.
bool run(Flags flags, const std::function<bool()>& stop);

/// The same for a known family: one of those that run_FAMILY.cpp instantiates.
template <class Model>
bool run_as(Flags flags, const std::function<bool()>& stop);

}  // namespace finetune
