// Owns: batches of text that are filled up for a device, so that few sizes come and a step finds its recording.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <meft/backend/kernels/loss.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/base/bucket.hpp>
#include <meft/nn/batch.hpp>
#include <meft/ops/shape.hpp>

namespace meft::nn {

/// The sequences that a batch to train on has on a backend: its own, and behind them a quarter as many or a few more,
/// no longer than its longest, with the tokens that are wanting to a bucket of an eighth. As it is where it gains
/// nothing: on the host; where all sequences have one length, which comes again by itself; where a layer, which takes
/// so many tokens `at_once`, would take it in several slices, whose places follow from the lengths; and where a
/// sequence is empty or the longest has less than four tokens.
template <Backend B>
Offsets filled(const Offsets& own, Index at_once = B::slice_tokens) {
  const Index count = own.sequences(), tokens = own.tokens(), longest = own.longest(),
              more = (bucket(count + (count + 3) / 4, 4) + 3) / 4 * 4 - count,  // the sum is one that cuDNN is given
      wanting = bucket(tokens + more, 8) - tokens;
  std::vector<std::int32_t> lengths;
  bool some = !B::on_host && longest >= 4 && tokens < count * longest && tokens + wanting <= at_once;
  for (Index i = 0; i < count && some; ++i) {
    lengths.push_back(static_cast<std::int32_t>(own.length(i)));
    some = own.length(i) > 0;
  }
  if (!some) return own;
  for (Index i = 0; i < more; ++i)
    lengths.push_back(static_cast<std::int32_t>((i + 1) * wanting / more - i * wanting / more));
  return Offsets::of_lengths(lengths);
}

/// A batch to train on with the sequences of `filled`: beginnings of the longest one, of which no label is told, so
/// that no loss reads them and their gradients are zero. Random bits are those of its own tokens, which stand where
/// they did.
template <Backend B>
Batch<B> filled(Batch<B> batch, Index at_once = B::slice_tokens) {
  if (!batch.run.training || !batch.ids.defined()) return batch;
  const auto own = std::exchange(batch.offsets, filled<B>(batch.offsets, at_once));
  batch.filling = batch.offsets.sequences() - own.sequences();
  if (batch.filling == 0) return batch;
  const Index tokens = own.tokens(), all = batch.offsets.tokens();
  Index source = 0;  // where the longest begins
  for (Index i = 0; i < own.sequences(); ++i)
    if (own.length(i) == own.longest()) source = own.begin(i);
  std::vector<std::int32_t> order;
  for (Index t = 0; t < tokens; ++t) order.push_back(static_cast<std::int32_t>(t));
  for (Index s = own.sequences(); s < batch.offsets.sequences(); ++s)
    for (Index t = 0; t < batch.offsets.length(s); ++t) order.push_back(static_cast<std::int32_t>(source + t));
  const auto from = Tensor<std::int32_t, B>::from({all}, order);
  for (auto* x : {&batch.ids, &batch.types}) {
    Tensor<std::int32_t, B> longer({all});
    gather_rows(B{}, all, 1, std::as_const(*x).data(), from.data(), longer.data());
    *x = std::move(longer);
  }
  if (batch.labels.size() == tokens) {  // one a token
    auto longer = Tensor<std::int32_t, B>::full({all}, ignored_label);
    B::copy(longer.data(), std::as_const(batch.labels).data(), batch.labels.bytes());
    batch.labels = std::move(longer);
  }
  return batch;
}

/// Of what there is for each of a batch's sequences, that of its own.
template <Backend B, Real T>
Var<T, B> of_own(const Var<T, B>& x, const Batch<B>& batch) {
  return batch.filling == 0 ? x : slice(x, 0, 0, batch.offsets.sequences() - batch.filling);
}

}  // namespace meft::nn
