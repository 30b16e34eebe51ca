// Owns: the interface of the kernels of losses.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// Labels lie in [0, classes) or are `ignore`. Waits for the device.
template <Backend B>
LabelCheck check_labels(B, Index n, const std::int32_t* labels, Index classes, std::int32_t ignore);
/// The positions of the labels that count, ascending, and these labels: as many as check_labels counted.
template <Backend B>
void counted_rows(B, Index n, const std::int32_t* labels, std::int32_t ignore, std::int32_t* rows,
                  std::int32_t* chosen);

/// Rows of [rows, n]: lse = ln Σ exp(x), loss = lse − x[label], 0 where the label is `ignore`.
template <Backend B, Real T>
void cross_entropy(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore, T* loss,
                   T* lse);
/// dx = (exp(x − lse) − [label]) · dy/counted, 0 in ignored rows; `dx` may be `x`. `dy` is one element where x is.
template <Backend B, Real T>
void cross_entropy_backward(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore,
                            const T* lse, const T* dy, Index counted, T* dx);

/// dx = (x − target)·factor·dy; `dy` is one element where x is.
template <Backend B, Real T>
void scaled_difference(B, Index n, const T* x, const T* target, const T* dy, T factor, T* dx);

}  // namespace meft
