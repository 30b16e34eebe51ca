// Owns: the forward and backward pass of a step; on a device, of batches whose shapes came before by a recording.
// Must not know: which batch comes when, and the optimizer.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include <meft/autodiff/tape.hpp>
#include <meft/memory/pool.hpp>
#include <meft/train/recordings.hpp>

namespace meft::train {

/// Adds the gradients of a batch's loss, times the batch's weight, to the parameters, which have gradients already. On
/// a device, a batch of shapes that came before runs from a recording: the same bits, and the device does not wait for
/// the host between kernels.
template <Real T, Backend B>
class Steps {
 public:
  /// At most `recordings` are made.
  explicit Steps(Loss<T, B> loss, std::size_t recordings = 8)
      : loss_(std::move(loss)), recordings_(loss_, recordings) {}
  /// Of a learner with `loss(batch)`, which outlives it.
  template <class L>
  requires requires(const L& learner, const nn::Batch<B>& batch) { learner.loss(batch); }
  explicit Steps(const L& learner, std::size_t recordings = 8)
      : Steps([&learner](const nn::Batch<B>& batch) { return learner.loss(batch); }, recordings) {}

  struct Result {
    double loss = 0;  // the batch's, without its weight
    std::size_t activation_bytes = 0;
    bool recorded = false;  // done by a recording
  };

  /// Calls meanwhile() once, on a device while it works. A loss that is not finite ends the pass: the gradients are
  /// then of no use.
  template <class Meanwhile>
  Result run(const nn::Batch<B>& batch, const Meanwhile& meanwhile) {
    if constexpr (!B::on_host)
      if (const auto* entry = recordings_.of(batch)) {
        entry->recording.run(batch.run.step - entry->batch.run.step);
        meanwhile();
        entry->recording.finish();
        return {entry->loss, entry->activation_bytes, true};
      }
    const Measure measure(B::pool());
    Result out;
    {
      Tape tape;
      const auto loss = loss_(batch);
      out.loss = static_cast<double>(loss.value().item());
      if (std::isfinite(out.loss)) detail::backward(tape, loss, batch);
    }
    meanwhile();
    out.activation_bytes = measure.activation();
    return out;
  }

 private:
  struct None {
    None(const Loss<T, B>&, std::size_t) {}
  };

  Loss<T, B> loss_;
  [[no_unique_address]] std::conditional_t<B::on_host, None, Recordings<T, B>> recordings_;
};

template <class L, class... More>
Steps(const L&, More...) -> Steps<typename L::T, typename L::B>;

}  // namespace meft::train
