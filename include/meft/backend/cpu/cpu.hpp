// Owns: the CPU tag.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <meft/backend/backend.hpp>

namespace meft {

struct Cpu {
  static constexpr const char* name = "cpu";
  static constexpr Index slice_tokens = 256;
  static constexpr bool on_host = true;

  /// The process's one CPU pool. It is never destroyed, so that tensors may outlive main.
  [[gnu::noinline]] static Pool& pool() {
    static Pool& pool = *new Pool(name, allocate, release);
    return pool;
  }

  /// Blocks of 4 MiB or more lie in huge pages where Linux lends them: fewer page faults and address translations.
  static void* allocate(std::size_t bytes) {
#ifdef __linux__
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    if (bytes >= 2 * huge_page) {
      void* p = std::aligned_alloc(huge_page, bytes);
      if (p) madvise(p, bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
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
    if (begin < end && bytes > 16 * page) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
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
