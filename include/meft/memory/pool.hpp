// Owns: the caching pool that all device memory comes from, and its meter. It knows a device only by two functions.
// A freed block is kept and given to the next request that it fits within an eighth, most recently used first.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/mutex.hpp>
#include <meft/memory/meter.hpp>

namespace meft {

class Pool {
 public:
  using Allocate = void* (*)(std::size_t bytes);  // null when there is no memory left
  using Free = void (*)(void*);

  Pool(const char* device, Allocate allocate, Free free) : device_(device), allocate_(allocate), free_(free) {}
  ~Pool() { trim(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  struct Block {
    void* data = nullptr;
    std::size_t capacity = 0;
    Use use = Use::activation;
  };

  /// At least `bytes` bytes, aligned to 64; throws when the device has none left.
  [[gnu::cold, gnu::noinline]] Block take(std::size_t bytes, Where where = Where::current()) {
    Block block{nullptr, round_up(bytes), detail::current_use()};
    const Lock lock(mutex_);
    const std::size_t most = block.capacity + block.capacity / 8;
    std::size_t at = first_of(block.capacity);
    if (at < cached_.size() && cached_[at].size <= most) {
      at = first_of(cached_[at].size + 1) - 1;  // of that size, the last one given is the hot one
      block.capacity = cached_[at].size;
      block.data = cached_[at].data;
      cached_.erase(cached_.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      block.data = allocate_(block.capacity);
      if (!block.data) {
        release_cached();
        block.data = allocate_(block.capacity);
      }
      if (!block.data)
        fail({"pool: the device has no memory left", where}, device_, "asked for", bytes, "alive", now_.total);
      reserved_ += block.capacity;
      ++system_calls_;
    }
    now_.live[static_cast<std::size_t>(block.use)] += block.capacity;
    now_.total += block.capacity;
    if (now_.peak < now_.total) now_.peak = now_.total;
    return block;
  }

  [[gnu::cold, gnu::noinline]] void give(const Block& block) {
    const Lock lock(mutex_);
    now_.live[static_cast<std::size_t>(block.use)] -= block.capacity;
    now_.total -= block.capacity;
    if (!caching_) return free_block(block);
    cached_.insert(cached_.begin() + static_cast<std::ptrdiff_t>(first_of(block.capacity + 1)),
                   Cached{block.capacity, block.data});
  }

  /// Returns cached blocks to the system.
  void trim() {
    const Lock lock(mutex_);
    release_cached();
  }

  /// With caching off every block goes straight back to the system: for comparing the meter with an outside count.
  void set_caching(bool on) {
    if (!on) trim();
    const Lock lock(mutex_);
    caching_ = on;
  }

  Reading read() const {
    const Lock lock(mutex_);
    return now_;
  }

  /// Starts a new peak at what is alive now.
  void reset_peak() {
    const Lock lock(mutex_);
    now_.peak = now_.total;
  }

  /// Bytes held from the system, cached ones included, and how often the system was asked.
  std::size_t reserved() const {
    const Lock lock(mutex_);
    return reserved_;
  }
  std::size_t system_calls() const {
    const Lock lock(mutex_);
    return system_calls_;
  }

 private:
  struct Cached {
    std::size_t size;
    void* data;
  };

  /// The first cached block of at least `size` bytes; they are sorted by size.
  std::size_t first_of(std::size_t size) const {
    std::size_t low = 0, high = cached_.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (cached_[middle].size < size) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  static std::size_t round_up(std::size_t bytes) {
    const std::size_t grain = bytes > (std::size_t{1} << 16) ? 4096 : 64;
    return bytes ? (bytes + grain - 1) / grain * grain : grain;
  }

  void free_block(const Block& block) {
    reserved_ -= block.capacity;
    free_(block.data);
  }
  void release_cached() {
    for (const auto& cached : cached_) free_block({cached.data, cached.size, {}});
    cached_.clear();
  }

  const char* device_;
  Allocate allocate_;
  Free free_;
  mutable Mutex mutex_;
  std::vector<Cached> cached_;
  Reading now_;
  std::size_t reserved_ = 0, system_calls_ = 0;
  bool caching_ = true;
};

/// Activation memory of what runs while it lives: the peak of everything alive less what lived before. Not nested.
class Measure {
 public:
  explicit Measure(Pool& pool) : pool_(pool) {
    pool.reset_peak();
    before_ = pool.read().total;
  }
  std::size_t activation() const { return pool_.read().peak - before_; }

 private:
  Pool& pool_;
  std::size_t before_;
};

}  // namespace meft
