// Owns: what a method may see of a task before training, to choose by it what trains.
// Must not know: the methods, what examples are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include <meft/autodiff/tape.hpp>

namespace meft {

/// The examples of a task, as a method sees them before training.
template <Real T, Backend B = Cpu>
struct Preview {
  std::size_t examples = 0, batch = 1;  // to train on, and how many of them a batch has
  std::uint64_t seed = 0;
  /// The loss of a batch of examples by number, without dropout, recorded by the current tape; empty where none counts.
  std::function<Var<T, B>(std::span<const std::uint32_t> examples)> loss;
  /// Asked between batches, with the examples seen and to be seen; true ends it. May be empty.
  std::function<bool(std::size_t done, std::size_t of)> stop{};
};

}  // namespace meft
