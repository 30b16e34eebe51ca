// Owns: the faults of a block's threads: what each was at, and how it gives up the block.
#include <ucontext.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "memory.hpp"
#include "worker.hpp"

namespace emulate {

/// "3 at __syncthreads (x.cu:12), threads 0 to 2; …", of all threads that wait.
std::string Worker::waiting() const {
  std::string out;
  std::vector<bool> told(count_, false);
  int groups = 0;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& a = threads_[i];
    if (told[i] || (a.state != State::at_barrier && a.state != State::at_warp)) continue;
    if (++groups > 6) return out + "; …";
    unsigned number = 0, last = i;
    for (unsigned j = i; j < count_; ++j) {
      const Thread& b = threads_[j];
      if (b.state != a.state || b.kind != a.kind || !same(a.place, b.place) ||
          (a.state == State::at_warp && a.mask != b.mask))
        continue;
      told[j] = true;
      ++number;
      last = j;
    }
    char text[256];
    int length = std::snprintf(text, sizeof text, "%s%u at %s (%s:%u)", out.empty() ? "" : "; ", number,
                               name_of(a.kind), base_name(a.place.file), a.place.line);
    if (a.state == State::at_warp)
      length +=
          std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), " with mask 0x%08x", a.mask);
    if (number == 1) std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), ", thread %u", i);
    else std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), ", thread %u to %u", i, last);
    out += text;
  }
  return out;
}

/// Puts the kernel's and the thread's names in front of `what` and keeps it. Frees what it takes, for after it nothing
/// on this stack is destroyed.
void Worker::record(Fault kind, std::string what) {
  const Place place = threads_[current_].place;
  if (kind != Fault::address && place.line)
    what += std::string(" (") + base_name(place.file) + ":" + std::to_string(place.line) + ")";
  char name[256], text[1024];
  describe_function(run_->grid.kernel, name, sizeof name);
  const uint3 t = threads_[current_].index;
  std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s", name, blockIdx.x,
                blockIdx.y, blockIdx.z, t.x, t.y, t.z, what.c_str());
  run_->record(kind, text);
}

void Worker::fail(Fault kind, std::string what) {
  record(kind, std::move(what));
  leave();
}

/// Back to the worker, never to return: the block is given up.
void Worker::leave() {
  left_ = std::exchange(fibre_, nullptr);
  left_->switch_to(main_);
  __builtin_unreachable();
}

void Worker::trap(const char* what, Place place) {
  threads_[current_].place = place;
  fail(Fault::trap, what);
}

void Worker::deadlock() {
  threads_[current_].place = {"", 0};
  std::string what = "deadlock: every thread of the block waits or has ended: " + waiting();
  fail(Fault::synchronisation, std::move(what));
}

namespace {

/// Where a faulting thread goes on, at the top of its fibre's stack, whose content is lost.
[[noreturn]] void leave_after_fault() { working->report_fault(); }

}  // namespace

/// In the signal handler: keeps what happened and turns the thread to leave_after_fault.
bool Worker::on_fault(void* address, bool is_write, void* context) {
  if (!fibre_) return false;
  fault_address_ = static_cast<char*>(address);
  fault_is_write_ = is_write;
  fibre_->abandon();
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  machine.gregs[REG_RIP] = reinterpret_cast<greg_t>(&leave_after_fault);
  machine.gregs[REG_RSP] = reinterpret_cast<greg_t>(fibre_->top()) - 8;  // as after a call
#elif defined(__aarch64__)
  machine.pc = reinterpret_cast<std::uintptr_t>(&leave_after_fault);
  machine.sp = reinterpret_cast<std::uintptr_t>(fibre_->top());
#else
  (void)machine;  // the process ends by its signal
  return false;
#endif
  return true;
}

void Worker::report_fault() {
  char where[400], what[512];
  const char* verb = fault_is_write_ ? "writes" : "reads or writes";
  if (fibre_->guards(fault_address_)) {
    std::snprintf(what, sizeof what, "its stack of %zu KiB is used up", stack_bytes >> 10);
  } else if (fault_address_ >= shared_ && fault_address_ < shared_ + shared_room + 2 * page_) {
    std::snprintf(what, sizeof what, "%s dynamic shared memory at offset %td of %zu bytes", verb,
                  fault_address_ - shared_at_, run_->grid.shared_bytes);
  } else {
    describe_address(fault_address_, where, sizeof where);
    std::snprintf(what, sizeof what, "%s out of bounds: %s", verb, where);
  }
  fail(Fault::address, what);
}

bool fault_in_kernel(void* address, bool is_write, void* context) {
  return working && working->on_fault(address, is_write, context);
}

}  // namespace emulate
