// Owns: the table of a run's memory.
#pragma once

#include <string>

#include <meft/train/memory.hpp>

namespace finetune {

/// Prints it: MiB by use, `when` of at most 8 characters in front; in a terminal below 80 columns one use a line.
void say_memory(const std::string& when, const meft::train::MemoryReport& memory);

}  // namespace finetune
