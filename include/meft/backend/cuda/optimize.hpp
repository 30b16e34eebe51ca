// Owns: the declarations of the optimizer's passes over a parameter on CUDA.
#pragma once

#include <meft/backend/adamw_step.hpp>
#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// p ← p − rate·decay·p;  m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  p ← p − rate·(m/c₁)/(√(v/c₂) + ε).
template <Real T>
void adamw(Cuda, Index n, const AdamWStep& step, const T* g, T* p, T* m, T* v);
/// Σ x², in double and a fixed order. Waits for the device.
template <Real T>
double sum_squares(Cuda, Index n, const T* x);

}  // namespace meft
