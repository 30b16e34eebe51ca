// Owns: learning-rate schedules, as factors of the rate.
#pragma once

#include <algorithm>
#include <cstdint>

namespace meft::optim {

/// Rises from 0 to 1 over `warmup` steps, then falls linearly to 0 at `total`. `step` counts from 0.
inline double linear_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  return std::max(0.0,
                  static_cast<double>(total - step) / static_cast<double>(std::max<std::int64_t>(1, total - warmup)));
}

}  // namespace meft::optim
