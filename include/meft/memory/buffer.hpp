// Owns: a shared block of pool memory, returned when the last handle goes; when it was written to, where that is asked;
// and what is kept beside it until then.
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
  /// A block without memory, data() null, until `claim`.
  [[gnu::cold, gnu::noinline]] static Buffer unclaimed(Pool& pool, std::size_t bytes) {
    Buffer out;
    out.shared_ = new Shared{pool, {nullptr, bytes}};
    return out;
  }
  [[gnu::cold, gnu::noinline]] void claim(Where where = Where::current()) const {
    if (!shared_->block.data) shared_->block = shared_->pool.take(shared_->block.capacity, where);
  }
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
    if (shared_->beside) forget_beside();
    if (shared_->written.load(std::memory_order_relaxed))
      shared_->written.store(detail::clock().load(std::memory_order_relaxed), std::memory_order_relaxed);
    return shared_->block.data;
  }
  /// From now on the time of the last call of `writable` is kept, which is now as long as there is none: who asked for
  /// an earlier time had another block.
  void keep_time() const {
    std::uint64_t none = 0;
    if (shared_)
      shared_->written.compare_exchange_strong(none, detail::clock().load(std::memory_order_relaxed),
                                               std::memory_order_relaxed);
  }
  /// When `writable` was last called; 0 where that is not kept.
  std::uint64_t written() const { return shared_ ? shared_->written.load(std::memory_order_relaxed) : 0; }
  /// Keeps `other` beside the block until that is written to: what it says of elements [first, first + count). By one
  /// thread at a time. `made_in`: a number that tells who may rely on it (Cuda::recording_number).
  void keep_beside(Buffer other, std::size_t first, std::size_t count, std::uint64_t made_in) const {
    forget_beside();
    shared_->beside = std::exchange(other.shared_, nullptr);
    shared_->first = first, shared_->count = count, shared_->made_in = made_in;
  }
  std::uint64_t beside_made_in() const { return shared_->made_in; }
  /// What is kept of elements [first, first + count), each of so many bytes; null where it is not.
  void* beside(std::size_t first, std::size_t count, std::size_t each) const {
    if (!shared_ || !shared_->beside || first < shared_->first || first + count > shared_->first + shared_->count)
      return nullptr;
    return static_cast<std::byte*>(shared_->beside->block.data) + (first - shared_->first) * each;
  }
  std::size_t capacity() const { return shared_ ? shared_->block.capacity : 0; }
  bool unique() const { return shared_ && shared_->handles.load(std::memory_order_acquire) == 1; }
  explicit operator bool() const { return shared_ != nullptr; }

 private:
  struct Shared {
    Pool& pool;
    Pool::Block block;
    std::atomic<int> handles{1};
    std::atomic<std::uint64_t> written{0};
    Shared* beside = nullptr;
    std::size_t first = 0, count = 0;  // of the elements that it tells of
    std::uint64_t made_in = 0;
  };
  [[gnu::cold, gnu::noinline]] void forget_beside() const noexcept {
    Buffer old;
    old.shared_ = std::exchange(shared_->beside, nullptr);
  }
  [[gnu::cold, gnu::noinline]] void release() noexcept {
    if (shared_->handles.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    if (shared_->beside) forget_beside();
    if (shared_->block.data) shared_->pool.give(shared_->block);
    delete shared_;
  }

  Shared* shared_ = nullptr;
};

}  // namespace meft
