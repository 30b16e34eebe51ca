// Owns: what the parts of the runtime's stand-in share: the lock, errors, and how work is enqueued.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>

#include "emulate.hpp"
#include "include/cuda_runtime.h"

namespace emulate {

/// Held by every call, and by whoever runs what is enqueued.
std::recursive_mutex& device_mutex();
struct Lock : std::lock_guard<std::recursive_mutex> {
  Lock() : std::lock_guard<std::recursive_mutex>(device_mutex()) {}
};

/// Keeps a code for cudaGetLastError and gives it back.
cudaError_t note(cudaError_t code);
/// The sticky error if there is one: what every call gives after a kernel's fault, until the device is reset.
cudaError_t healthy();
/// From now on every call gives `code`, with this text.
void raise_fault(cudaError_t code, const char* text);

bool valid(cudaStream_t stream);
/// Runs `work` in the stream's order: at once, or under a shuffled schedule at some time before somebody waits for it.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
/// The same, with device memory open; while counting, counted as "copy", or where the caller counts it not at all.
cudaError_t touch_device(cudaStream_t stream, std::function<void()> work, bool counted = false);
/// Adds to what is counted under a name. The caller's work is running: nothing else is.
void count(const std::string& name, const Tally& more);
void count_kernel(const void* kernel);
/// Arithmetic of matrix instructions since the last call, while counting.
std::uint64_t take_operations();
/// Gives device memory back in the stream's order.
cudaError_t enqueue_free(cudaStream_t stream, void* data);
/// The pool of cudaMallocAsync gives back to the system what it holds above its threshold: when somebody waits.
void return_memory();
/// Runs what is enqueued: on one stream and what that waits for, or on all.
cudaError_t finish(cudaStream_t stream);
cudaError_t finish_all();
/// The streams on which memory was freed: nothing waits for the others.
void finish_frees();
/// Runs nothing any more: streams and events stay.
void forget_work();
bool capturing(cudaStream_t stream);
/// Whether any stream captures.
bool capturing();
/// An error while any stream captures: for calls that wait or allocate.
cudaError_t refuse_while_capturing();

}  // namespace emulate
