// Owns: sizes rounded up, so that few different ones come.
#pragma once

#include <meft/base/shape.hpp>

namespace meft {

/// n or more, by less than n / share: the next multiple of the largest power of two that is at most n / share, or of 1.
/// Of the numbers up to 2n that are above n it gives about `share`.
constexpr Index bucket(Index n, Index share) {
  Index step = 1;
  while (2 * step * share <= n) step *= 2;
  return (n + step - 1) / step * step;
}

}  // namespace meft
