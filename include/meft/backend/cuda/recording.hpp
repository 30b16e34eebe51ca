// Owns: the declaration of recordings: work of the device that is enqueued again by one call. Needs no CUDA header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <meft/backend/cuda/tag.hpp>

namespace meft {

/// What f() enqueued, as a CUDA graph. Its memory is its own: no other work gets it while the recording lives, and a
/// tensor that f makes and keeps holds the last run's values.
class Recording {
 public:
  /// Device memory that f reads and that may hold other values in a later run.
  struct Input {
    const void* data;
    std::size_t bytes;
  };

  Recording();
  /// Calls f() with everything that it enqueues recorded, none of it done; again where algorithms of libraries had to
  /// be chosen first. What f uploads from the host is uploaded again as it is now, but for Cuda::follow. A check of an
  /// input's values is made now and by `fits`. Empty where f waits for values that are not there yet (Cuda::download):
  /// such work cannot be recorded, and f ends by an Error that goes no further.
  Recording(std::vector<Input> inputs, const std::function<void()>& f);
  Recording(Recording&&) noexcept;
  Recording& operator=(Recording&&) noexcept;
  ~Recording();

  explicit operator bool() const { return made_ != nullptr; }
  /// Whether Cuda::settled on the host would find what it found when f was recorded.
  bool settled() const;
  /// Whether the checks of the inputs find what they found when f was recorded.
  bool fits() const;
  /// Enqueues the work, with random bits of `later` steps after the recorded one. A run before was finished.
  void run(std::uint32_t later = 0) const;
  /// Waits for the work of `run`, and hands out what f asked for by Cuda::read, in order.
  void finish() const;

 private:
  struct Made;
  std::unique_ptr<Made> made_;
};

}  // namespace meft
