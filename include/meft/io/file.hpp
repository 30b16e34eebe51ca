// Owns: files as bytes. Mapping, reading, replacing a file all at once, appending a line. POSIX only.
// Must not know: what the bytes mean.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <meft/base/error.hpp>

namespace meft::io {

namespace detail {

/// Throws `doing: path: reason`.
[[noreturn]] inline void fail_system(std::string_view doing, std::string_view path, int error, Where where) {
  std::string message = std::string(doing) + ": " + std::string(path) + ": " + std::generic_category().message(error);
  throw Error(std::move(message), where);
}

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

inline Descriptor open_file(const std::string& path, int flags, std::string_view doing, Where where) {
  require(path.find('\0') == std::string::npos, {"open: the path holds a zero byte", where});
  int fd = -1;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) fail_system(doing, path, errno, where);
  return Descriptor(fd);
}

inline struct stat status(const Descriptor& fd, const std::string& path, Where where) {
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) fail_system("read the status of a file", path, errno, where);
  return info;
}

/// Writes every byte; false with errno set on failure.
inline bool write_fully(int fd, const char* data, std::size_t size) {
  while (size > 0) {
    // Linux moves at most 2 GiB - 4 KiB a call.
    const ssize_t done = ::write(fd, data, size < (std::size_t{1} << 30) ? size : std::size_t{1} << 30);
    if (done < 0 && errno == EINTR) continue;
    if (done == 0) errno = ENOSPC;
    if (done <= 0) return false;
    data += done;
    size -= static_cast<std::size_t>(done);
  }
  return true;
}

/// The folder that holds `path`: "." for a bare name.
inline std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace detail

