// Owns: what the operating system says that the process holds in memory.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace meft {

/// Resident bytes of the process: its own pages, and pages of files, which the system may take back; the highest that
/// both together ever were. Zero where Linux's /proc is not there.
struct Resident {
  std::size_t own = 0, file = 0, peak = 0;

  static Resident now() {
    char text[4096];
    const int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return {};
    const ssize_t size = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    text[size > 0 ? size : 0] = '\0';
    const auto of = [&](const char* name) {
      const char* const at = std::strstr(text, name);
      return at ? static_cast<std::size_t>(std::strtoull(at + std::strlen(name), nullptr, 10)) * 1024 : 0;
    };
    return {of("\nRssAnon:"), of("\nRssFile:") + of("\nRssShmem:"), of("\nVmHWM:")};
  }
};

}  // namespace meft
