// Owns: what an OS thread is that runs the blocks of a grid, and the grid as its workers see it. engine.cpp schedules,
// meetings.cpp has where threads meet, faults.cpp tells what went wrong.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine.hpp"
#include "fibre.hpp"

namespace emulate {

inline constexpr std::size_t stack_bytes = std::size_t{256} << 10;
inline constexpr std::size_t shared_room = std::size_t{256} << 10;  // whole pages, for more than a block may have

/// SplitMix64.
struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    std::uint64_t z = state += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }
};

/// A grid that runs, seen by all its workers.
struct Run {
  Run(const Grid& g, std::uint64_t n, std::uint64_t s)
      : grid(g), number(n), seed(s), blocks(std::uint64_t{g.grid.x} * g.grid.y * g.grid.z) {}
  const Grid& grid;
  std::uint64_t number, seed, blocks;
  std::uint64_t stride = 1, offset = 0;  // block i in turn is the block i·stride + offset
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> faulted{false};
  std::mutex mutex;
  Fault fault = Fault::none;
  char text[1024] = "";

  void record(Fault kind, const char* what) {
    std::lock_guard lock(mutex);
    if (fault != Fault::none) return;
    fault = kind;
    std::snprintf(text, sizeof text, "%s", what);
    faulted = true;
  }
};

enum class State : unsigned char { fresh, ready, running, at_barrier, at_warp, done };

struct Thread {
  uint3 index{0, 0, 0};
  State state = State::fresh;
  Meeting kind{};
  Fibre* fibre = nullptr;
  Place place{"", 0};
  unsigned mask = 0;
  int source = 0;
  std::uint64_t value = 0, result = 0;
};

inline const char* name_of(Meeting kind) {
  switch (kind) {
    case Meeting::warp: return "__syncwarp";
    case Meeting::shuffle: return "a shuffle";
    case Meeting::vote: return "a vote";
    case Meeting::multiply: return "mma";
    case Meeting::load: return "ldmatrix";
    default: return "__syncthreads";
  }
}

inline const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

inline bool same(Place a, Place b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

/// Matrix instructions, of the parts of 32 lanes. What is wrong with a load; null where it was done.
void multiply_lanes(const std::uint64_t (&parts)[32]);
const char* load_lanes(const std::uint64_t (&parts)[32]);

/// What one OS thread needs to run blocks, one after another.
class Worker {
 public:
  ~Worker() {
    if (shared_) munmap(shared_, shared_room + 2 * page_);
  }

  void work(Run& run);
  static void fibre_main();

  int meet_block(Meeting kind, int predicate, Place place);
  std::uint64_t meet_warp(Meeting kind, unsigned mask, std::uint64_t value, int source, Place place);
  unsigned lane() const { return current_ & 31u; }
  void* shared() const { return shared_at_; }
  [[noreturn]] void fail(Fault kind, std::string what);
  [[noreturn]] void trap(const char* what, Place place);
  [[noreturn]] void leave();
  bool on_fault(void* address, bool is_write, void* context);
  [[noreturn]] void report_fault();

 private:
  void run_block(std::uint64_t block);
  void finish();
  bool pick(unsigned& next);
  void resume(unsigned next, Fibre* from);
  void block_current();
  void ready(unsigned thread);
  Fibre* free_fibre();
  [[noreturn]] void deadlock();
  void record(Fault kind, std::string what);
  std::string waiting() const;

  Run* run_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<unsigned> order_, ready_;
  std::size_t ready_from_ = 0, fresh_from_ = 0;
  unsigned current_ = 0, done_ = 0, count_ = 0, arrived_ = 0;
  int sum_ = 0, and_ = 1, or_ = 0;
  std::vector<unsigned> warp_arrived_;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Fibre*> free_;
  Fibre main_;
  Fibre* fibre_ = nullptr;  // the one that runs
  Fibre* left_ = nullptr;   // the one on which a fault ended the block
  Random random_{0};
  std::uint64_t switches_ = 0, operations_ = 0;
  std::size_t page_ = 4096;
  char* shared_ = nullptr;
  char* shared_at_ = nullptr;
  char* fault_address_ = nullptr;
  bool fault_is_write_ = false;
};

/// The worker of this OS thread while it runs a block.
extern constinit thread_local Worker* working;

/// In the signal handler, for a fault at `address`: whether a thread of a block is to blame, which then goes on where
/// it gives up the block.
bool fault_in_kernel(void* address, bool is_write, void* context);

}  // namespace emulate
