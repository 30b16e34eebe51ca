// Owns: what every harness uses: its files, in a folder in memory, and maps of them that AddressSanitizer guards.
// Included before anything of the library, since it puts malloc in mmap's place.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

namespace meft::fuzz {

/// A map as a block of the heap: a read past its end is seen, which the rest of a mapped page would hide.
inline void* map(void*, std::size_t size, int, int, int fd, long) {
  char* bytes = static_cast<char*>(std::malloc(size));
  for (std::size_t at = 0; at < size;) {
    const ssize_t got = ::pread(fd, bytes + at, size - at, static_cast<off_t>(at));
    if (got <= 0) break;
    at += static_cast<std::size_t>(got);
  }
  return bytes;
}
inline int unmap(void* bytes, std::size_t) {
  std::free(bytes);
  return 0;
}

/// The process's folder for inputs, under TMPDIR, which fuzz.py makes and takes away.
inline const std::string& folder() {
  static const std::string path = [] {
    const auto made = std::filesystem::temp_directory_path() / ("meft_fuzz_" + std::to_string(::getpid()));
    std::filesystem::create_directories(made);
    return made.string();
  }();
  return path;
}

/// Writes a file of that folder; returns its path.
inline std::string put(const std::string& name, std::string_view bytes) {
  std::string path = folder() + "/" + name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done <= 0) std::abort();
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
  ::close(fd);
  return path;
}

inline void remove(const std::string& name) { ::unlink((folder() + "/" + name).c_str()); }

/// What must hold; the fuzzer reports the input where it does not.
inline void expect(bool ok) {
  if (!ok) __builtin_trap();
}

}  // namespace meft::fuzz

inline void* meft_fuzz_map(void* at, std::size_t size, int protection, int flags, int fd, long offset) {
  return meft::fuzz::map(at, size, protection, flags, fd, offset);
}
inline int meft_fuzz_unmap(void* bytes, std::size_t size) { return meft::fuzz::unmap(bytes, size); }
inline int meft_fuzz_advise(void*, std::size_t, int) { return 0; }
#define mmap meft_fuzz_map
#define munmap meft_fuzz_unmap
#define madvise meft_fuzz_advise

#include <meft/base/error.hpp>

namespace meft::fuzz {

/// Runs `body`; the library's own error is the right answer to a bad input, everything else is not.
template <class Body>
void may_refuse(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    for (const char c : error.message()) expect(static_cast<unsigned char>(c) >= 0x20);  // one line
  }
}

}  // namespace meft::fuzz
