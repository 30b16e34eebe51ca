// Owns: learning-rate schedules, as factors of the rate.
#pragma once

#include <algorithm>
#include <cstdint>

namespace meft::optim {

/// Rises from 1/warmup to 1 in the first `warmup` steps, then falls linearly from 1 to 1/(total − warmup) in the last
/// one, 0 beyond it. `step` counts from 0.
inline double linear_schedule(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  return std::max(0.0,
                  static_cast<double>(total - step) / static_cast<double>(std::max<std::int64_t>(1, total - warmup)));
}

}  // namespace meft::optim
