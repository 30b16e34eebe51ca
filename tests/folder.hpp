// Owns: files that a test writes, and the messages of errors about them.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <meft/base/error.hpp>

namespace meft::test {

namespace fs = std::filesystem;

/// A folder of its own, removed at the end.
struct Folder {
  fs::path path;
  Folder() {
    static int number = 0;
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
  std::string text() const { return path.string(); }
};

/// The error's message, the folder's name taken out.
template <class Body>
std::string message_of(Body&& body, const Folder* folder = nullptr) {
  try {
    body();
  } catch (const Error& error) {
    std::string text = error.message();
    if (folder)
      for (std::size_t at; (at = text.find(folder->text() + "/")) != text.npos;)
        text.erase(at, folder->text().size() + 1);
    return text;
  }
  return "no error";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace meft::test
