// Owns: one run of the fine-tuner, of whichever family the checkpoint is.
#pragma once

#include <functional>

#include <meft/backend/backend.hpp>

#include "flags.hpp"

namespace finetune {

/// Trains, or uses what a run left. `stop()` true asks to save and end; then false is given.
bool run(Flags flags, const std::function<bool()>& stop);

/// The same on a known device.
template <meft::Backend B>
bool run_on(Flags flags, const std::function<bool()>& stop);

}  // namespace finetune
