// Owns: the declarations of kernels on CUDA that move and pool whole rows. Rows that meet are added in ascending order.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// The first i with numbers[i] outside [0, limit), or -1. Waits for the device.
Index first_outside(Cuda, Index n, const std::int32_t* numbers, Index limit);
/// y[i, :] = x[rows[i], :].
template <Scalar T>
void gather_rows(Cuda, Index n, Index width, const T* x, const std::int32_t* rows, T* y);
/// dx[rows[i], :] += dy[i, :].
template <Real T>
void scatter_rows(Cuda, Index n, Index width, const T* dy, const std::int32_t* rows, T* dx);
/// y[s, :] = mean of rows [starts[s] + skip, starts[s + 1]).
template <Real T>
void mean_rows(Cuda, Index runs, Index width, Index skip, const T* x, const std::int32_t* starts, T* y);
template <Real T>
void mean_rows_backward(Cuda, Index runs, Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx);

}  // namespace meft
