// Owns: the device, its stream and its memory: what include/meft/backend/cuda/tag.hpp declares.
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include <meft/backend/cuda/tag.hpp>
#include <meft/base/mutex.hpp>
#include <recorder.cuh>

namespace meft {

namespace cuda {

namespace {

/// Bytes that are staged at once on their way between pageable memory and the device.
constexpr std::size_t chunk = std::size_t{1} << 20;

/// Two pinned chunks: while the device copies one, the host fills or empties the other.
class Staging {
 public:
  Staging() {
    for (int i = 0; i < 2; ++i) {
      check(cudaMallocHost(&chunks_[i], chunk), "cudaMallocHost");
      check(cudaEventCreateWithFlags(&done_[i], cudaEventDisableTiming), "cudaEventCreateWithFlags");
    }
  }

  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    const Lock lock(mutex_);
    int turn = 0;
    for (std::size_t at = 0; at < bytes; at += chunk, turn ^= 1) {
      const std::size_t count = std::min(chunk, bytes - at);
      check(cudaEventSynchronize(done_[turn]), "cudaEventSynchronize");  // the copy that used this chunk last
      std::memcpy(chunks_[turn], from + at, count);
      enqueue(to + at, chunks_[turn], count, cudaMemcpyHostToDevice, turn);
    }
  }

  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    const Lock lock(mutex_);
    std::size_t count[2];
    const auto begin = [&](std::size_t at, int turn) {
      count[turn] = std::min(chunk, bytes - at);
      enqueue(chunks_[turn], from + at, count[turn], cudaMemcpyDeviceToHost, turn);
    };
    int turn = 0;
    begin(0, turn);
    for (std::size_t at = 0; at < bytes; at += chunk, turn ^= 1) {
      if (at + chunk < bytes) begin(at + chunk, turn ^ 1);
      check(cudaEventSynchronize(done_[turn]), "cudaEventSynchronize");
      std::memcpy(to + at, chunks_[turn], count[turn]);
    }
  }

 private:
  void enqueue(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, int turn) {
    check(cudaMemcpyAsync(to, from, bytes, kind, stream()), "cudaMemcpyAsync");
    check(cudaEventRecord(done_[turn], stream()), "cudaEventRecord");
  }

  Mutex mutex_;
  void* chunks_[2]{};
  cudaEvent_t done_[2]{};
};

// Neither is ever destroyed: tensors may outlive main, and CUDA may be gone by then.
Staging& staging() {
  static Staging& staging = *new Staging;
  return staging;
}

void* allocate(std::size_t bytes) {
  void* data = nullptr;
  std::optional<Aside> aside;  // recorded work has its memory before it runs
  if (recorder()) aside.emplace();
  const cudaError_t code = cudaMallocAsync(&data, bytes, stream());
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is told by the null
    return nullptr;
  }
  check(code, "cudaMallocAsync");
  return data;
}
void release(void* data, std::size_t) {
  std::optional<Aside> aside;
  if (recorder()) aside.emplace();
  cudaFreeAsync(data, stream());  // from destructors: an error shows in the next call
}

}  // namespace

}  // namespace cuda

Pool& Cuda::pool() {
  static Pool& pool = *new Pool(name, cuda::allocate, cuda::release);
  return pool;
}

void Cuda::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes) cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda::stream()), "cudaMemcpyAsync");
}
void Cuda::zero(void* to, std::size_t bytes) {
  if (bytes) cuda::check(cudaMemsetAsync(to, 0, bytes, cuda::stream()), "cudaMemsetAsync");
}
void Cuda::upload(void* to, const void* from, std::size_t bytes) {
  if (!bytes) return;
  if (cuda::Recorder* const r = cuda::recorder()) return r->upload(to, from, bytes);
  cuda::staging().upload(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}
void Cuda::download(void* to, const void* from, std::size_t bytes) {
  if (!bytes) return;
  if (cuda::Recorder* const r = cuda::recorder()) r->refuse("Cuda::download");
  cuda::staging().download(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}
void Cuda::read_later(const void* from, std::size_t bytes, std::function<void(const void*)> then) {
  cuda::recorder()->read(from, bytes, std::move(then));
}
bool Cuda::recording() { return cuda::recorder() != nullptr; }
void Cuda::synchronize() {
  if (cuda::Recorder* const r = cuda::recorder()) r->refuse("Cuda::synchronize");
  cuda::check(cudaStreamSynchronize(cuda::stream()), "cudaStreamSynchronize");
}

}  // namespace meft
