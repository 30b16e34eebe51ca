// Owns: tables: table.cuh.
#include <utility>

#include <recorder.cuh>
#include <table.cuh>

#include <meft/backend/cuda/tag.hpp>
#include <meft/base/mutex.hpp>

namespace meft::cuda {

Buffer Tables::find(const std::string& name, std::size_t bytes, std::function<void(void*)> fill) {
  const auto [at, fresh] = named_.try_emplace(name);
  if (fresh) {
    const UseScope use(Use::workspace);
    at->second = Buffer(Cuda::pool(), bytes);
    Cuda::follow(at->second.data(), bytes, std::move(fill));
  }
  return at->second;
}

Buffer Tables::find(const void* data, std::size_t bytes) {
  constexpr std::size_t largest = std::size_t{1} << 14, most = 16;  // a large one would hold a segment of the pool's
  const std::string_view content(static_cast<const char*>(data), bytes);
  for (const auto& entry : kept_)
    if (entry.content == content) return entry.buffer;
  const UseScope use(Use::workspace);
  Buffer made(Cuda::pool(), bytes);
  Cuda::upload(made.data(), data, bytes);
  if (bytes > largest) return made;
  kept_.push_back({std::string(content), made});
  if (kept_.size() > most) kept_.pop_front();
  return made;
}

Buffer table(const void* data, std::size_t bytes) {
  if (Recorder* const r = recorder()) return r->tables.find(data, bytes);
  static Mutex& mutex = *new Mutex;
  static Tables& tables = *new Tables;  // never destroyed, as the device's memory
  const Lock lock(mutex);
  return tables.find(data, bytes);
}

}  // namespace meft::cuda
