// Owns: where the time of a stack's backward passes goes.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>
#include <utility>

namespace meft {

/// Worker time of the backward passes, in nanoseconds, for benches: computing inputs back (f run again) and gradients.
struct Phases {
  std::atomic<std::int64_t> undo{0}, gradient{0};
};

namespace detail {

/// Adds the time since it was last asked to one phase or the other, where phases are asked for.
class Lap {
 public:
  explicit Lap(Phases* to) : to_(to), last_(to ? nanoseconds() : 0) {}
  void undone() {
    if (to_) to_->undo += since();
  }
  void differentiated() {
    if (to_) to_->gradient += since();
  }

 private:
  static std::int64_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
  }
  std::int64_t since() {
    const auto now = nanoseconds();
    return now - std::exchange(last_, now);
  }

  Phases* to_;
  std::int64_t last_;
};

}  // namespace detail

}  // namespace meft
