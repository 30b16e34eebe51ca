// Owns: the CPU tag.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <meft/backend/backend.hpp>

namespace meft {

namespace detail {
inline bool& late_pages() {
  thread_local bool late = false;
  return late;
}
}  // namespace detail

/// While it lives, large blocks that this thread takes get their pages when they are written to: of what may be let go
/// before it is.
class LatePages {
 public:
  explicit LatePages(bool on = true) : before_(std::exchange(detail::late_pages(), on)) {}
  ~LatePages() { detail::late_pages() = before_; }
  LatePages(const LatePages&) = delete;
  LatePages& operator=(const LatePages&) = delete;

 private:
  bool before_;
};

struct Cpu {
  static constexpr const char* name = "cpu";
  static constexpr Index slice_tokens = 256;
  static constexpr bool on_host = true;
  static constexpr std::size_t large = std::size_t{4} << 20;  // bytes of a block in huge pages, of 2 MiB each

  /// The process's one CPU pool. It is never destroyed, so that tensors may outlive main.
  [[gnu::noinline]] static Pool& pool() {
    static Pool& pool = [&]() -> Pool& {
      pthread_atfork([] { Cpu::pool().lock(); }, [] { Cpu::pool().unlock(); }, [] { Cpu::pool().unlock(); });
      return *new Pool(name, allocate, release);
    }();
    return pool;
  }

  /// Blocks of 4 MiB or more lie in huge pages where Linux lends them: fewer page faults and address translations. All
  /// their pages are there from the start, so that what is held is what is resident.
  static void* allocate(std::size_t bytes) {
#ifdef __linux__
    if (bytes >= large) {
      void* p = nullptr;  // aligned_alloc wants a multiple of the alignment
      if (posix_memalign(&p, large / 2, bytes)) return nullptr;
      madvise(p, bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
#ifdef MADV_POPULATE_WRITE
      if (!detail::late_pages()) madvise(p, bytes, MADV_POPULATE_WRITE);
#endif
      return p;
    }
#endif
    return std::aligned_alloc(64, bytes);
  }
  /// The pages go back to the system even where the C library keeps the addresses.
  static void release(void* block, std::size_t bytes) {
#ifdef __linux__
    constexpr std::uintptr_t page = 4096;
    const auto begin = (reinterpret_cast<std::uintptr_t>(block) + page - 1) / page * page,
               end = (reinterpret_cast<std::uintptr_t>(block) + bytes) / page * page;
    void* first = reinterpret_cast<void*>(begin);
    if (begin < end && bytes >= large) madvise(first, end - begin, MADV_NOHUGEPAGE);  // for who has the addresses next
    if (begin < end && bytes > 16 * page) madvise(first, end - begin, MADV_DONTNEED);
#endif
    std::free(block);
  }

  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void upload(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  static void download(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  /// Nothing runs ahead of the host.
  struct Ahead {
    static void begin() {}
  };
  /// Nothing is recorded to be run again.
  template <class F>
  static void follow(void* to, std::size_t, const F& fill) {
    fill(to);
  }
  template <class F>
  static auto settled(const F& found) {
    return found();
  }
  /// f(data) with the bytes on the host.
  template <class F>
  static void read(const void* from, std::size_t, const F& f) {
    f(from);
  }
  static void synchronize() {}
  static void zero(void* to, std::size_t bytes) {
    if (bytes) std::memset(to, 0, bytes);
  }
};
static_assert(Backend<Cpu>);

}  // namespace meft
