// Owns: what a step does with a batch: a forward and a backward pass, on a device of batches whose shapes came before
// by a recording; or what an optimizer that probes measures. Must not know: which batch comes when, the
// optimizers.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include <meft/autodiff/tape.hpp>
#include <meft/memory/pool.hpp>
#include <meft/optim/optimizer.hpp>
#include <meft/train/recordings.hpp>

namespace meft::train {

/// Adds the gradients of a batch's loss, times the batch's weight, to the parameters, which have gradients already. On
/// a device, a batch of shapes that came before runs from a recording (see Recordings): the same bits, and the device
/// does not wait for the host between kernels. Where its optimizer probes, that measures the batch instead, without
/// dropout: of the `part`-th of the sets that a step takes batches of.
template <Real T, Backend B>
class Steps {
 public:
  /// At most `recordings` are made. The optimizer outlives it; without one, gradients are what a batch gives.
  explicit Steps(Loss<T, B> loss, std::size_t recordings = 32, optim::State<T, B>* optimizer = nullptr)
      : loss_(std::move(loss)), optimizer_(optimizer), recordings_(loss_, recordings) {}
  /// Of a learner with `loss(batch)`, which outlives it.
  template <class L>
  requires requires(const L& learner, const nn::Batch<B>& batch) { learner.loss(batch); }
  explicit Steps(const L& learner, std::size_t recordings = 32)
      : Steps([&learner](const nn::Batch<B>& batch) { return learner.loss(batch); }, recordings) {}

  struct Result {
    double loss = 0;                   // the batch's, without its weight
    std::size_t activation_bytes = 0;  // of the batch as it is, with what it was filled up with
    bool recorded = false;             // done by a recording
  };

  /// Calls meanwhile() once, on a device while it works. A loss that is not finite ends the pass: the gradients are
  /// then of no use.
  template <class Meanwhile>
  Result run(const nn::Batch<B>& batch, const Meanwhile& meanwhile, int part = 0) {
    if (optimizer_ && optimizer_->probes()) {
      const auto out = probe(batch, part);
      meanwhile();
      return out;
    }
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
  Result probe(nn::Batch<B> batch, int part) {
    const Measure measure(B::pool());
    const double weight = batch.weight.defined() ? static_cast<double>(batch.counted) : 1.0;
    batch.run.training = false;
    const auto loss = [&] {
      const NoTape none;
      return static_cast<double>(loss_(batch).value().item());
    };
    const auto gradients = [&](double times) {
      auto weighed = batch;
      if (times != 1) weighed.weight = Tensor<float, B>::from(Shape{}, {static_cast<float>(times)});
      Tape tape;
      const auto of = loss_(weighed);
      const auto out = static_cast<double>(of.value().item());
      if (std::isfinite(out)) detail::backward(tape, of, weighed);
      return out;
    };
    const double found = optimizer_->measure(
        optim::Pass{FunctionRef<double()>(loss), FunctionRef<double(double)>(gradients)}, weight, part);
    return {found, measure.activation()};
  }

  struct None {
    None(const Loss<T, B>&, std::size_t) {}
  };

  Loss<T, B> loss_;
  optim::State<T, B>* optimizer_;
  [[no_unique_address]] std::conditional_t<B::on_host, None, Recordings<T, B>> recordings_;
};

template <class L, class... More>
Steps(const L&, More...) -> Steps<typename L::T, typename L::B>;

}  // namespace meft::train
