// Owns: where the threads of a block, and the lanes of a warp, meet.
#include <bit>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "memory.hpp"
#include "runtime.hpp"
#include "worker.hpp"

namespace emulate {

int Worker::meet_block(Meeting kind, int predicate, Place place) {
  Thread& self = threads_[current_];
  self.kind = kind;
  self.place = place;
  if (done_) fail(Fault::synchronisation, "it waits at __syncthreads after other threads of the block have ended");
  if (arrived_) {
    for (const Thread& other : threads_) {
      if (other.state != State::at_barrier) continue;
      if (same(other.place, place) && other.kind == kind) break;
      std::string what = "it waits at another barrier than others: " + waiting();
      fail(Fault::synchronisation, std::move(what));
    }
  }
  sum_ += predicate != 0;
  and_ &= predicate != 0;
  or_ |= predicate != 0;
  self.state = State::at_barrier;
  if (++arrived_ == count_) {
    const int result = kind == Meeting::barrier_count ? sum_ : kind == Meeting::barrier_and ? and_ : or_;
    arrived_ = 0;
    sum_ = or_ = 0;
    and_ = 1;
    for (unsigned i = 0; i < count_; ++i) {
      threads_[i].result = static_cast<std::uint64_t>(result);
      if (i != current_) ready(i);
    }
    if (run_->seed && count_ > 1) {
      ready(current_);
      block_current();
    } else {
      self.state = State::running;
    }
  } else {
    block_current();
  }
  return static_cast<int>(self.result);
}

std::uint64_t Worker::meet_warp(Meeting kind, unsigned mask, std::uint64_t value, int source, Place place) {
  if ((kind == Meeting::multiply || kind == Meeting::load) && counting()) {  // counted, not worked out
    if (kind == Meeting::multiply) operations_ += 2 * 16 * 8 * 16 / 32;
    else std::memset(reinterpret_cast<const Load*>(value)->to, 0, 16);
    return 0;
  }
  Thread& self = threads_[current_];
  const unsigned own = current_ & 31u, first = current_ & ~31u;
  self.kind = kind;
  self.place = place;
  self.mask = mask;
  char text[160];
  if (!(mask >> own & 1u)) {
    std::snprintf(text, sizeof text, "it calls %s with a mask, 0x%08x, that leaves out its own lane %u", name_of(kind),
                  mask, own);
    fail(Fault::synchronisation, text);
  }
  if (kind == Meeting::shuffle && !(mask >> source & 1u)) {
    std::snprintf(text, sizeof text, "it reads lane %d in a shuffle whose mask, 0x%08x, leaves that lane out", source,
                  mask);
    fail(Fault::synchronisation, text);
  }
  self.value = value;
  self.source = source;
  unsigned& arrived = warp_arrived_[current_ / 32];
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const unsigned lane = static_cast<unsigned>(std::countr_zero(rest));
    if (first + lane >= count_ || threads_[first + lane].state == State::done) {
      std::snprintf(text, sizeof text, "it waits in %s with mask 0x%08x for lane %u, which %s", name_of(kind), mask,
                    lane, first + lane >= count_ ? "the block does not have" : "has ended");
      fail(Fault::synchronisation, text);
    }
    const Thread& other = threads_[first + lane];
    if ((arrived >> lane & 1u) && other.mask == mask && other.kind != kind) {
      std::string what =
          std::string("it is in ") + name_of(kind) + " while lanes that it names are elsewhere: " + waiting();
      fail(Fault::synchronisation, std::move(what));
    }
  }
  arrived |= 1u << own;
  bool complete = true;
  for (unsigned rest = mask & ~(1u << own); rest && complete; rest &= rest - 1) {
    const unsigned lane = static_cast<unsigned>(std::countr_zero(rest));
    complete = (arrived >> lane & 1u) && threads_[first + lane].mask == mask;
  }
  if (!complete) {
    self.state = State::at_warp;
    block_current();
    return self.result;
  }
  std::uint64_t votes = 0, parts[32];
  if (kind == Meeting::multiply || kind == Meeting::load) {
    for (unsigned i = 0; i < 32; ++i) parts[i] = threads_[first + i].value;
    if (kind == Meeting::multiply) multiply_lanes(parts);
    else if (const char* wrong = load_lanes(parts)) fail(Fault::address, wrong);
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const unsigned lane = static_cast<unsigned>(std::countr_zero(rest));
    if (threads_[first + lane].value) votes |= std::uint64_t{1} << lane;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const unsigned lane = static_cast<unsigned>(std::countr_zero(rest));
    Thread& thread = threads_[first + lane];
    thread.result = kind == Meeting::shuffle ? threads_[first + static_cast<unsigned>(thread.source)].value : votes;
    if (lane != own) ready(first + lane);
  }
  arrived &= ~mask;
  if (run_->seed) {
    ready(current_);
    block_current();
  }
  return self.result;
}

}  // namespace emulate
