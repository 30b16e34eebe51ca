// Owns: the interface of kernels that move and pool whole rows. Rows that meet are added in ascending order.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/host_device.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// The first position whose number is outside [0, limit), or -1. Waits for the device.
template <Backend B>
Index first_outside(B, Index n, const std::int32_t* numbers, Index limit);

/// y[i, :] = x[rows[i], :] for i in [0, n).
template <Backend B, Scalar T>
void gather_rows(B, Index n, Index width, const T* x, const std::int32_t* rows, T* y);
/// dx[rows[i], :] += dy[i, :] for i in [0, n), ascending.
template <Backend B, Real T>
void scatter_rows(B, Index n, Index width, const T* dy, const std::int32_t* rows, T* dx);

/// Where the rows of a run begin that are averaged: behind its first `skip`; its last row, where there are no more.
MEFT_HD Index averaged_from(Index begin, Index end, Index skip) { return begin + skip < end ? begin + skip : end - 1; }
/// y[s, :] = mean of x[averaged_from(starts[s], starts[s + 1], skip) … starts[s + 1], :], added in ascending order. No
/// run is empty.
template <Backend B, Real T>
void mean_rows(B, Index runs, Index width, Index skip, const T* x, const std::int32_t* starts, T* y);
/// dx[r, :] = dy[s, :] / (rows averaged) for the rows r of run s, 0 for those skipped.
template <Backend B, Real T>
void mean_rows_backward(B, Index runs, Index width, Index skip, const T* dy, const std::int32_t* starts, T* dx);

}  // namespace meft
