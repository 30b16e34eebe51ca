// Owns: making numbered things (batches) on threads of its own ahead of their use, handed out in order.
// What comes out does not depend on the number of threads. Must not know what is made.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <pthread.h>

#include <meft/base/error.hpp>

namespace meft::data {

struct PrefetchOptions {
  int threads = 1;        // 0: everything is made in next()
  std::size_t ahead = 2;  // at most so many are made or being made and not yet taken
};

/// Makes T number 0, 1, ... count - 1 ahead of their use: `make(number, stop)` is called from several threads at once,
/// each number once, and may return anything as soon as `stop` is true. next() gives them in order; an exception from
/// make comes out of the next() whose number it was, and of every later one. The destructor waits only for the calls
/// of make that are under way.
template <class T>
class Prefetch {
 public:
  using Make = std::function<T(std::size_t number, const std::atomic<bool>& stop)>;

  /// Errors: no `make`, threads below 0, ahead of 0.
  Prefetch(std::size_t count, Make make, const PrefetchOptions& options = {}, Where where = Where::current())
      : make_(std::move(make)), count_(count), slots_(std::min(options.ahead, std::max<std::size_t>(count, 1))) {
    require(static_cast<bool>(make_), {"prefetch: there is nothing to call", where});
    require(options.threads >= 0, {"prefetch: expected at least 0 threads, found", where}, options.threads);
    require(options.ahead > 0, {"prefetch: expected at least 1 ahead, found", where}, options.ahead);
    const std::size_t wanted = std::min(static_cast<std::size_t>(options.threads), slots_.size());
    threads_.reserve(wanted);
    pthread_t thread;
    // Fewer threads, or none, when the system gives no more.
    while (threads_.size() < wanted && count > 0 && pthread_create(&thread, nullptr, &Prefetch::run, this) == 0)
      threads_.push_back(thread);
  }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;
  ~Prefetch() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      pthread_cond_broadcast(&room_);
    }
    for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
    pthread_cond_destroy(&room_);
    pthread_cond_destroy(&ready_);
  }

  /// The next one, or nothing after the last. Throws what make threw.
  std::optional<T> next() {
    std::unique_lock lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    if (taken_ == count_) return {};
    Slot& slot = slots_[taken_ % slots_.size()];
    if (threads_.empty()) {
      lock.unlock();
      slot = call(taken_);
      lock.lock();
    }
    while (!slot.full) pthread_cond_wait(&ready_, mutex_.native_handle());
    Slot out = std::exchange(slot, {});
    if (out.error) {
      error_ = out.error;
      std::rethrow_exception(error_);
    }
    ++taken_;
    pthread_cond_broadcast(&room_);
    return std::move(out.value);
  }

  std::size_t count() const { return count_; }

 private:
  struct Slot {
    std::optional<T> value{};
    std::exception_ptr error{};
    bool full = false;
  };

  Slot call(std::size_t number) const {
    Slot slot;
    try {
      slot.value.emplace(make_(number, stop_));
    } catch (...) {
      slot.error = std::current_exception();
    }
    slot.full = true;
    return slot;
  }

  static void* run(void* self) {
    static_cast<Prefetch*>(self)->work();
    return nullptr;
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      while (!stop_ && !failed_ && begun_ < count_ && begun_ - taken_ >= slots_.size())
        pthread_cond_wait(&room_, mutex_.native_handle());
      if (stop_ || failed_ || begun_ == count_) return;
      const std::size_t number = begun_++;
      lock.unlock();
      Slot made = call(number);
      lock.lock();
      if (made.error) {
        failed_ = true;  // nothing after it will be asked for
        pthread_cond_broadcast(&room_);
      }
      slots_[number % slots_.size()] = std::move(made);
      pthread_cond_signal(&ready_);
    }
  }

  const Make make_;
  const std::size_t count_;
  std::vector<pthread_t> threads_;
  std::atomic<bool> stop_{false};

  std::mutex mutex_;  // guards what follows
  pthread_cond_t room_ = PTHREAD_COND_INITIALIZER, ready_ = PTHREAD_COND_INITIALIZER;
  std::vector<Slot> slots_;  // number n is in slot n % size
  std::size_t begun_ = 0, taken_ = 0;
  bool failed_ = false;
  std::exception_ptr error_;
};

}  // namespace meft::data
