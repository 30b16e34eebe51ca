// Owns: files that a test writes.
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "messages.hpp"

namespace meft::test {

namespace fs = std::filesystem;

/// A folder of its own, removed at the end.
struct Folder {
  fs::path path;
  Folder() {
    static std::atomic<int> number = 0;
    path = fs::temp_directory_path() / ("meft_test_" + std::to_string(::getpid()) + "_" + std::to_string(number++));
    fs::create_directories(path);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string put(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
  Folder& with(const std::string& name, const std::string& bytes) {
    put(name, bytes);
    return *this;
  }
  std::string text() const { return path.string(); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

/// The error's message, the folder's name taken out.
inline std::string message_of(const std::function<void()>& f, const Folder* folder) {
  std::string text = message_of(f);
  for (std::size_t at; (at = text.find(folder->text() + "/")) != text.npos;) text.erase(at, folder->text().size() + 1);
  return text;
}

/// Puts at `path`, one after the other, what no reader may take (or wait for): each time `read` throws an Error that
/// begins with the path and names the reason. `folder` too, where a folder is no input.
inline void refuses_odd_files(const std::string& path, const std::function<void()>& read, bool folder = true) {
  const auto with = [&](auto&& make, const std::string& reason) {
    std::error_code ignored;
    fs::remove_all(path, ignored);
    make();
    const auto message = message_of(read);
    CHECK_MESSAGE(message.starts_with(path + ": cannot be "), message);
    CHECK_MESSAGE(contains(message, reason), message);
    fs::remove_all(path, ignored);
  };
  const auto require_made = [](bool ok) {
    if (!ok) throw std::runtime_error("cannot make the odd file");
  };
  with([&] { require_made(::mkfifo(path.c_str(), 0600) == 0); }, "a FIFO, not a regular file");
  const auto make_socket = [&] {
    const fs::path here = fs::current_path();
    fs::current_path(fs::path(path).parent_path());  // a socket's path is short
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string file = fs::path(path).filename().string();
    file.copy(name.sun_path, sizeof name.sun_path - 1);
    const int made = ::socket(AF_UNIX, SOCK_STREAM, 0);
    const bool bound = ::bind(made, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0;
    ::close(made);
    fs::current_path(here);
    require_made(bound);
  };
  with(make_socket, "a socket, not a regular file");
  with([&] { fs::create_symlink("/dev/null", path); }, "a device, not a regular file");
  with([&] { fs::create_symlink("/dev/zero", path); }, "a device, not a regular file");
  with([&] { fs::create_symlink(path, path); }, "Too many levels of symbolic links");
  with([&] { fs::create_symlink(path + ".gone", path); }, "No such file or directory");
  if (folder) with([&] { fs::create_directory(path); }, "Is a directory");
}

}  // namespace meft::test
