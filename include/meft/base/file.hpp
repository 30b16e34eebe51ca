// Owns: regular files open for reading: whole, piece by piece, by their status; and whether a name is taken. POSIX
// only. Must not know: what the bytes mean, writing.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <meft/base/error.hpp>

namespace meft {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { close(); }

  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }

  /// Closes now; false with errno set when the system reports a late write error.
  bool close() {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || ::close(fd) == 0 || errno == EINTR;
  }

 private:
  int fd_;
};

/// A regular file open for reading. Anything else (a folder, FIFO, socket or device) is refused, without waiting for a
/// writer. Errors name the path and the system's reason.
class InputFile {
 public:
  InputFile() = default;
  explicit InputFile(std::string path, Where where = Where::current()) : path_(std::move(path)) {
    require(path_.find('\0') == std::string::npos, {path_ + ": cannot be opened: the path holds a zero byte", where});
    int fd = -1;
    // Without O_NONBLOCK a FIFO would wait for its writer.
    do fd = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    while (fd < 0 && errno == EINTR);
    // A socket cannot be opened at all (ENXIO).
    if (fd < 0) {
      struct stat info {};
      const int error = errno;
      if (::stat(path_.c_str(), &info) == 0) require_regular(info, where);
      fail_system("cannot be opened", error, where);
    }
    fd_ = Descriptor(fd);
    info_ = status(where);
    require_regular(info_, where);
  }

  const std::string& path() const { return path_; }
  int descriptor() const { return fd_.get(); }
  /// Bytes when it was opened: 0 for some files of the system that do hold some.
  std::uint64_t size() const { return static_cast<std::uint64_t>(info_.st_size); }

  void seek(std::uint64_t offset, Where where = Where::current()) {
    if (::lseek(fd_.get(), static_cast<off_t>(offset), SEEK_SET) < 0)
      fail_system("cannot be read at byte " + std::to_string(offset), errno, where);
  }
  /// The next `size` bytes; fewer only at the file's end.
  std::size_t read(void* to, std::size_t size, Where where = Where::current()) {
    std::size_t used = 0;
    while (used < size) {
      // Linux moves at most 2 GiB - 4 KiB a call.
      const ssize_t got = ::read(fd_.get(), static_cast<char*>(to) + used, std::min(size - used, std::size_t{1} << 30));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_system("cannot be read", errno, where);
      if (got == 0) break;
      used += static_cast<std::size_t>(got);
    }
    return used;
  }

  /// Throws Error when the file has another size or was written to since it was opened.
  void require_unchanged(Where where = Where::current()) const {
    if (!fd_) return;
    const auto now = status(where);
    if (now.st_size != info_.st_size)
      fail({path_ + ": changed while it was read: " + std::to_string(info_.st_size) + " bytes before, now " +
                std::to_string(now.st_size),
            where});
    if (now.st_mtim.tv_sec != info_.st_mtim.tv_sec || now.st_mtim.tv_nsec != info_.st_mtim.tv_nsec)
      fail({path_ + ": changed while it was read: it was written to", where});
  }

 private:
  [[noreturn]] void fail_system(const std::string& doing, int error, Where where) const {
    throw Error(path_ + ": " + doing + ": " + std::generic_category().message(error), where);
  }
  void require_regular(const struct stat& info, Where where) const {
    if (S_ISDIR(info.st_mode)) fail_system("cannot be read", EISDIR, where);
    const char* what = S_ISFIFO(info.st_mode)   ? "a FIFO"
                       : S_ISSOCK(info.st_mode) ? "a socket"
                       : S_ISREG(info.st_mode)  ? nullptr
                                                : "a device";
    if (what) fail({path_ + ": cannot be read: " + what + ", not a regular file", where});
  }
  struct stat status(Where where) const {
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) fail_system("cannot be read", errno, where);
    return info;
  }

  std::string path_;
  Descriptor fd_;
  struct stat info_ {};
};

/// What to say of a file that is a pointer of Git LFS, which a clone without it leaves in place of large files; empty
/// for others.
inline std::string lfs_pointer(std::string_view bytes) {
  if (!bytes.starts_with("version https://git-lfs.github.com/spec/") &&
      !bytes.starts_with("version https://hawser.github.com/spec/"))
    return {};
  const auto line = bytes.substr(0, 1024).find("\nsize ");
  std::string size;
  for (std::size_t i = line + 6; line != bytes.npos && i < bytes.size() && bytes[i] >= '0' && bytes[i] <= '9'; ++i)
    size += bytes[i];
  return "is a Git LFS pointer" + (size.empty() ? "" : " to " + size + " bytes") +
         ": the file itself was not downloaded; `git lfs pull` in its folder fetches it";
}

/// All bytes of a regular file. Errors: as InputFile, it has more than `most` bytes, or it is a pointer of Git LFS.
inline std::string read_file(const std::string& path, std::size_t most = std::numeric_limits<std::size_t>::max(),
                             Where where = Where::current()) {
  InputFile file(path, where);
  const auto too_large = [&] {
    fail({path + ": is larger than the limit of " + std::to_string(most) + " bytes", where});
  };
  if (file.size() > most) too_large();
  std::string bytes;
  std::size_t used = 0;
  // The size is only a hint: the file may be growing, and some files report 0.
  for (bytes.resize(static_cast<std::size_t>(file.size()) + 4096);; bytes.resize(2 * used)) {
    used += file.read(bytes.data() + used, bytes.size() - used, where);
    if (used > most) too_large();
    if (used < bytes.size()) break;
  }
  bytes.resize(used);
  const auto pointer = lfs_pointer(bytes);
  require(pointer.empty(), {path + ": " + pointer, where});
  return bytes;
}

/// Whether something has this name, be it a link to nothing or in a folder that cannot be searched: opening says why.
inline bool is_there(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

}  // namespace meft
