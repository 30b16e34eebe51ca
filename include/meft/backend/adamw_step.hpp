// Owns: how a step of AdamW is described to any backend.
#pragma once

#include <meft/base/shape.hpp>

namespace meft {

/// One AdamW step's constants: `rate` already scaled by the schedule, corrections 1 − βᵗ.
struct AdamWStep {
  double rate, beta1, beta2, epsilon, decay, correction1, correction2, scale;  // scale: of the gradient, for clipping
};

/// A parameter of n elements, its gradient and its moments.
template <class T>
struct AdamWSlot {
  Index n;
  T *gradient, *value, *first, *second;
  bool decays;
};

}  // namespace meft
