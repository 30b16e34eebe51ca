// Owns: which backends the fine-tuner was built with: those of a build with the target meft::cuda, or the CPU alone.
#pragma once

#include <meft/backend/cpu/cpu.hpp>
#ifdef MEFT_CUDA
#include <meft/cuda.hpp>
#endif
