// Owns: what a test may ask of the emulator beyond CUDA's calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulate {

/// The order in which threads, blocks and streams take their turns: 0, the default unless the environment variable
/// MEFT_EMULATE_SEED says otherwise, is the natural one; any other number is a shuffled one of its own.
void set_seed(std::uint64_t seed);
std::uint64_t seed();

/// How many OS threads share a kernel's blocks; 0 means as many as there are processors, at most 8.
void set_workers(unsigned count);

/// The device's memory in bytes, of which no more than 8 GiB are given by default.
void set_device_capacity(std::size_t bytes);
std::size_t device_bytes_in_use();

/// The last fault's message, empty where there was none since the last cudaDeviceReset.
const char* fault();

/// Kernels run and fibre switches made since the program began.
std::uint64_t kernels_run();
std::uint64_t switches_made();

}  // namespace emulate
