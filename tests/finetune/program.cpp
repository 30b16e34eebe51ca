// Owns: the fine-tuner as one of the programs of its group. What does not depend on the device is finetune_program.
#include "../../examples/finetune/run_cpu.cpp"
#include "../../examples/finetune/session.cpp"
#include "../programs.hpp"

int finetune_main(int, char**);

[[maybe_unused]] static const bool is_finetune = (test::programs().push_back({"finetune", finetune_main}), true);
