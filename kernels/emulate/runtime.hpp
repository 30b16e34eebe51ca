// Owns: how other stand-ins (cuBLASLt) enqueue their work and report faults.
#pragma once

#include <functional>

#include "include/cuda_runtime.h"

namespace emulate {

/// Runs `work` on the stream, with device memory open.
cudaError_t touch_device(cudaStream_t stream, const std::function<void()>& work);
cudaError_t enqueue(cudaStream_t stream, const std::function<void()>& work);
/// From now on every call gives `code`, with this text.
void raise_fault(cudaError_t code, const char* text);

}  // namespace emulate
