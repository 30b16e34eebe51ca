// Owns: the worker threads. Work is numbered, never divided by the thread count, so results do not depend on it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

#include <sched.h>
#include <unistd.h>

#include <meft/base/mutex.hpp>

namespace meft {

namespace detail {

/// How many cores this process may run on.
[[gnu::cold, gnu::noinline]] inline int cores() {
#ifdef __linux__
  cpu_set_t lent;
  if (sched_getaffinity(0, sizeof lent, &lent) == 0) return CPU_COUNT(&lent);
#endif
  return static_cast<int>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
}

/// A fixed crew that runs one numbered job at a time; the caller works too. Calls from inside a job run in place, and
/// so does what another thread calls meanwhile, as long as the crew is busy: nobody ever waits for another's job.
/// POSIX threads: <thread> and <condition_variable> alone would take a tenth of a small program's compile time.
class Crew {
 public:
  [[gnu::noinline]] static Crew& get() {
    static Crew crew;
    return crew;
  }

  int size() const { return size_; }
  /// Of the next job: 1 from inside one.
  int available() const { return inside() ? 1 : size(); }

  /// At once, or, while a job runs, before the next.
  [[gnu::cold]] void resize(int threads) {
    size_ = threads;
    if (const TryLock mine(job_mutex_); mine) settle();
  }

  /// Whether loops of the calling thread run in place from now on. Gives what was so before.
  [[gnu::cold, gnu::noinline]] static bool alone(bool on) { return std::exchange(inside(), on); }

  /// A body and its range, handed out in chunks of `grain`.
  struct Job {
    std::int64_t count, grain;
    void (*call)(const void* body, std::int64_t begin, std::int64_t end);
    const void* body;

    std::int64_t chunks() const { return (count + grain - 1) / grain; }
    void chunk(std::int64_t i) const { call(body, i * grain, i + 1 < chunks() ? (i + 1) * grain : count); }
  };

  [[gnu::cold, gnu::noinline]] void run(const Job& job) {
    const bool alone = inside();
    for (std::int64_t i = 0, chunks = job.chunks(); i < chunks; ++i) {
      if (!alone && chunks - i > 1 && size_ > 1)
        if (const TryLock mine(job_mutex_); mine) return share(job, i);
      job.chunk(i);
    }
  }

 private:
  Crew() : size_(cores()) {
    settle();
    pthread_atfork(nullptr, nullptr, [] { get().forked(); });
  }
  ~Crew() { stop(); }

