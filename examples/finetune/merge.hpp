// Owns: what is refused and said of a merged model's folder; run.hpp makes it.
#pragma once

#include <string>
#include <vector>

#include "flags.hpp"

namespace finetune {

/// Refuses a method that does not merge, and the run's own folder. The model is then loaded in float32, whatever it was
/// trained in.
void check_merge(Flags& flags);
void say_merged(const Flags& flags, const std::vector<std::string>& files);

}  // namespace finetune
