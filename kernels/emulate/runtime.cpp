// Owns: the calls of CUDA's runtime under emulation that concern errors, the device, memory and kernels.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "emulate.hpp"
#include "engine.hpp"
#include "include/cuda_runtime.h"
#include "memory.hpp"
#include "runtime.hpp"

namespace emulate {
namespace {

constexpr std::size_t plain_shared_bytes = 48 << 10;

struct Device {
  std::recursive_mutex mutex;
  cudaError_t sticky = cudaSuccess;  // a kernel's fault: every call gives it until the device is reset
  char fault[1024] = "";
  std::size_t most_shared_bytes = 163 << 10;  // of sm_80
  std::map<const void*, int> shared_limit;    // by kernel
  std::map<const char*, std::size_t> pinned;
  std::uint64_t copies = 0;
  std::uint64_t threshold = 0, kept = 0, returned = 0;  // bytes of cudaMallocAsync's pool: free, and given back
};

/// Never destroyed, as device memory is not.
Device& device() {
  static Device& one = *new Device;
  return one;
}

thread_local cudaError_t last_error = cudaSuccess;

struct Name {
  cudaError_t code;
  const char *name, *text;
};
constexpr Name names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidSymbol, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capture was not joined with its first stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

bool pinned(const void* data, std::size_t bytes) {
  const auto& blocks = device().pinned;
  auto it = blocks.upper_bound(static_cast<const char*>(data));
  if (it == blocks.begin()) return false;
  --it;
  return static_cast<const char*>(data) + bytes <= it->first + it->second;
}

/// Whether the direction fits where the two ranges lie, as far as the ranges say.
cudaError_t check_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = is_device_address(to), from_device = is_device_address(from);
  if (to_device && !is_device_range(to, bytes)) return cudaErrorInvalidValue;
  if (from_device && !is_device_range(from, bytes)) return cudaErrorInvalidValue;
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (kind != cudaMemcpyDefault && (wants_to != to_device || wants_from != from_device)) return cudaErrorInvalidValue;
  return cudaSuccess;
}

}  // namespace

std::recursive_mutex& device_mutex() { return device().mutex; }

cudaError_t note(cudaError_t code) {
  if (code != cudaSuccess && code != cudaErrorNotReady) last_error = code;
  return code;
}

cudaError_t healthy() { return note(device().sticky); }

void raise_fault(cudaError_t code, const char* text) {
  Device& d = device();
  if (d.sticky != cudaSuccess) return;
  d.sticky = code;
  const char* general = "unknown error";
  for (const Name& entry : names)
    if (entry.code == code) general = entry.text;
  std::snprintf(d.fault, sizeof d.fault, "%s: %s", general, text);
}

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> body) {
  Lock lock;
  const dim3 g = config.gridDim, b = config.blockDim;
  if (!kernel) return note(cudaErrorInvalidDeviceFunction);
  if (device().sticky != cudaSuccess) return healthy();
  if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z || g.x > 0x7FFFFFFFu || g.y > 65535 || g.z > 65535 || b.x > 1024 ||
      b.y > 1024 || b.z > 64 || std::uint64_t{b.x} * b.y * b.z > 1024)
    return note(cudaErrorInvalidConfiguration);
  const auto limit = device().shared_limit.find(kernel);
  const std::size_t most = limit == device().shared_limit.end()
                               ? plain_shared_bytes
                               : std::max(plain_shared_bytes, static_cast<std::size_t>(limit->second));
  if (config.dynamicSmemBytes > std::min(most, device().most_shared_bytes)) return note(cudaErrorInvalidValue);
  return enqueue(config.stream, [grid = g, block = b, bytes = config.dynamicSmemBytes, kernel, body = std::move(body)] {
    char text[1024];
    const Fault fault = run_grid({grid, block, bytes, kernel, &body}, text, sizeof text);
    if (fault == Fault::address) raise_fault(cudaErrorIllegalAddress, text);
    else if (fault != Fault::none) raise_fault(cudaErrorLaunchFailure, text);
  });
}

cudaError_t copy_to_symbol(const void* symbol, std::size_t size, const void* from, std::size_t bytes,
                           std::size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock;
  if (!from || offset > size || bytes > size - offset) return note(cudaErrorInvalidValue);
  const bool device = is_device_address(from);
  if (kind != cudaMemcpyDefault && kind != (device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice))
    return note(cudaErrorInvalidMemcpyDirection);
  if (device && !is_device_range(from, bytes)) return note(cudaErrorInvalidValue);
  char* to = static_cast<char*>(const_cast<void*>(symbol)) + offset;
  if (device) return touch_device(stream, [=] { std::memcpy(to, from, bytes); });
  std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  return touch_device(stream, [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); });
}

void return_memory() {
  Device& d = device();
  const std::uint64_t over = d.kept > d.threshold ? d.kept - d.threshold : 0;
  d.kept -= over;
  d.returned += over;
}
std::uint64_t copies_made() { return device().copies; }
std::uint64_t bytes_returned() { return device().returned; }

const char* fault() { return device().fault; }
void set_shared_memory(std::size_t bytes) { device().most_shared_bytes = bytes; }

}  // namespace emulate

using namespace emulate;

// --- errors and the device ---

const char* cudaGetErrorName(cudaError_t code) {
  for (const Name& entry : names)
    if (entry.code == code) return entry.name;
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t code) {
  const Device& d = device();
  if (code == d.sticky && code != cudaSuccess) return d.fault;
  for (const Name& entry : names)
    if (entry.code == code) return entry.text;
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const cudaError_t code = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return code;
}
cudaError_t cudaPeekAtLastError() { return device().sticky != cudaSuccess ? device().sticky : last_error; }

