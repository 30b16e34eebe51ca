// Owns: what a recording that is being made gathers besides the graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <meft/backend/cuda/recording.hpp>
#include <meft/memory/buffer.hpp>
#include <stream.cuh>

namespace meft::cuda {

/// Pinned host memory that a graph copies from and to. Blocks never move.
class Pinned {
 public:
  Pinned() = default;
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned();
  std::byte* take(std::size_t bytes);

 private:
  std::vector<void*> chunks_;
  std::size_t used_ = 0, size_ = 0;  // of the last chunk
};

/// The tables (table.cuh) of those who enqueue work in one order: of a recording, and of what is not recorded.
class Tables {
 public:
  Buffer find(const void* data, std::size_t bytes);
  /// By its name, and what `fill` writes in it before each run.
  Buffer find(const std::string& name, std::size_t bytes, std::function<void(void*)> fill);

 private:
  struct Entry {
    std::string content;
    Buffer buffer;
  };
  std::deque<Entry> kept_;
  std::map<std::string, Buffer> named_;
};

struct Recorder {
  struct Read {
    const std::byte* data;
    std::function<void(const void*)> then;
  };

  std::vector<Recording::Input> inputs;
  Pinned pinned;
  std::vector<Read> reads;
  std::vector<std::function<bool()>> checks;   // of inputs on the device
  std::vector<std::function<bool()>> settled;  // on the host
  struct Follower {
    std::byte* data;
    std::function<void(void*)> fill;
  };
  std::vector<Follower> followers;
  Tables tables;
  bool refused = false;
  std::vector<std::function<void()>> missing;  // what is to be chosen before this is recorded again
  std::uint64_t number = 0;                    // from 1 on

  bool is_input(const void* data) const;
  void upload(void* to, const void* from, std::size_t bytes);
  void follow(void* to, std::size_t bytes, std::function<void(void*)> fill);
  void read(const void* from, std::size_t bytes, std::function<void(const void*)> then);
  /// Throws, and remembers: the work cannot be recorded.
  [[noreturn]] void refuse(const char* call);
};

/// The recording that is being made, or null; null too while an Aside lives.
Recorder* recorder();
/// Whether one is being made: the main stream takes nothing that is to be done now, inside of an Aside neither.
bool capturing();

/// Whether choose(), which makes something that is then known, waits until no work is recorded: libraries choose
/// algorithms, compile and load kernels then. What is recorded meanwhile is given up, so anything may stand for it.
bool later(std::function<void()> choose);

/// While it lives, work goes to a stream that is not recorded; its end waits for that work.
class Aside {
 public:
  Aside();
  ~Aside();
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

 private:
  Recorder* before_;
  OnStream on_;
};

/// look() on values: at once; while work is recorded, of inputs alone, now and before each run, which must find the
/// same, or what is `alike`. `otherwise` of memory that is no input: what recorded work has written there is not known
/// yet.
template <class Look, class Alike = std::equal_to<>>
auto look_at(const void* values, const Look& look, decltype(look()) otherwise, const Alike& alike = {}) {
  Recorder* const r = recorder();
  if (!r) return look();
  if (!r->is_input(values)) return otherwise;
  const auto seen = [&] {
    const Aside aside;
    return look();
  }();
  r->checks.push_back([look, seen, alike] { return alike(look(), seen); });
  return seen;
}

}  // namespace meft::cuda
