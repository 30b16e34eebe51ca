// Owns: the caching pool that all device memory comes from, and its meter. It knows a device only by two functions.
// A freed block is kept and given to the next request that it fits within an eighth, most recently used first.
#pragma once

#include <array>
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
  ~Pool() {
    for (auto& cached : cached_) release(cached);
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  struct Block {
    void* data = nullptr;
    std::size_t capacity = 0;
    Use use = Use::activation;
    Shelf shelf = Shelf::common;
  };

  /// At least `bytes` bytes, aligned to 64; throws when the device has none left.
  [[gnu::cold, gnu::noinline]] Block take(std::size_t bytes, Where where = Where::current()) {
    Block block{nullptr, round_up(bytes), detail::current_use(), detail::current_shelf()};
    const Lock lock(mutex_);
    const std::size_t most = block.capacity + block.capacity / 8;
    List& cached = list(block.shelf);
    std::size_t at = first_of(cached, block.capacity);
    if (at < cached.size() && cached[at].size <= most) {
      at = first_of(cached, cached[at].size + 1) - 1;  // of that size, the last one given is the hot one
      block.capacity = cached[at].size;
      block.data = cached[at].data;
      cached.erase(cached.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      block.data = allocate_(block.capacity);
      if (!block.data) {
        release(list(Shelf::common));
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
    if (!caching_ && block.shelf == Shelf::common) return free_block(block);
    List& cached = list(block.shelf);
    cached.insert(cached.begin() + static_cast<std::ptrdiff_t>(first_of(cached, block.capacity + 1)),
                  Cached{block.capacity, block.data});
  }

  /// Returns cached blocks to the system.
  void trim(Shelf shelf = Shelf::common) {
    const Lock lock(mutex_);
    release(list(shelf));
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
  using List = std::vector<Cached>;

  List& list(Shelf shelf) { return cached_[static_cast<std::size_t>(shelf)]; }

  /// The first cached block of at least `size` bytes; they are sorted by size.
  static std::size_t first_of(const List& cached, std::size_t size) {
    std::size_t low = 0, high = cached.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      if (cached[middle].size < size) low = middle + 1;
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
  void release(List& blocks) {
    for (const auto& cached : blocks) free_block({cached.data, cached.size});
    blocks.clear();
  }

  const char* device_;
  Allocate allocate_;
  Free free_;
  mutable Mutex mutex_;
  std::array<List, 3> cached_;  // by Shelf
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
