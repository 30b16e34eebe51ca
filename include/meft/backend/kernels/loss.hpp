// Owns: the interface of the kernels of losses.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/bucket.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// The label of a row that does not count, where none is named.
inline constexpr std::int32_t ignored_label = -100;

/// Labels lie in [0, classes) or are `ignore`. Waits for the device.
template <Backend B>
LabelCheck check_labels(B, Index n, const std::int32_t* labels, Index classes, std::int32_t ignore);
/// counted[0]: how many labels count.
template <Backend B, Real T>
void count_labels(B, Index n, const std::int32_t* labels, std::int32_t ignore, T* counted);
/// The positions of the labels that count, ascending, and behind them those of the others: the first `most` of them,
/// and their labels.
template <Backend B>
void counted_rows(B, Index n, const std::int32_t* labels, std::int32_t ignore, Index most, std::int32_t* rows,
                  std::int32_t* chosen);

/// As many as are counted; on a device up to a quarter more, of those that count not, so that few numbers come: while
/// labels give the same one, what was recorded on others does for them.
template <Backend B>
Index label_rows(Index n, Index counted) {
  return B::on_host ? counted : std::min(n, bucket(counted, 4));
}

/// Rows of [rows, n]: top = max x, total = Σ exp(x − top), loss = top − x[label] + ln total, 0 where the label is
/// `ignore`. `sums` [2, rows] are top and total: in ln Σ exp(x) a large top would take digits of total's.
template <Backend B, Real T>
void cross_entropy(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore, T* loss,
                   T* sums);
/// dx = (exp(x − top)/total − [label]) · dy, 0 in ignored rows; `dx` may be `x`. `dy` is one element where x is.
template <Backend B, Real T>
void cross_entropy_backward(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore,
                            const T* sums, const T* dy, T* dx);

/// dx = (x − target)·factor·dy; `dy` is one element where x is.
template <Backend B, Real T>
void scaled_difference(B, Index n, const T* x, const T* target, const T* dy, T factor, T* dx);

}  // namespace meft
