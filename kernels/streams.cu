// Owns: the streams of the process, its device's architecture, and uploads ahead: include/meft/backend/cuda/ahead.hpp.
#include <utility>

#include <meft/backend/cuda/ahead.hpp>
#include <stream.cuh>

namespace meft {

namespace cuda {

namespace {

cudaStream_t& current() {
  static cudaStream_t stream = main_stream();
  return stream;
}

/// The stream of copies ahead, and where it meets the main one.
struct Copies {
  cudaStream_t stream = new_stream();
  cudaEvent_t begun = nullptr, done = nullptr;

  Copies() {
    for (cudaEvent_t* event : {&begun, &done})
      check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
};
Copies& copies() {
  static Copies& copies = *new Copies;  // never destroyed, as the device's memory
  return copies;
}

}  // namespace

cudaStream_t new_stream() {
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return made;
}
cudaStream_t main_stream() {
  static const cudaStream_t stream = new_stream();
  return stream;
}
cudaStream_t stream() { return current(); }

int architecture() {
  static const int number = [] {
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    return 10 * major + minor;
  }();
  return number;
}

OnStream::OnStream(cudaStream_t other) : before_(std::exchange(current(), other)) {}
OnStream::~OnStream() { current() = before_; }

}  // namespace cuda

void CudaAhead::begin() { cuda::check(cudaEventRecord(cuda::copies().begun, cuda::main_stream()), "cudaEventRecord"); }

CudaAhead::CudaAhead() : on_(std::make_unique<cuda::OnStream>(cuda::copies().stream)) {
  cuda::check(cudaStreamWaitEvent(cuda::stream(), cuda::copies().begun, 0), "cudaStreamWaitEvent");
}
CudaAhead::~CudaAhead() {
  // An error shows in the next call.
  cudaEventRecord(cuda::copies().done, cuda::stream());
  cudaStreamWaitEvent(cuda::main_stream(), cuda::copies().done, 0);
}

}  // namespace meft
