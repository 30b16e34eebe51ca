// Owns: the caching pool that all device memory comes from, and its meter. It knows a device only by two functions.
// A freed block is kept and given to the next request that it fits within an eighth, most recently used first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include <meft/base/error.hpp>
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
    std::lock_guard lock(mutex_);
    auto shelf = std::lower_bound(shelves_.begin(), shelves_.end(), block.capacity, smaller);
    const std::size_t most = block.capacity + block.capacity / 8;
    while (shelf != shelves_.end() && shelf->size <= most && shelf->blocks.empty()) ++shelf;
    if (shelf != shelves_.end() && shelf->size <= most) {
      block.capacity = shelf->size;
      block.data = shelf->blocks.back();
      shelf->blocks.pop_back();
    } else {
      block.data = allocate_(block.capacity);
      if (!block.data) {
        release_cached();
        block.data = allocate_(block.capacity);
      }
      require(block.data, {std::string(device_) + ": out of memory, asked for bytes", where}, bytes, "alive: " + std::to_string(now_.total));
      reserved_ += block.capacity;
      ++system_calls_;
    }
    now_.live[static_cast<std::size_t>(block.use)] += block.capacity;
    now_.total += block.capacity;
    now_.peak = std::max(now_.peak, now_.total);
    return block;
  }

  [[gnu::cold, gnu::noinline]] void give(const Block& block) {
    std::lock_guard lock(mutex_);
    now_.live[static_cast<std::size_t>(block.use)] -= block.capacity;
    now_.total -= block.capacity;
    if (!caching_) return free_block(block);
    auto shelf = std::lower_bound(shelves_.begin(), shelves_.end(), block.capacity, smaller);
    if (shelf == shelves_.end() || shelf->size != block.capacity) shelf = shelves_.insert(shelf, Shelf{block.capacity, {}});
    shelf->blocks.push_back(block.data);
  }

  /// Returns cached blocks to the system.
  void trim() {
    std::lock_guard lock(mutex_);
    release_cached();
  }

  /// With caching off every block goes straight back to the system: for comparing the meter with an outside count.
  void set_caching(bool on) {
    if (!on) trim();
    std::lock_guard lock(mutex_);
    caching_ = on;
  }

  Reading read() const {
    std::lock_guard lock(mutex_);
    return now_;
  }

  /// Starts a new peak at what is alive now.
  void reset_peak() {
    std::lock_guard lock(mutex_);
    now_.peak = now_.total;
  }

  /// Bytes held from the system, cached ones included, and how often the system was asked.
  std::size_t reserved() const {
    std::lock_guard lock(mutex_);
    return reserved_;
  }
  std::size_t system_calls() const {
    std::lock_guard lock(mutex_);
    return system_calls_;
  }

 private:
  struct Shelf {
    std::size_t size;
    std::vector<void*> blocks;
  };

  static bool smaller(const Shelf& shelf, std::size_t size) { return shelf.size < size; }
  static std::size_t round_up(std::size_t bytes) {
    const std::size_t grain = bytes > (std::size_t{1} << 16) ? 4096 : 64;
    return bytes ? (bytes + grain - 1) / grain * grain : grain;
  }

  void free_block(const Block& block) {
    reserved_ -= block.capacity;
    free_(block.data);
  }
  void release_cached() {
    for (auto& shelf : shelves_)
      for (void* data : shelf.blocks) free_block({data, shelf.size, {}});
    shelves_.clear();
  }

  const char* device_;
  Allocate allocate_;
  Free free_;
  mutable std::mutex mutex_;
  std::vector<Shelf> shelves_;
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
