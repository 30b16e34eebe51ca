// Owns: the pool that all device memory comes from, and its meter. It knows a device only by two functions.
// What lasts (weights, gradients, moments) has memory of its own. What a step needs is cut from segments, which are
// joined to one when the step is over, as large as it was found to need: what is held follows the highest step.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include <meft/base/error.hpp>
#include <meft/base/mutex.hpp>
#include <meft/memory/arena.hpp>
#include <meft/memory/meter.hpp>

namespace meft {

/// All memory of a device, cut from segments, and its meter. Any thread may use it.
class Pool {
 public:
  using Allocate = void* (*)(std::size_t bytes);  // null when there is no memory left
  using Free = void (*)(void*, std::size_t bytes);

  Pool(const char* device, Allocate allocator, Free deallocator)
      : device_(device), allocate_(allocator), free_(deallocator) {}
  ~Pool() {
    for (auto& arena : arenas_) release(arena);
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
    const Use use = detail::current_use();
    const Shelf shelf = detail::current_shelf();
    if (bytes > most) fail({"pool: more bytes than an address space has", where}, device_, "asked for", bytes);
    const std::size_t capacity = round_up(bytes);
    const Lock lock(mutex_);
    Block block{nullptr, capacity, use, shelf};
    if (alone(block)) block.data = allocate(capacity);
    else {
      Arena& arena = arena_of(block);
      const std::size_t size = placed(capacity);
      block.data = arena.take(size);
      if (!block.data && grow(arena, size)) block.data = arena.take(size);
      if (&arena == &steps() && steps_need_ < arena.used()) steps_need_ = arena.used();
    }
    if (!block.data)
      fail({"pool: the device has no memory left", where}, device_, "asked for", bytes, "alive", now_.total);
    now_.live[static_cast<std::size_t>(use)] += capacity;
    now_.total += capacity;
    if (now_.peak < now_.total) now_.peak = now_.total, now_.at_peak = now_.live;
    return block;
  }

  /// Nothing is taken or given between these: over a fork, so that the child finds it whole.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

  /// Takes back what `take` gave, from any thread.
  [[gnu::cold, gnu::noinline]] void give(const Block& block) {
    const Lock lock(mutex_);
    now_.live[static_cast<std::size_t>(block.use)] -= block.capacity;
    now_.total -= block.capacity;
    Arena& arena = arena_of(block);
    if (!arena.holds(block.data)) return free(block.data, block.capacity);
    arena.give(block.data, placed(block.capacity));
    if (&arena == &steps() && !arena.used() && arena.segments() > 1) plan();
    if (!caching_ && !arena.used() && block.shelf == Shelf::common) release(arena);
  }

  /// Returns what is held but free to the system, and forgets what steps were found to need.
  void trim(Shelf shelf = Shelf::common) {
    const Lock lock(mutex_);
    forget(shelf);
  }

  /// With caching off every block goes straight back to the system: for comparing the meter with an outside count.
  void set_caching(bool on) {
    const Lock lock(mutex_);
    if (!on) forget(Shelf::common);
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
    now_.at_peak = now_.live;
  }

  /// Bytes held from the system, free ones included, and how often the system was asked.
  std::size_t reserved() const {
    const Lock lock(mutex_);
    return reserved_;
  }
  std::size_t system_calls() const {
    const Lock lock(mutex_);
    return system_calls_;
  }

 private:
  static constexpr std::size_t most = ~std::size_t{0} / 4, page = 4096, small = std::size_t{1} << 14;

  static std::size_t up(std::size_t bytes, std::size_t grain) { return (bytes + grain - 1) / grain * grain; }
  static std::size_t round_up(std::size_t bytes) { return up(bytes ? bytes : 1, bytes > small ? page : 64); }
  /// What a block takes of a segment: its neighbour is aligned as a device's libraries like it.
  static std::size_t placed(std::size_t capacity) { return up(capacity, 256); }

  /// Whether the block has memory of its own.
  bool alone(const Block& block) const {
    return block.shelf == Shelf::common && (!caching_ || (lasts(block.use) && block.capacity > small));
  }
  /// Small blocks, those of steps, and one for each other shelf.
  Arena& arena_of(const Block& block) {
    return block.shelf != Shelf::common ? arenas_[1 + static_cast<std::size_t>(block.shelf)]
           : block.capacity <= small    ? arenas_[0]
                                        : steps();
  }
  Arena& steps() { return arenas_[1]; }

  /// A segment in which `size` bytes have room, at least a sixteenth of what the arena holds, a 32nd where steps
  /// outgrow their plan. Free segments of steps, which were too small, become a part of it.
  bool grow(Arena& arena, std::size_t size) {
    constexpr std::size_t least = std::size_t{1} << 18, largest = std::size_t{1} << 26;
    const std::size_t share = planned_ && &arena == &steps() ? 32 : 16;
    std::size_t wanted = std::min(std::max(arena.held() / share, least), largest);
    if (&arena == &steps()) {
      // A place that is large enough, but in pieces: the next plan leaves more room.
      if (planned_ && arena.used() + size <= plan_) slack_ = std::min(2 * slack_, std::size_t{8});
      const bool first = !arena.used();
      const std::size_t freed = release(arena);
      wanted = std::max({wanted, first ? plan_ : 0, freed});
      planned_ = first && plan_;
    }
    wanted = up(std::max(wanted, size), page);
    void* data = allocate(wanted);
    if (!data && wanted > size) data = allocate(wanted = up(size, page));
    if (data) arena.add(data, wanted);
    return data;
  }

  /// After a step that needed more than one segment: the next one gets one, large enough for all.
  void plan() {
    plan_ = std::min(steps().held(), up(steps_need_ + steps_need_ / 16 * slack_, page));
    release(steps());
  }

  void* allocate(std::size_t bytes) {
    void* data = allocate_(bytes);
    if (!data) {
      forget(Shelf::common);
      data = allocate_(bytes);
    }
    if (!data) return nullptr;
    reserved_ += bytes;
    ++system_calls_;
    return data;
  }
  void free(void* data, std::size_t bytes) {
    reserved_ -= bytes;
    free_(data, bytes);
  }
  std::size_t release(Arena& arena) {
    return arena.release([this](void* data, std::size_t bytes) { free(data, bytes); });
  }
  void forget(Shelf shelf) {
    if (shelf != Shelf::common) {
      release(arenas_[1 + static_cast<std::size_t>(shelf)]);
      return;
    }
    release(arenas_[0]);
    release(steps());
    plan_ = 0;
    steps_need_ = steps().used();
    slack_ = 2;
    planned_ = false;
  }

  const char* device_;
  Allocate allocate_;
  Free free_;
  mutable Mutex mutex_;
  std::array<Arena, 4> arenas_;
  Reading now_;
  std::size_t steps_need_ = 0, plan_ = 0;  // bytes of the arena of steps: the highest, and the next single segment
  std::size_t slack_ = 2;                  // sixteenths that a plan adds
  bool planned_ = false;                   // the arena of steps began with the plan's segment
  std::size_t reserved_ = 0, system_calls_ = 0;
  bool caching_ = true;
};

/// Activation memory of what runs while it lives: the peak of everything alive less what lived before. Not nested.
class Measure {
 public:
  explicit Measure(Pool& pool) : pool_(pool) {
    pool.reset_peak();
    before_ = pool.read();
  }
  /// Without features that came to stay meanwhile.
  std::size_t activation() const {
    const Reading now = pool_.read();
    return now.peak - before_.total - (now.peak_of(Use::features) - before_.of(Use::features));
  }

 private:
  Pool& pool_;
  Reading before_;
};

}  // namespace meft
