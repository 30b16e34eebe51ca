// Owns: the declarations of the kernels of losses on CUDA.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// Labels lie in [0, classes) or are `ignore`. Waits for the device.
LabelCheck check_labels(Cuda, Index n, const std::int32_t* labels, Index classes, std::int32_t ignore);
/// The positions of the labels that count, ascending, and these labels: as many as check_labels counted.
void counted_rows(Cuda, Index n, const std::int32_t* labels, std::int32_t ignore, std::int32_t* rows,
                  std::int32_t* chosen);
/// Rows of [rows, n]: lse = ln Σ exp(x), loss = lse − x[label], 0 where the label is `ignore`.
template <Real T>
void cross_entropy(Cuda, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore, T* loss,
                   T* lse);
/// dx = (softmax(x) − [label])·dy/counted; `dx` may be `x`. `dy` is one element on the device.
template <Real T>
void cross_entropy_backward(Cuda, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore,
                            const T* lse, const T* dy, Index counted, T* dx);
/// dx = (x − target)·factor·dy; `dy` is one element on the device.
template <Real T>
void scaled_difference(Cuda, Index n, const T* x, const T* target, const T* dy, T factor, T* dx);

}  // namespace meft
