// Owns: the fine-tuner for --device cuda alone, as one of the programs of its group.
#include <meft/backend/device.hpp>

#include "../../examples/finetune/session.hpp"

template <>
bool finetune::run_on<meft::Cpu>(Flags, const std::function<bool()>&) {
  meft::fail("device: expected cuda, which is all that this program has");
}

#include "../../examples/finetune/run_cuda.cpp"
#include "../../examples/finetune/session.cpp"
#include "../programs.hpp"

int finetune_main(int, char**);

[[maybe_unused]] static const bool is_finetune = (test::programs().push_back({"finetune_device", finetune_main}), true);
