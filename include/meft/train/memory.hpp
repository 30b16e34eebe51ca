// Owns: what a run tells of its memory: bytes by use at the highest step, what is held, what the process has resident.
#pragma once

#include <algorithm>
#include <cstddef>

#include <meft/memory/pool.hpp>
#include <meft/memory/resident.hpp>

namespace meft::train {

/// Bytes. By use as they were when most was alive; `slices` are activations and workspace: of a reversible stack those
/// of its slices, else all. `held` comes from the system, `needed` was the most of it in use at once.
struct MemoryReport {
  std::size_t weights = 0, gradients = 0, optimizer = 0, features = 0, streams = 0, digits = 0, slices = 0;
  std::size_t needed = 0, held = 0;
  Resident resident{};

  std::size_t free() const { return held - std::min(held, needed); }

  /// Of a pool now: its highest point since the last reset.
  static MemoryReport of(const Pool& pool) {
    const Reading r = pool.read();
    return {r.peak_of(Use::parameter),
            r.peak_of(Use::gradient),
            r.peak_of(Use::optimizer),
            r.peak_of(Use::features),
            r.peak_of(Use::streams),
            r.peak_of(Use::digits),
            r.peak_of(Use::activation) + r.peak_of(Use::workspace),
            r.peak,
            pool.reserved(),
            Resident::now()};
  }

  /// The higher of both: what is held and resident each for itself, uses where more was needed.
  void raise(const MemoryReport& other) {
    const std::size_t most_held = std::max(held, other.held);
    Resident most = other.resident.own > resident.own ? other.resident : resident;
    most.peak = std::max(resident.peak, other.resident.peak);
    if (other.needed > needed) *this = other;
    held = most_held;
    resident = most;
  }
};

}  // namespace meft::train