cudaError_t cudaGetDevice(int* number) {
  if (!number) return note(cudaErrorInvalidValue);
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) { return note(number == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaDeviceSynchronize() {
  Lock lock;
  if (const cudaError_t code = refuse_while_capturing(); code != cudaSuccess) return code;
  const cudaError_t code = finish_all();
  return_memory();
  return code;
}
cudaError_t cudaDeviceReset() {
  Lock lock;
  forget_work();
  Device& d = device();
  d.sticky = last_error = cudaSuccess;
  d.fault[0] = 0;
  d.shared_limit.clear();
  reset_device_memory();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  if (number != 0) return note(cudaErrorInvalidDevice);
  if (!value) return note(cudaErrorInvalidValue);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = plain_shared_bytes; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;  // with the shared memory of 8.0
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(device().most_shared_bytes); break;
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default: return note(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  if (number != 0) return note(cudaErrorInvalidDevice);
  if (!properties) return note(cudaErrorInvalidValue);
  *properties = {
      "host emulation", device_capacity(), plain_shared_bytes, device().most_shared_bytes, 8, 0, 4, 32, 1024};
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Lock lock;
  if (!function) return note(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      value > static_cast<int>(device().most_shared_bytes))
    return note(cudaErrorInvalidValue);
  device().shared_limit[function] = value;
  return healthy();
}

// --- memory ---

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  Lock lock;
  if (!data) return note(cudaErrorInvalidValue);
  *data = nullptr;
  if (const cudaError_t code = refuse_while_capturing(); code != cudaSuccess) return code;
  if (device().sticky != cudaSuccess) return healthy();
  if (!bytes) return cudaSuccess;
  *data = allocate_device(bytes);
  return *data ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* data) {
  Lock lock;
  if (!data) return healthy();
  if (const cudaError_t code = refuse_while_capturing(); code != cudaSuccess) return code;
  finish_all();
  if (!free_device(data)) return note(cudaErrorInvalidValue);
  return healthy();
}
cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream) {
  Lock lock;
  if (!valid(stream)) return note(cudaErrorInvalidResourceHandle);
  if (capturing(stream)) return note(cudaErrorNotSupported);  // a device would record it
  if (!data) return note(cudaErrorInvalidValue);
  *data = nullptr;
  if (device().sticky != cudaSuccess) return healthy();
  if (!bytes) return cudaSuccess;
  *data = allocate_device(bytes);
  if (!*data) {  // what is yet to be freed may be enough
    finish_frees();
    *data = allocate_device(bytes);
  }
  if (*data) device().kept -= std::min<std::uint64_t>(device().kept, bytes);
  return *data ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  Lock lock;
  if (!data) return note(cudaErrorInvalidValue);
  const Allocation* found = find_allocation(data);
  if (!found || !found->alive || found->data != data) return note(cudaErrorInvalidValue);
  if (capturing(stream)) return note(cudaErrorNotSupported);
  device().kept += found->bytes;
  return enqueue_free(stream, data);
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  Lock lock;
  if (!data) return note(cudaErrorInvalidValue);
  *data = nullptr;
  if (!bytes) return healthy();
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* p = nullptr;
  if (posix_memalign(&p, page, bytes) != 0) return note(cudaErrorMemoryAllocation);
  std::memset(p, poison_byte, bytes);
  device().pinned[static_cast<char*>(p)] = bytes;
  *data = p;
  return healthy();
}
cudaError_t cudaFreeHost(void* data) {
  Lock lock;
  if (!data) return healthy();
  if (!device().pinned.count(static_cast<char*>(data))) return note(cudaErrorInvalidValue);
  if (const cudaError_t code = refuse_while_capturing(); code != cudaSuccess) return code;
  finish_all();
  device().pinned.erase(static_cast<char*>(data));
  std::free(data);
  return healthy();
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int number) {
  if (number != 0) return note(cudaErrorInvalidDevice);
  if (!pool) return note(cudaErrorInvalidValue);
  *pool = reinterpret_cast<cudaMemPool_t>(&device());
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  if (!pool || !value || attribute != cudaMemPoolAttrReleaseThreshold) return note(cudaErrorInvalidValue);
  std::memcpy(&device().threshold, value, sizeof device().threshold);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  Lock lock;
  ++device().copies;
  if (!bytes) return valid(stream) ? healthy() : note(cudaErrorInvalidResourceHandle);
  if (!to || !from) return note(cudaErrorInvalidValue);
  if (const cudaError_t code = check_copy(to, from, bytes, kind); code != cudaSuccess) return note(code);
  const bool from_pageable = !is_device_address(from) && !pinned(from, bytes);
  const bool to_pageable = !is_device_address(to) && !pinned(to, bytes);
  if (from_pageable && !capturing(stream)) {  // the call returns when it has read the memory
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return touch_device(stream, [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); });
  }
  const cudaError_t code = touch_device(stream, [=] { std::memmove(to, from, bytes); });
  return code == cudaSuccess && to_pageable && !capturing(stream) ? finish(stream) : code;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  Lock lock;
  if (const cudaError_t code = refuse_while_capturing(); code != cudaSuccess) return code;
  const cudaError_t code = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return code != cudaSuccess ? code : finish(nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  Lock lock;
  if (!bytes) return valid(stream) ? healthy() : note(cudaErrorInvalidResourceHandle);
  if (!is_device_range(to, bytes) && !pinned(to, bytes)) return note(cudaErrorInvalidValue);
  return touch_device(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }
