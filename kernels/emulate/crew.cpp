// Owns: the threads of the crew.
#include "crew.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "emulate.hpp"

namespace emulate {
namespace {

std::atomic<unsigned> worker_count{0};

/// Threads that wait for grids. Never destroyed: they end with the process.
class Crew {
 public:
  explicit Crew(unsigned size) : size_(size) {
    for (unsigned i = 0; i < size; ++i) std::thread([this] { loop(); }).detach();
  }
  unsigned size() const { return size_; }

  /// Runs `job` on every thread of the crew and on the caller.
  void help(const std::function<void()>& job) {
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      busy_ = size_;
      ++turn_;
    }
    start_.notify_all();
    job();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void loop() {
    std::uint64_t seen = 0;
    for (;;) {
      const std::function<void()>* job = nullptr;
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return turn_ != seen; });
        seen = turn_;
        job = job_;
      }
      (*job)();
      std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  unsigned size_, busy_ = 0;
  std::uint64_t turn_ = 0;
  const std::function<void()>* job_ = nullptr;
};

/// The crew of that size for this process: a fork leaves its threads behind.
Crew& crew(unsigned size) {
  struct Kept {
    pid_t owner;
    std::unique_ptr<Crew> crew;
  };
  static std::vector<Kept>& kept = *new std::vector<Kept>;
  for (const Kept& one : kept)
    if (one.owner == getpid() && one.crew->size() == size) return *one.crew;
  return *kept.emplace_back(Kept{getpid(), std::make_unique<Crew>(size)}).crew;
}

}  // namespace

void set_workers(unsigned count) { worker_count = count; }

void on_each_worker(const std::function<void()>& job) {
  const unsigned chosen = worker_count.load();
  const unsigned workers = chosen ? chosen : std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
  if (workers == 1) job();
  else crew(workers - 1).help(job);
}

}  // namespace emulate
