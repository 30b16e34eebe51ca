// Owns: a shared block of pool memory, returned when the last handle goes.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

#include <meft/memory/pool.hpp>

namespace meft {

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
  std::size_t capacity() const { return shared_ ? shared_->block.capacity : 0; }
  bool unique() const { return shared_ && shared_->handles.load(std::memory_order_acquire) == 1; }
  explicit operator bool() const { return shared_ != nullptr; }

 private:
  struct Shared {
    Pool& pool;
    Pool::Block block;
    std::atomic<int> handles{1};
  };
  [[gnu::cold, gnu::noinline]] void release() noexcept {
    if (shared_->handles.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    shared_->pool.give(shared_->block);
    delete shared_;
  }

  Shared* shared_ = nullptr;
};

}  // namespace meft
