// Owns: what the program does with its flags: train, score or predict.
#pragma once

#include <functional>

#include "flags.hpp"

namespace finetune {

/// False when `stop` ended it early, with the state saved. Throws FlagError and meft::Error.
bool run(Flags flags, const std::function<bool()>& stop);

}  // namespace finetune
