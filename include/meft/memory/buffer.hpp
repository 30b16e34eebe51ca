// Owns: a shared block of pool memory, returned when the last handle goes; and, where it is asked, when it was written
// to.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <meft/memory/pool.hpp>

namespace meft {

namespace detail {
/// The time of the process, which goes on where something is recorded whose order with writes counts.
inline std::atomic<std::uint64_t>& clock() {
  static std::atomic<std::uint64_t> now{1};
  return now;
}
}  // namespace detail

/// A counted handle on a block. Copies share the block.
class Buffer {
 public:
  Buffer() = default;
  [[gnu::cold, gnu::noinline]] Buffer(Pool& pool, std::size_t bytes, Where where = Where::current())
      : shared_(new Shared{pool, pool.take(bytes, where)}) {}
  Buffer(const Buffer& other) : shared_(other.shared_) {
    if (shared_) shared_->handles.fetch_add(1, std::memory_order_relaxed);
  }
  Buffer(Buffer&& other) noexcept : shared_(std::exchange(other.shared_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(shared_, other.shared_);
    return *this;
  }
  ~Buffer() {
    if (shared_) release();
  }

  void* data() const { return shared_ ? shared_->block.data : nullptr; }
  /// The same, to be written to.
  [[gnu::cold, gnu::noinline]] void* writable() const {
    if (!shared_) return nullptr;
    if (shared_->written.load(std::memory_order_relaxed))
      shared_->written.store(detail::clock().load(std::memory_order_relaxed), std::memory_order_relaxed);
    return shared_->block.data;
  }
  /// From now on the time of the last call of `writable` is kept.
  void keep_time() const {
    if (shared_ && !shared_->written.load(std::memory_order_relaxed))
      shared_->written.store(1, std::memory_order_relaxed);
  }
  /// When `writable` was last called; 0 where that is not kept.
  std::uint64_t written() const { return shared_ ? shared_->written.load(std::memory_order_relaxed) : 0; }
  std::size_t capacity() const { return shared_ ? shared_->block.capacity : 0; }
  bool unique() const { return shared_ && shared_->handles.load(std::memory_order_acquire) == 1; }
  explicit operator bool() const { return shared_ != nullptr; }

 private:
  struct Shared {
    Pool& pool;
    Pool::Block block;
    std::atomic<int> handles{1};
    std::atomic<std::uint64_t> written{0};
  };
  [[gnu::cold, gnu::noinline]] void release() noexcept {
    if (shared_->handles.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    shared_->pool.give(shared_->block);
    delete shared_;
  }

  Shared* shared_ = nullptr;
};

}  // namespace meft
