// Owns: files as bytes, mapped or replaced all at once, and appending a line. POSIX only.
// Must not know: what the bytes mean.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <meft/base/error.hpp>
#include <meft/base/file.hpp>

namespace meft::io {

namespace detail {

/// Throws `doing: path: reason`.
[[noreturn]] inline void fail_system(std::string_view doing, std::string_view path, int error, Where where) {
  std::string message = std::string(doing) + ": " + std::string(path) + ": " + std::generic_category().message(error);
  throw Error(std::move(message), where);
}

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
/// process truncates in place while it is mapped raises SIGBUS on access; AtomicFile never does that, and
/// require_unchanged() tells before what follows is read.
class MappedFile {
 public:
  MappedFile() = default;
  /// Errors: as InputFile, or it is a pointer of Git LFS.
  explicit MappedFile(std::string path, Where where = Where::current()) : file_(std::move(path), where) {
    size_ = static_cast<std::size_t>(file_.size());
    if (size_ == 0) return;
    void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.descriptor(), 0);
    if (data == MAP_FAILED) detail::fail_system("map", file_.path(), errno, where);
    data_ = static_cast<const std::byte*>(data);
    const auto pointer = lfs_pointer({static_cast<const char*>(data), size_});
    if (pointer.empty()) return;
    ::munmap(data, size_);
    fail({file_.path() + ": " + pointer, where});
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
  const std::string& path() const { return file_.path(); }
  /// Throws Error when the file has another size or was written to since it was mapped.
  void require_unchanged(Where where = Where::current()) const { file_.require_unchanged(where); }
  /// Gives the memory of what was read back; it is read again from the file when it is looked at.
  void forget() const {
    if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  InputFile file_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole of a file as it is on disk. Errors: as read_file.
inline std::string read_text(const std::string& path, std::size_t max_bytes = std::size_t{64} << 20,
                             Where where = Where::current()) {
  return read_file(path, max_bytes, where);
}

/// A file that appears whole or not at all. Bytes go to `<path>.partial` beside it; commit() flushes them to the disk
/// and renames. Without commit(), and after any error, the old file is as it was and the partial one is gone, but where
/// only flushing the folder failed: then the new one is in place. A partial file left by a killed process is reused by
/// the next write. Two writers of one path at a time: the second gets an Error. A symbolic link at `path` is replaced,
/// not followed; an existing file's permissions are kept.
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
    Descriptor done = std::move(fd_);
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

  Descriptor open_folder(Where where) {
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
  Descriptor fd_;
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
/// to disk. Errors: what is there is no regular file.
inline void append_line(const std::string& path, std::string_view line, Where where = Where::current()) {
  require(line.find('\n') == std::string_view::npos, {"append: " + path + ": a line must not hold a newline", where});
  auto fd = detail::open_file(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK, "open for appending", where);
  const auto info = detail::status(fd, path, where);
  require(S_ISREG(info.st_mode), {"append: " + path + ": exists and is not a regular file", where});
  std::string text;
  char last = '\n';
  if (info.st_size > 0 && ::pread(fd.get(), &last, 1, info.st_size - 1) == 1 && last != '\n') text = "\n";
  text += line;
  text += '\n';
  if (!detail::write_fully(fd.get(), text.data(), text.size())) {
    const int error = errno;
    if (::ftruncate(fd.get(), info.st_size) != 0)
      fail({"append: " + path + ": cannot take back a partial line: " + std::generic_category().message(errno), where});
    detail::fail_system("append", path, error, where);
  }
  if (!fd.close()) detail::fail_system("close", path, errno, where);
}

}  // namespace meft::io
