// Owns: what a test may ask of the emulator beyond CUDA's calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

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

/// The most shared memory that a block of the device may have, 163 KiB by default, as on sm_80.
void set_shared_memory(std::size_t bytes);

/// The last fault's message, empty where there was none since the last cudaDeviceReset.
const char* fault();

/// The cuDNN that is stood in for: its number, 91900 unless the environment variable MEFT_EMULATE_CUDNN says otherwise,
/// what a deterministic backward pass of attention keeps for each score in its workspace, 2 bytes by default, and
/// whether it has a plan for any graph.
void set_dnn_version(std::size_t number);
void set_dnn_bytes_a_score(std::int64_t bytes);
void set_dnn_refuses(bool refuses);

/// How often cuBLASLt's heuristic was asked.
std::uint64_t heuristics_asked();

/// Kernels run and fibre switches made since the program began; how often the host waited for an event that had yet to
/// come; calls of cudaMemcpyAsync; bytes that the pool of cudaMallocAsync gave back to the system when the host waited.
std::uint64_t kernels_run();
std::uint64_t switches_made();
std::uint64_t waits_made();
std::uint64_t copies_made();
std::uint64_t bytes_returned();

/// What was run under a name: launches, bytes of device memory read and written, arithmetic of products.
struct Tally {
  std::uint64_t launches = 0, read = 0, written = 0;
  double operations = 0;
};

/// While it is on, work is counted: of a kernel, a copy or a fill each page of 4 KiB that it touches, once; of cuBLASLt
/// and cuDNN what their arguments say. Products, cuDNN's graphs and mma are not worked out: their results are zero.
void set_counting(bool on);
bool counting();
/// By kernel's name, "copy", "product" and "graph": since counting was last set on.
std::map<std::string, Tally> counts();

}  // namespace emulate
