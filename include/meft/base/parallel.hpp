// Owns: the worker threads. Work is numbered, never divided by the thread count, so results do not depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace meft {

namespace detail {

/// A fixed crew that runs one numbered job at a time; the caller works too. Calls from inside a job run in place.
class Crew {
 public:
  static Crew& get() {
    static Crew crew;
    return crew;
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  [[gnu::cold]] void resize(int threads) {
    std::lock_guard busy(job_mutex_);
    stop();
    start(threads);
  }

  [[gnu::cold, gnu::noinline]] void run(std::int64_t count, void (*call)(const void*, std::int64_t), const void* body) {
    if (count <= 0) return;
    if (inside() || workers_.empty() || count == 1) {
      for (std::int64_t i = 0; i < count; ++i) call(body, i);
      return;
    }
    std::lock_guard busy(job_mutex_);
    call_ = call;
    body_ = body;
    count_ = count;
    next_ = 0;
    error_ = nullptr;
    active_ = static_cast<int>(workers_.size());
    ++generation_;
    generation_.notify_all();
    work();
    for (int left; (left = active_) != 0;) active_.wait(left);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  Crew() { start(static_cast<int>(std::thread::hardware_concurrency())); }
  ~Crew() { stop(); }

  static bool& inside() {
    thread_local bool value = false;
    return value;
  }

  [[gnu::cold]] void start(int threads) {
    quit_ = false;
    for (int i = 1; i < threads; ++i) workers_.emplace_back(&Crew::loop, this, generation_.load());
  }

  [[gnu::cold, gnu::noinline]] void stop() {
    quit_ = true;
    ++generation_;
    generation_.notify_all();
    for (auto& w : workers_) w.join();
    workers_.clear();
  }

  [[gnu::cold]] void loop(std::uint32_t seen) {
    for (;;) {
      generation_.wait(seen);
      seen = generation_;
      if (quit_) return;
      work();
      if (--active_ == 0) active_.notify_one();
    }
  }

  [[gnu::cold, gnu::noinline]] void work() {
    inside() = true;
    try {
      for (std::int64_t i; (i = next_.fetch_add(1)) < count_;) call_(body_, i);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = count_;
    }
    inside() = false;
  }

  std::vector<std::thread> workers_;
  std::mutex job_mutex_, error_mutex_;
  void (*call_)(const void*, std::int64_t) = nullptr;
  const void* body_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::exception_ptr error_;
  std::atomic<std::uint32_t> generation_{0};  // workers sleep until it changes
  std::atomic<int> active_{0};
  std::atomic<bool> quit_{false};
};

}  // namespace detail

/// The number of threads that work on a parallel loop, the caller included.
inline int threads() { return detail::Crew::get().size(); }

/// Sets it (at least 1). Results do not change with it.
inline void set_threads(int count) { detail::Crew::get().resize(count < 1 ? 1 : count); }

/// Calls body(i) for i in [0, count), each exactly once, numbers handed out in ascending order; rethrows the first
/// exception. Loops inside a loop run in place.
template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  detail::Crew::get().run(
      count, [](const void* b, std::int64_t i) { (*static_cast<const Body*>(b))(i); }, &body);
}

/// Calls body(begin, end) for consecutive chunks of [0, count), `grain` long but for the last one.
template <class Body>
void parallel_chunks(std::int64_t count, std::int64_t grain, const Body& body) {
  parallel_for((count + grain - 1) / grain, [&](std::int64_t i) {
    const std::int64_t begin = i * grain, end = begin + grain < count ? begin + grain : count;
    body(begin, end);
  });
}

}  // namespace meft