/// A regular file mapped for reading. The bytes stay at their address when the object moves. A file that another
/// process truncates in place while it is mapped raises SIGBUS on access; AtomicFile never does that.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error for a file that is missing, unreadable or not a regular file.
  explicit MappedFile(std::string path, Where where = Where::current()) : path_(std::move(path)) {
    // Without O_NONBLOCK a named pipe would wait for its writer.
    const auto fd = detail::open_file(path_, O_RDONLY | O_NONBLOCK, "open for reading", where);
    const auto info = detail::status(fd, path_, where);
    if (S_ISDIR(info.st_mode)) detail::fail_system("open for reading", path_, EISDIR, where);
    if (!S_ISREG(info.st_mode)) fail({"open for reading: " + path_ + ": not a regular file", where});
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ == 0) return;
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) detail::fail_system("map", path_, errno, where);
    data_ = static_cast<const std::byte*>(data);
  }
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile(std::move(other)).swap(*this);
    return *this;
  }
  ~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Gives the memory of what was read back; it is read again from the file when it is looked at.
  void forget() const {
    if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }

 private:
  void swap(MappedFile& other) noexcept {
    path_.swap(other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole of a file (or pipe) as it is on disk. Throws Error when it holds more than `max_bytes`.
inline std::string read_text(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20,
                             Where where = Where::current()) {
  const auto fd = detail::open_file(path, O_RDONLY, "open for reading", where);
  const auto info = detail::status(fd, path, where);
  const auto too_large = [&] {
    fail({"read: " + path + ": larger than the limit of " + std::to_string(max_bytes) + " bytes", where});
  };
  if (S_ISREG(info.st_mode) && static_cast<std::uint64_t>(info.st_size) > max_bytes) too_large();
  std::string text;
  std::size_t used = 0;
  // The size is only a hint: the file may be growing, and some files report 0.
  text.resize(static_cast<std::size_t>(S_ISREG(info.st_mode) ? info.st_size : 0) + 4096);
  while (true) {
    const ssize_t got = ::read(fd.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) detail::fail_system("read", path, errno, where);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    if (used > max_bytes) too_large();
    if (used == text.size()) text.resize(2 * used);
  }
  text.resize(used);
  return text;
}

/// A file that appears whole or not at all. Bytes go to `<path>.partial` beside it; commit() flushes them to the disk
/// and renames. Without commit(), and after any error, the old file is as it was and the partial one is gone. A partial
/// file left by a killed process is reused by the next write. Two writers of one path at a time: the second gets an
/// Error. A symbolic link at `path` is replaced, not followed; an existing file's permissions are kept.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path, Where where = Where::current())
      : path_(std::move(path)), partial_(path_ + ".partial") {
    struct stat old {};
    const bool exists = ::lstat(path_.c_str(), &old) == 0;
    require(!exists || S_ISREG(old.st_mode) || S_ISLNK(old.st_mode),
            {"write: " + path_ + ": exists and is not a regular file", where});
    claim(where);
    require_written(::ftruncate(fd_.get(), 0) == 0, where);
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { discard(); }

  /// Appends bytes. Throws Error with the path and the system's reason, e.g. a full disk.
  void write(std::span<const std::byte> bytes, Where where = Where::current()) {
    require(static_cast<bool>(fd_), {"write: " + path_ + ": the file is already committed or has failed", where});
    require_written(detail::write_fully(fd_.get(), reinterpret_cast<const char*>(bytes.data()), bytes.size()), where);
  }
  void write(std::string_view text, Where where = Where::current()) {
    write(std::as_bytes(std::span(text.data(), text.size())), where);
  }

  /// Flushes, then puts the new file in the old one's place.
  void commit(Where where = Where::current()) {
    require(static_cast<bool>(fd_), {"write: " + path_ + ": the file is already committed or has failed", where});
    struct stat old {};
    if (::lstat(path_.c_str(), &old) == 0 && S_ISREG(old.st_mode)) {
      require_written(::fchmod(fd_.get(), old.st_mode & 0777) == 0, where);
    }
    require_written(::fsync(fd_.get()) == 0, where);
    const auto folder = open_folder(where);
    // The rename comes before the close: closing gives up the lock on the partial file.
    require_written(::rename(partial_.c_str(), path_.c_str()) == 0, where);
    detail::Descriptor done = std::move(fd_);
    // Some file systems cannot flush a folder and say EINVAL.
    if (::fsync(folder.get()) != 0 && errno != EINVAL) detail::fail_system("flush the folder of", path_, errno, where);
    if (!done.close()) detail::fail_system("close", path_, errno, where);
  }

  const std::string& path() const { return path_; }

 private:
  /// Opens and locks the partial file. The file at that name may be renamed by its writer between our open and our
  /// lock: then it is another file by now, and we try again.
  void claim(Where where) {
    while (true) {
      fd_ = detail::open_file(partial_, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, "open for writing", where);
      if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        fd_.close();
        fail({"write: " + path_ + ": is being written elsewhere (" + partial_ + " is locked)", where});
      }
      const auto ours = detail::status(fd_, partial_, where);
      require(S_ISREG(ours.st_mode), {"write: " + partial_ + ": exists and is not a regular file", where});
      struct stat named {};
      if (::lstat(partial_.c_str(), &named) == 0 && named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) return;
    }
  }

  detail::Descriptor open_folder(Where where) {
    try {
      return detail::open_file(detail::folder_of(path_), O_RDONLY | O_DIRECTORY, "open the folder", where);
    } catch (...) {
      discard();
      throw;
    }
  }

  void require_written(bool ok, Where where) {
    if (ok) return;
    const int error = errno;
    discard();
    detail::fail_system("write", path_, error, where);
  }

  void discard() noexcept {
    if (!fd_) return;
    ::unlink(partial_.c_str());
    fd_.close();
  }

  std::string path_, partial_;
  detail::Descriptor fd_;
};

/// Replaces `path` by what `fill(AtomicFile&)` writes; an exception from `fill` leaves the old file.
template <class Fill>
requires std::is_invocable_v<Fill&, AtomicFile&>
void write_atomically(const std::string& path, Fill&& fill, Where where = Where::current()) {
  AtomicFile file(path, where);
  fill(file);
  file.commit(where);
}

inline void write_atomically(const std::string& path, std::span<const std::byte> bytes,
                             Where where = Where::current()) {
  write_atomically(
      path, [&](AtomicFile& file) { file.write(bytes, where); }, where);
}

inline void write_atomically(const std::string& path, std::string_view text, Where where = Where::current()) {
  write_atomically(path, std::as_bytes(std::span(text.data(), text.size())), where);
}

/// Appends `line` and a newline to a log, for one writer at a time; creates the file. A torn last line, left by a
/// killed process, is first ended by a newline. A failed write is taken back, so the log keeps whole lines. Not flushed
/// to disk.
inline void append_line(const std::string& path, std::string_view line, Where where = Where::current()) {
  require(line.find('\n') == std::string_view::npos, {"append: " + path + ": a line must not hold a newline", where});
  auto fd = detail::open_file(path, O_RDWR | O_CREAT | O_APPEND, "open for appending", where);
  const auto info = detail::status(fd, path, where);
  const bool regular = S_ISREG(info.st_mode);
  std::string text;
  char last = '\n';
  if (regular && info.st_size > 0 && ::pread(fd.get(), &last, 1, info.st_size - 1) == 1 && last != '\n') text = "\n";
  text += line;
  text += '\n';
  if (!detail::write_fully(fd.get(), text.data(), text.size())) {
    const int error = errno;
    if (regular && ::ftruncate(fd.get(), info.st_size) != 0) {
      fail({"append: " + path + ": cannot take back a partial line: " + std::generic_category().message(errno), where});
    }
    detail::fail_system("append", path, error, where);
  }
  if (!fd.close()) detail::fail_system("close", path, errno, where);
}

}  // namespace meft::io