  /// The chunks from `first` on, by everyone. The caller holds job_mutex_.
  [[gnu::cold, gnu::noinline]] void share(const Job& job, std::int64_t first) {
    settle();
    job_ = &job;
    next_ = first;
    wake();
    work();
    const Lock lock(state_mutex_);
    while (active_ > 0) pthread_cond_wait(&idle_, state_mutex_.native_handle());
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  static bool& inside() {
    thread_local bool value = false;
    return value;
  }

  /// Makes the crew as large as it was told to be. The caller holds job_mutex_.
  [[gnu::cold, gnu::noinline]] void settle() {
    int wanted = size_;
    if (wanted == workers_ + 1) return;
    stop();
    start(wanted);
    size_.compare_exchange_strong(wanted, workers_ + 1);
  }

  /// In a forked child there is no thread but the one that forked: it goes on alone.
  [[gnu::cold]] void forked() {
    job_mutex_.forked();
    state_mutex_.forked();
    go_ = idle_ = PTHREAD_COND_INITIALIZER;
    workers_ = active_ = 0;
    size_ = 1;
  }

  /// Fewer threads when the system gives no more.
  [[gnu::cold, gnu::noinline]] void start(int threads) {
    quit_ = false;
    born_ = generation_;
    const int wanted = threads > 1 ? threads - 1 : 0;
    threads_.resize(static_cast<std::size_t>(wanted));
    pthread_attr_t room;  // products keep half a MiB on the stack, and a system's default may be less
    pthread_attr_init(&room);
    pthread_attr_setstacksize(&room, std::size_t{4} << 20);
    while (workers_ < wanted && pthread_create(&threads_[static_cast<std::size_t>(workers_)], &room, &loop, this) == 0)
      ++workers_;
    pthread_attr_destroy(&room);
  }

  [[gnu::cold, gnu::noinline]] void stop() {
    quit_ = true;
    wake();
    for (; workers_ > 0; --workers_) pthread_join(threads_[static_cast<std::size_t>(workers_ - 1)], nullptr);
  }

  /// Sends every worker into the job.
  [[gnu::cold, gnu::noinline]] void wake() {
    const Lock lock(state_mutex_);
    active_ = workers_;
    ++generation_;
    pthread_cond_broadcast(&go_);
  }

  [[gnu::cold]] static void* loop(void* self) {
    Crew& crew = *static_cast<Crew*>(self);
    for (std::uint32_t seen = crew.born_;;) {
      {
        const Lock lock(crew.state_mutex_);
        while (crew.generation_ == seen) pthread_cond_wait(&crew.go_, crew.state_mutex_.native_handle());
        seen = crew.generation_;
        if (crew.quit_) return nullptr;
      }
      crew.work();
      const Lock lock(crew.state_mutex_);
      if (--crew.active_ == 0) pthread_cond_signal(&crew.idle_);
    }
  }

  [[gnu::cold, gnu::noinline]] void work() {
    inside() = true;
    try {
      for (std::int64_t i, chunks = job_->chunks(); (i = next_.fetch_add(1)) < chunks;) job_->chunk(i);
    } catch (...) {
      const Lock lock(state_mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = job_->count;
    }
    inside() = false;
  }

  std::vector<pthread_t> threads_;
  int workers_ = 0;
  std::atomic<int> size_;
  Mutex job_mutex_;  // held by the caller of a job
  const Job* job_ = nullptr;
  std::atomic<std::int64_t> next_{0};

  Mutex state_mutex_;  // guards what follows
  pthread_cond_t go_ = PTHREAD_COND_INITIALIZER, idle_ = PTHREAD_COND_INITIALIZER;
  std::uint32_t generation_ = 0, born_ = 0;  // workers sleep until it changes from what it was at their start
  int active_ = 0;
  bool quit_ = false;
  std::exception_ptr error_;
};

}  // namespace detail

/// The number of threads that work on a parallel loop, the caller included.
inline int threads() { return detail::Crew::get().size(); }

/// How many would work on a loop started here: 1 inside of another loop.
inline int workers() { return detail::Crew::get().available(); }

/// Sets it (at least 1); while a loop runs, from the next one on. Results do not change with it. A forked child begins
/// with 1.
inline void set_threads(int count) { detail::Crew::get().resize(count < 1 ? 1 : count); }

/// While it lives, loops that this thread starts run in place, so that all of them see what belongs to the thread.
class InPlace {
 public:
  InPlace() : before_(detail::Crew::alone(true)) {}
  ~InPlace() { detail::Crew::alone(before_); }
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;

 private:
  bool before_;
};

/// Calls body(i) for i in [0, count), each exactly once, numbers handed out in ascending order; rethrows the first
/// exception. Loops inside a loop run in place.
template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  detail::Crew::get().run(
      {count, 1, [](const void* b, std::int64_t i, std::int64_t) { (*static_cast<const Body*>(b))(i); }, &body});
}

/// Calls body(begin, end) for consecutive chunks of [0, count), `grain` long but for the last one.
template <class Body>
void parallel_chunks(std::int64_t count, std::int64_t grain, const Body& body) {
  detail::Crew::get().run(
      {count, grain,
       [](const void* b, std::int64_t begin, std::int64_t end) { (*static_cast<const Body*>(b))(begin, end); }, &body});
}

}  // namespace meft
