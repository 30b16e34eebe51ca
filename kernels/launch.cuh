// Owns: how a kernel is launched and how a call of the CUDA runtime is checked. `launch` takes the place of <<<>>>, so
// that the same source compiles with nvcc and, against emulate/include, with the host's compiler.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <utility>

#include <meft/base/error.hpp>

namespace meft::cuda {

/// Throws Error with the call's name and CUDA's name, code and text unless `code` is success.
inline void check(cudaError_t code, const char* call, Where where = Where::current()) {
  if (code == cudaSuccess) [[likely]]
    return;
  std::string text = "cuda: ";
  text += call;
  text += ": ";
  text += cudaGetErrorName(code);
  text += " (" + std::to_string(static_cast<int>(code)) + "): ";
  text += cudaGetErrorString(code);
  throw Error(std::move(text), where);
}

/// Dynamic shared memory that a kernel may have without asking for it by name, in bytes: of the 48 KiB that it may have
/// in all, 8 are left to what it declares.
inline constexpr std::size_t plain_shared_bytes = 40 * 1024;

/// Enqueues kernel(args…) on the stream: `grid` blocks of `block` threads, each block with `shared_bytes` of dynamic
/// shared memory. Throws Error when the launch is refused; errors of the running kernel show in a later call.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Arguments&&... args) {
  if (shared_bytes > plain_shared_bytes)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(args)...), "cudaLaunchKernelEx");
}

/// The block's dynamic shared memory, aligned to 16 bytes. Every call in a kernel gives the same memory.
template <class T>
__device__ inline T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#else
  return static_cast<T*>(emulate::dynamic_shared());
#endif
}

}  // namespace meft::cuda
