// Owns: the CPU tag.
#pragma once

#include <cstdlib>
#include <cstring>

#include <meft/backend/backend.hpp>

namespace meft {

struct Cpu {
  static constexpr const char* name = "cpu";
  static constexpr Index slice_tokens = 256;
  static constexpr bool on_host = true;

  /// The process's one CPU pool. It is never destroyed, so that tensors may outlive main.
  [[gnu::noinline]] static Pool& pool() {
    static Pool& pool = *new Pool(
        name, [](std::size_t bytes) { return std::aligned_alloc(64, bytes); }, [](void* p) { std::free(p); });
    return pool;
  }

  static void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void upload(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  static void download(void* to, const void* from, std::size_t bytes) { copy(to, from, bytes); }
  static void synchronize() {}
  static void zero(void* to, std::size_t bytes) {
    if (bytes) std::memset(to, 0, bytes);
  }
};
static_assert(Backend<Cpu>);

}  // namespace meft
