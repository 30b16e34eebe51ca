// Owns: the interface of the optimizer's passes over parameters.
#pragma once

#include <meft/backend/adamw_step.hpp>
#include <meft/backend/backend.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// With g the gradient times `scale`, the decay where a slot has it: p ← p − rate·decay·p;  m ← β₁m + (1 − β₁)g;
/// v ← β₂v + (1 − β₂)g²;  p ← p − rate·(m/c₁)/(√(v/c₂) + ε);  the gradient ← 0.
template <Backend B, Real T>
void adamw(B, Index slots, const AdamWSlot<T>* slot, const AdamWStep& step);

/// Σ g² of all slots, in double and a fixed order. Waits for the device once.
template <Backend B, Real T>
double sum_squares(B, Index slots, const AdamWSlot<T>* slot);

}  // namespace meft
