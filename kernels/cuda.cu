// Owns: the device, its stream and its memory: what include/meft/backend/cuda/tag.hpp declares.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include <meft/backend/cuda/tag.hpp>
#include <meft/base/mutex.hpp>
#include <recorder.cuh>

namespace meft {

namespace cuda {

namespace {

/// Bytes of a pinned chunk on the way between pageable memory and the device.
constexpr std::size_t chunk = std::size_t{1} << 20;

/// A ring of pinned chunks, filled one after the other: the host waits for the device only where it has come round.
class Staging {
 public:
  Staging() {
    for (auto& c : chunks_) {
      void* data = nullptr;
      check(cudaMallocHost(&data, chunk), "cudaMallocHost");
      c.data = static_cast<std::byte*>(data);
      check(cudaEventCreateWithFlags(&c.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    }
  }

  void upload(std::byte* to, const std::byte* from, std::size_t bytes) {
    const Lock lock(mutex_);
    while (bytes) {
      const std::size_t count = std::min(chunk, bytes);
      Chunk& c = chunk_for(count);
      std::memcpy(c.data + c.used, from, count);
      enqueue(c, to, c.data + c.used, count, cudaMemcpyHostToDevice);
      to += count, from += count, bytes -= count;
    }
  }

  void download(std::byte* to, const std::byte* from, std::size_t bytes) {
    const Lock lock(mutex_);
    struct Part {
      const Chunk* chunk;
      const std::byte* data;
      std::size_t count;
    } next{};
    const auto begin = [&](std::size_t at) {
      const std::size_t count = std::min(chunk, bytes - at);
      Chunk& c = chunk_for(count);
      next = {&c, c.data + c.used, count};
      enqueue(c, c.data + c.used, from + at, count, cudaMemcpyDeviceToHost);
    };
    begin(0);
    for (std::size_t at = 0; at < bytes; at += chunk) {
      const Part part = next;
      if (at + chunk < bytes) begin(at + chunk);
      check(cudaEventSynchronize(part.chunk->done), "cudaEventSynchronize");
      std::memcpy(to + at, part.data, part.count);
    }
  }

 private:
  struct Chunk {
    std::byte* data = nullptr;
    std::size_t used = 0;
    cudaStream_t by = nullptr;   // the one stream whose copies use it
    cudaEvent_t done = nullptr;  // its last copy
  };

  /// The chunk that has room for so many bytes.
  Chunk& chunk_for(std::size_t count) {
    if (Chunk& now = chunks_[turn_]; now.used + count <= chunk && now.by == stream()) return now;
    turn_ = (turn_ + 1) % std::size(chunks_);
    Chunk& next = chunks_[turn_];
    check(cudaEventSynchronize(next.done), "cudaEventSynchronize");
    next.used = 0;
    next.by = stream();
    return next;
  }
  void enqueue(Chunk& c, void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    constexpr std::size_t grain = 64;
    check(cudaMemcpyAsync(to, from, bytes, kind, stream()), "cudaMemcpyAsync");
    check(cudaEventRecord(c.done, stream()), "cudaEventRecord");
    c.used = std::min(chunk, c.used + (bytes + grain - 1) / grain * grain);
  }

  Mutex mutex_;
  Chunk chunks_[8];
  std::size_t turn_ = 0;
};

// Neither is ever destroyed: tensors may outlive main, and CUDA may be gone by then.
Staging& staging() {
  static Staging& staging = *new Staging;
  return staging;
}

/// What the pool gives back stays with the process: the driver would return it to the system whenever the host waits.
void keep_memory() {
  int device = 0;
  cudaMemPool_t pool = nullptr;
  std::uint64_t all = ~std::uint64_t{0};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "cudaMemPoolSetAttribute");
}

void* allocate(std::size_t bytes) {
  static const bool kept = (keep_memory(), true);
  (void)kept;
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
  // Behind the work that may still use it, also while uploads go ahead of that; all of it is done where a recording is
  // made. From destructors: an error shows in the next call.
  cudaFreeAsync(data, capturing() ? stream() : main_stream());
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
void Cuda::follow(void* to, std::size_t bytes, std::function<void(void*)> fill) {
  if (!bytes) return;
  if (cuda::Recorder* const r = cuda::recorder()) return r->follow(to, bytes, std::move(fill));
  std::vector<std::byte> now(bytes);
  fill(now.data());
  upload(to, now.data(), bytes);
}
void Cuda::check_later(std::function<bool()> check) { cuda::recorder()->settled.push_back(std::move(check)); }
void Cuda::read_later(const void* from, std::size_t bytes, std::function<void(const void*)> then) {
  cuda::recorder()->read(from, bytes, std::move(then));
}
bool Cuda::recording() { return cuda::recorder() != nullptr; }
std::uint64_t Cuda::recording_number() { return recording() ? cuda::recorder()->number : 0; }
void Cuda::synchronize() {
  if (cuda::Recorder* const r = cuda::recorder()) r->refuse("Cuda::synchronize");
  cuda::check(cudaStreamSynchronize(cuda::stream()), "cudaStreamSynchronize");
}

}  // namespace meft
