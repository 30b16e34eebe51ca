// Owns: what kernels of any backend tell the host.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include <meft/base/host_device.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// What a shear reports: a hash of the elements before the shear, and whether one left the range, and its value.
struct ShearReport {
  std::uint64_t hash = 0;
  bool overflow = false;
  double value = 0;
};

/// The same where the shear runs, zero before it: there the host reads it when it likes. `worst` is `beyond` of the
/// element farthest out of range, in words, or 0.
struct ShearSlot {
  unsigned long long hash, worst;
};

/// A double by its magnitude, its sign in the lowest bit; never 0.
MEFT_HD unsigned long long beyond(double y) {
  const auto bits = std::bit_cast<std::uint64_t>(y), rotated = bits << 1 | bits >> 63;
  return rotated ? rotated : 1;
}

inline ShearReport report_of(const ShearSlot& slot, int fraction_bits) {
  if (!slot.worst) return {slot.hash, false, 0};
  const std::uint64_t worst = slot.worst;
  return {slot.hash, true, std::ldexp(std::bit_cast<double>(worst >> 1 | worst << 63), -fraction_bits)};
}

/// What a look at the labels found: how many count, and the first position outside the classes, or -1.
struct LabelCheck {
  Index counted = 0, outside = -1;
  friend bool operator==(const LabelCheck&, const LabelCheck&) = default;
};

}  // namespace meft
