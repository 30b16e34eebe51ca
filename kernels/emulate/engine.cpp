// Owns: the scheduler of a block's fibres.
#include "worker.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "crew.hpp"
#include "emulate.hpp"
#include "memory.hpp"
#include "runtime.hpp"

constinit thread_local uint3 threadIdx{0, 0, 0};
constinit thread_local uint3 blockIdx{0, 0, 0};
constinit thread_local dim3 blockDim{1, 1, 1};
constinit thread_local dim3 gridDim{1, 1, 1};

namespace emulate {

constinit thread_local Worker* working = nullptr;

namespace {

std::atomic<std::uint64_t> current_seed{[] {
  const char* text = std::getenv("MEFT_EMULATE_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0ull;
}()};
std::atomic<std::uint64_t> grids{0}, switches{0}, operations{0};

}  // namespace

// --- threads and fibres ---

void Worker::ready(unsigned thread) {
  threads_[thread].state = State::ready;
  ready_.push_back(thread);
}

/// The thread whose turn is next, among the ready ones and the next fresh one.
bool Worker::pick(unsigned& next) {
  const std::size_t waiting = ready_.size() - ready_from_, fresh = fresh_from_ < count_ ? 1 : 0;
  if (waiting + fresh == 0) return false;
  std::size_t choice = 0;
  if (run_->seed) {
    // A fresh one stands for all that are.
    choice = random_.below(waiting + (count_ - fresh_from_));
  }
  if (choice < waiting) {
    if (run_->seed) std::swap(ready_[ready_from_ + choice], ready_[ready_from_]);
    next = ready_[ready_from_++];
    if (ready_from_ == ready_.size()) ready_.clear(), ready_from_ = 0;
  } else {
    next = order_[fresh_from_++];
  }
  return true;
}

Fibre* Worker::free_fibre() {
  if (free_.empty()) {
    fibres_.push_back(std::make_unique<Fibre>(stack_bytes, &Worker::fibre_main));
    return fibres_.back().get();
  }
  Fibre* fibre = free_.back();
  free_.pop_back();
  return fibre;
}

/// Leaves the fibre that runs for the one of thread `next`.
void Worker::resume(unsigned next, Fibre* from) {
  Thread& thread = threads_[next];
  if (!thread.fibre) thread.fibre = free_fibre();
  current_ = next;
  threadIdx = thread.index;
  thread.state = State::running;
  fibre_ = thread.fibre;
  ++switches_;
  from->switch_to(*thread.fibre);
}

/// A fibre runs threads from start to end; after each, the next fresh one or what waits on another fibre.
void Worker::fibre_main() {
  Worker& w = *working;
  for (;;) {
    (*w.run_->grid.body)();
    w.finish();
    Fibre* own = w.fibre_;
    w.threads_[w.current_].fibre = nullptr;
    unsigned next = 0;
    if (w.pick(next)) {
      Thread& thread = w.threads_[next];
      if (!thread.fibre) {
        thread.fibre = own;
        thread.state = State::running;
        w.current_ = next;
        threadIdx = thread.index;
        continue;
      }
      w.free_.push_back(own);
      w.resume(next, own);
    } else {
      if (w.done_ != w.count_) w.deadlock();
      w.free_.push_back(own);
      w.fibre_ = nullptr;
      own->switch_to(w.main_);
    }
  }
}

/// The current thread waits: others run until it is ready again.
void Worker::block_current() {
  const unsigned self = current_;
  Fibre* own = fibre_;
  unsigned next = 0;
  if (!pick(next)) deadlock();
  if (next != self) resume(next, own);
  current_ = self;
  threadIdx = threads_[self].index;
  threads_[self].state = State::running;
}

/// The current thread's kernel has returned.
void Worker::finish() {
  threads_[current_].state = State::done;
  ++done_;
  bool awaited = arrived_ > 0;
  const unsigned own = current_ & 31u, first = current_ & ~31u;
  for (unsigned rest = warp_arrived_[current_ / 32]; rest && !awaited; rest &= rest - 1)
    awaited = threads_[first + static_cast<unsigned>(std::countr_zero(rest))].mask >> own & 1u;
  if (!awaited) return;
  threads_[current_].place = {"", 0};
  std::string what = "it ends while others wait for it: " + waiting();
  fail(Fault::synchronisation, std::move(what));
}

void Worker::run_block(std::uint64_t block) {
  const Grid& grid = run_->grid;
  blockIdx = {static_cast<unsigned>(block % grid.grid.x), static_cast<unsigned>(block / grid.grid.x % grid.grid.y),
              static_cast<unsigned>(block / grid.grid.x / grid.grid.y)};
  random_.state = run_->seed * 0x9E3779B97F4A7C15ull ^ (run_->number << 32) ^ block;
  for (Thread& thread : threads_) thread.state = State::fresh, thread.fibre = nullptr;
  std::iota(order_.begin(), order_.end(), 0u);
  if (run_->seed)
    for (std::size_t i = count_; i > 1; --i) std::swap(order_[i - 1], order_[random_.below(i)]);
  ready_.clear();
  ready_from_ = fresh_from_ = 0;
  done_ = arrived_ = 0;
  sum_ = or_ = 0;
  and_ = 1;
  std::fill(warp_arrived_.begin(), warp_arrived_.end(), 0u);
  if (grid.shared_bytes) std::memset(shared_at_, poison_byte, grid.shared_bytes);

  unsigned first = 0;
  pick(first);
  left_ = nullptr;
  resume(first, &main_);
  if (!left_) return;
  const auto renew = [this](Fibre* fibre) {
    fibre->restart();
    free_.push_back(fibre);
  };
  renew(left_);
  for (const Thread& thread : threads_)
    if (thread.fibre && thread.fibre != left_) renew(thread.fibre);
}

void Worker::work(Run& run) {
  run_ = &run;
  Worker* outer = working;
  working = this;
  const Grid& grid = run.grid;
  count_ = grid.block.x * grid.block.y * grid.block.z;
  threads_.resize(count_);
  order_.resize(count_);
  warp_arrived_.resize((count_ + 31) / 32);
  for (unsigned i = 0; i < count_; ++i)
    threads_[i].index = {i % grid.block.x, i / grid.block.x % grid.block.y, i / grid.block.x / grid.block.y};
  if (!shared_) {
    // A page that nobody may touch on both sides; the block's memory ends at the second.
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* p = mmap(nullptr, shared_room + 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    shared_ = static_cast<char*>(p);
    mprotect(shared_, page_, PROT_NONE);
    mprotect(shared_ + page_ + shared_room, page_, PROT_NONE);
  }
  shared_at_ = shared_ + page_ + shared_room - (grid.shared_bytes + 15) / 16 * 16;
  // A handler's own stack, so that it can report the end of a fibre's.
  static thread_local std::unique_ptr<char[]> handler_stack;
  stack_t before{};
  sigaltstack(nullptr, &before);
  if (before.ss_flags & SS_DISABLE) {
    const std::size_t size = std::size_t{64} << 10;
    if (!handler_stack) handler_stack = std::make_unique<char[]>(size);
    stack_t stack{};
    stack.ss_sp = handler_stack.get();
    stack.ss_size = size;
    sigaltstack(&stack, nullptr);
  }
  {
    Access access;
    blockDim = grid.block;
    gridDim = grid.grid;
    while (!run.faulted.load(std::memory_order_relaxed)) {
      const std::uint64_t turn = run.next.fetch_add(1, std::memory_order_relaxed);
      if (turn >= run.blocks) break;
      __extension__ using Wide = unsigned __int128;
      run_block(static_cast<std::uint64_t>((static_cast<Wide>(turn) * run.stride + run.offset) % run.blocks));
    }
  }
  sigaltstack(&before, nullptr);
  switches.fetch_add(switches_, std::memory_order_relaxed);
  operations.fetch_add(operations_, std::memory_order_relaxed);
  switches_ = operations_ = 0;
  working = outer;
}

// --- grids ---

namespace {

/// The calling thread's worker.
Worker& own_worker() {
  static thread_local Worker worker;
  return worker;
}

/// Fewer threads than this run on the caller alone: waking others would take longer.
constexpr std::uint64_t worth_sharing = 4096;

}  // namespace

Fault run_grid(const Grid& grid, char* text, std::size_t size) {
  set_fault_hook(&fault_in_kernel);
  Run run(grid, ++grids, current_seed.load());
  if (run.seed && run.blocks > 1) {
    Random random{run.seed ^ run.number << 20};
    run.offset = random.next() % run.blocks;
    do run.stride = random.next() % run.blocks;
    while (std::gcd(run.stride, run.blocks) != 1);
  }
  const std::uint64_t threads = run.blocks * grid.block.x * grid.block.y * grid.block.z;
  const auto job = [&run] { own_worker().work(run); };
  if (run.blocks == 1 || threads < worth_sharing) job();
  else on_each_worker(job);
  if (run.fault == Fault::none) {
    char where[256];
    if (!close_device_memory(where, sizeof where)) {
      char name[256];
      describe_function(grid.kernel, name, sizeof name);
      std::snprintf(run.text, sizeof run.text, "kernel %s: out of bounds: %s", name, where);
      run.fault = Fault::address;
    }
  } else {
    char ignored[256];
    close_device_memory(ignored, sizeof ignored);
  }
  if (counting()) count_kernel(grid.kernel);
  std::snprintf(text, size, "%s", run.text);
  return run.fault;
}

void share(std::uint64_t count, bool worth, const std::function<void(std::uint64_t)>& work) {
  std::atomic<std::uint64_t> next{0};
  const auto job = [&] {
    Access access;
    for (std::uint64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
  };
  if (count < 2 || !worth) job();
  else on_each_worker(job);
}

int meet_block(Meeting kind, int predicate, Place place) { return working->meet_block(kind, predicate, place); }
std::uint64_t meet_warp(Meeting kind, unsigned mask, std::uint64_t value, int source, Place place) {
  return working->meet_warp(kind, mask, value, source, place);
}
unsigned lane() { return working->lane(); }
void* dynamic_shared() { return working->shared(); }
void trap(const char* what, Place place) { working->trap(what, place); }

void set_seed(std::uint64_t value) { current_seed = value; }
std::uint64_t seed() { return current_seed; }
std::uint64_t kernels_run() { return grids; }
std::uint64_t switches_made() { return switches; }
std::uint64_t take_operations() { return operations.exchange(0, std::memory_order_relaxed); }

}  // namespace emulate
