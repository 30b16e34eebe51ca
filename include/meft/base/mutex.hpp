// Owns: mutual exclusion on POSIX threads. <mutex> brings <chrono>'s clocks and <ratio> with it, which every small
// program would compile.
#pragma once

#include <pthread.h>

namespace meft {

class Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() { pthread_mutex_lock(&native_); }
  bool try_lock() { return pthread_mutex_trylock(&native_) == 0; }
  void unlock() { pthread_mutex_unlock(&native_); }
  /// For pthread_cond_wait.
  pthread_mutex_t* native_handle() { return &native_; }
  /// Free again in a forked child, where the thread that held it is not.
  void forked() { native_ = PTHREAD_MUTEX_INITIALIZER; }

 private:
  pthread_mutex_t native_ = PTHREAD_MUTEX_INITIALIZER;
};

/// Holds a mutex while it lives.
class Lock {
 public:
  explicit Lock(Mutex& mutex) : mutex_(mutex) { mutex.lock(); }
  ~Lock() { mutex_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

/// Holds a mutex while it lives if it was free.
class TryLock {
 public:
  explicit TryLock(Mutex& mutex) : mutex_(mutex), held_(mutex.try_lock()) {}
  ~TryLock() {
    if (held_) mutex_.unlock();
  }
  TryLock(const TryLock&) = delete;
  TryLock& operator=(const TryLock&) = delete;
  explicit operator bool() const { return held_; }

 private:
  Mutex& mutex_;
  bool held_;
};

}  // namespace meft
