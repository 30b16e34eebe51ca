// Owns: recordings: include/meft/backend/cuda/recording.hpp.
#include <algorithm>
#include <cstring>
#include <utility>

#include <moving_key.cuh>
#include <recorder.cuh>

namespace meft {

namespace cuda {

namespace {

Recorder*& current() {
  static Recorder* recorder = nullptr;
  return recorder;
}

bool& begun() {
  static bool captures = false;
  return captures;
}

/// Recordings that live: the last one gives their memory back.
int& alive() {
  static int count = 0;
  return count;
}

cudaStream_t aside() {
  static const cudaStream_t stream = new_stream();
  return stream;
}

}  // namespace

Recorder* recorder() { return current(); }
bool capturing() { return begun(); }

bool later(std::function<void()> choose) {
  if (current()) current()->missing.push_back(std::move(choose));
  return current();
}

std::uint32_t* steps_later() {
  static std::uint32_t* const later = [] {
    void* data = nullptr;
    const Aside aside;  // the first key may be a recorded one
    check(cudaMallocAsync(&data, sizeof(std::uint32_t), stream()), "cudaMallocAsync");
    check(cudaMemsetAsync(data, 0, sizeof(std::uint32_t), stream()), "cudaMemsetAsync");
    return static_cast<std::uint32_t*>(data);
  }();
  return later;
}

Aside::Aside() : before_(std::exchange(current(), nullptr)), on_(aside()) {}
Aside::~Aside() {
  cudaStreamSynchronize(stream());  // an error shows in the next call
  current() = before_;
}

Pinned::~Pinned() {
  for (void* chunk : chunks_) cudaFreeHost(chunk);
}
std::byte* Pinned::take(std::size_t bytes) {
  constexpr std::size_t chunk = std::size_t{1} << 20, grain = 64;
  bytes = (bytes + grain - 1) / grain * grain;
  if (used_ + bytes > size_) {
    void* made = nullptr;
    size_ = std::max(chunk, bytes);
    check(cudaMallocHost(&made, size_), "cudaMallocHost");
    chunks_.push_back(made);
    used_ = 0;
  }
  return static_cast<std::byte*>(chunks_.back()) + std::exchange(used_, used_ + bytes);
}

bool Recorder::is_input(const void* data) const {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  return std::any_of(inputs.begin(), inputs.end(), [&](const Recording::Input& input) {
    const auto begin = reinterpret_cast<std::uintptr_t>(input.data);
    return begin <= at && at < begin + input.bytes;
  });
}
void Recorder::upload(void* to, const void* from, std::size_t bytes) {
  std::byte* const kept = pinned.take(bytes);
  std::memcpy(kept, from, bytes);
  check(cudaMemcpyAsync(to, kept, bytes, cudaMemcpyHostToDevice, stream()), "cudaMemcpyAsync");
}
void Recorder::follow(void* to, std::size_t bytes, std::function<void(void*)> fill) {
  std::byte* const kept = pinned.take(bytes);
  fill(kept);
  check(cudaMemcpyAsync(to, kept, bytes, cudaMemcpyHostToDevice, stream()), "cudaMemcpyAsync");
  followers.push_back({kept, std::move(fill)});
}
void Recorder::read(const void* from, std::size_t bytes, std::function<void(const void*)> then) {
  std::byte* const to = pinned.take(bytes);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "cudaMemcpyAsync");
  reads.push_back({to, std::move(then)});
}
void Recorder::refuse(const char* call) {
  refused = true;
  fail("cuda: recorded work waits for what it has not done", call);
}

}  // namespace cuda

struct Recording::Made {
  cuda::Recorder of;
  cudaGraphExec_t graph = nullptr;

  /// What f() enqueues; without a graph where something was missing; null where it cannot be recorded.
  static std::unique_ptr<Made> of_work(const std::vector<Input>& inputs, const std::function<void()>& f);

  Made() { ++cuda::alive(); }
  ~Made() {
    cudaStreamSynchronize(cuda::stream());
    if (graph) cudaGraphExecDestroy(graph);
    of.reads.clear();  // what they hold goes back to the shelf first
    of.checks.clear();
    of.settled.clear();
    of.followers.clear();
    of.tables = {};
    if (--cuda::alive() == 0) Cuda::pool().trim(Shelf::recordings);
  }
};

Recording::Recording() = default;
Recording::Recording(Recording&&) noexcept = default;
Recording& Recording::operator=(Recording&&) noexcept = default;
Recording::~Recording() = default;

Recording::Recording(std::vector<Input> inputs, const std::function<void()>& f) {
  require(!cuda::recorder(), "recording: one is being made already");
  cuda::steps_later();
  for (;;) {
    auto made = Made::of_work(inputs, f);
    if (!made || made->of.missing.empty()) {
      made_ = std::move(made);
      return;
    }
    const auto missing = std::move(made->of.missing);
    made.reset();
    for (const auto& choose : missing) choose();
    Cuda::pool().reset_peak();  // what was given up is not the work's
  }
}

std::unique_ptr<Recording::Made> Recording::Made::of_work(const std::vector<Input>& inputs,
                                                          const std::function<void()>& f) {
  Cuda::pool().trim();
  Cuda::synchronize();  // what was enqueued before, and what gives memory back, is done when the recording begins
  auto made = std::make_unique<Made>();
  made->of.inputs = inputs;
  static std::uint64_t count = 0;
  made->of.number = ++count;

  cudaGraph_t graph = nullptr;
  const auto end = [&] {
    cuda::current() = nullptr;
    cuda::begun() = false;
    const cudaError_t code = cudaStreamEndCapture(cuda::stream(), &graph);
    if (code != cudaSuccess) cudaGetLastError();  // it is told here
    return code;
  };
  const ShelfScope shelf(Shelf::recordings);
  cuda::check(cudaStreamBeginCapture(cuda::stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  cuda::begun() = true;
  cuda::current() = &made->of;
  try {
    f();
  } catch (...) {
    end();
    if (graph) cudaGraphDestroy(graph);
    if (made->of.refused) return nullptr;
    throw;
  }
  cuda::check(end(), "cudaStreamEndCapture");
  const cudaError_t code = made->of.missing.empty() ? cudaGraphInstantiate(&made->graph, graph, 0) : cudaSuccess;
  cudaGraphDestroy(graph);
  cuda::check(code, "cudaGraphInstantiate");
  return made;
}

namespace {

bool hold(const std::vector<std::function<bool()>>& checks) {
  return std::all_of(checks.begin(), checks.end(), [](const auto& check) { return check(); });
}

}  // namespace

bool Recording::settled() const { return hold(made_->of.settled); }
bool Recording::fits() const { return hold(made_->of.checks); }

void Recording::run(std::uint32_t later) const {
  for (const auto& follower : made_->of.followers) follower.fill(follower.data);
  const auto move_keys = [](std::uint32_t steps) { Cuda::upload(cuda::steps_later(), &steps, sizeof steps); };
  if (later) move_keys(later);
  cuda::check(cudaGraphLaunch(made_->graph, cuda::stream()), "cudaGraphLaunch");
  if (later) Cuda::zero(cuda::steps_later(), sizeof later);
}

void Recording::finish() const {
  Cuda::synchronize();
  for (const auto& read : made_->of.reads) read.then(read.data);
}

}  // namespace meft
