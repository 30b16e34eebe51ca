// Owns: the declarations of the optimizer's passes over parameters on CUDA.
#pragma once

#include <meft/backend/adamw_step.hpp>
#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// p ← p − rate·decay·p;  m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  p ← p − rate·(m/c₁)/(√(v/c₂) + ε);  g ← 0. One
/// launch for all slots.
template <Real T>
void adamw(Cuda, Index slots, const AdamWSlot<T>* slot, const AdamWStep& step);
/// Σ g² of all slots, in double and a fixed order. Waits for the device once.
template <Real T>
double sum_squares(Cuda, Index slots, const AdamWSlot<T>* slot);

}  // namespace meft
