// Owns: what the parts of the runtime's stand-in share: the lock, errors, and how work is enqueued.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>

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
/// The same, with device memory open.
cudaError_t touch_device(cudaStream_t stream, std::function<void()> work);
/// Runs what is enqueued: on one stream and what that waits for, or on all.
cudaError_t finish(cudaStream_t stream);
cudaError_t finish_all();
/// Runs nothing any more: streams and events stay.
void forget_work();
bool capturing(cudaStream_t stream);
/// An error while any stream captures: for calls that wait or allocate.
cudaError_t refuse_while_capturing();

}  // namespace emulate
