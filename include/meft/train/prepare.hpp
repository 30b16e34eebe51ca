// Owns: showing a method the training examples before a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <meft/method/any.hpp>

namespace meft::train {

/// What `method` chooses by examples of `data`, `batch` at a time, is chosen; most methods choose nothing. `learner`
/// and `data` are as Job::of takes them. False when stopped: stop(done, of) true ends it. A run that is resumed has
/// what was chosen in its state: see checkpoints::choose_as_in.
template <class L, class Data, class Stop>
bool prepare(L& learner, const AnyMethod& method, const Data& data, std::size_t batch, std::uint64_t seed,
             const Stop& stop) {
  using T = typename L::T;
  using B = typename L::B;
  Preview<T, B> preview{data.lengths().size(), batch, seed, {}, stop};
  preview.loss = [&](std::span<const std::uint32_t> rows) {
    const auto one = learner.batch(data, rows, Run{seed, 0, false});
    return one.counted == 0 ? Var<T, B>() : learner.loss(one);
  };
  return meft::prepare(learner.model, learner.body, method, preview);
}

}  // namespace meft::train
