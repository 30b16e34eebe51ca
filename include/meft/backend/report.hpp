// Owns: what kernels of any backend tell the host.
#pragma once

#include <cstdint>

#include <meft/base/shape.hpp>

namespace meft {

/// What a shear pass reports: a hash of the elements before the shear, and whether one left the range, and its value.
struct ShearReport {
  std::uint64_t hash = 0;
  bool overflow = false;
  double value = 0;
};

/// What a look at the labels found: how many count, and the first position outside the classes, or -1.
struct LabelCheck {
  Index counted = 0, outside = -1;
};

}  // namespace meft
