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

/// Adds the gradients of a learner's `loss(batch)`, times the batch's weight, to its parameters, which have gradients
/// already. On a device, a batch of shapes that came before runs from a recording: the same bits, and the device does
/// not wait for the host between kernels.
template <class L>
class Steps {
 public:
  using T = typename L::T;
  using B = typename L::B;

  /// At most `recordings` are made.
  explicit Steps(const L& learner, std::size_t recordings = 8) : learner_(learner), recordings_(learner, recordings) {}

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
      const auto loss = learner_.loss(batch);
      out.loss = static_cast<double>(loss.value().item());
      if (std::isfinite(out.loss)) detail::backward(tape, loss, batch);
    }
    meanwhile();
    out.activation_bytes = measure.activation();
    return out;
  }

 private:
  struct None {
    None(const L&, std::size_t) {}
  };

  const L& learner_;
  [[no_unique_address]] std::conditional_t<B::on_host, None, Recordings<L>> recordings_;
};

}  // namespace meft::train
