// Owns: how a pass over examples is told to end early.
#pragma once

#include <cstddef>
#include <functional>
#include <type_traits>

namespace meft::task {

/// Asked before each batch of a pass over examples: whether to end it early.
using Asked = std::function<bool(std::size_t done, std::size_t of)>;

/// Asks `stop(done, of)`, or `stop()` where it takes nothing, whether to end a pass over examples early.
template <class Stop>
bool asked(const Stop& stop, std::size_t done, std::size_t of) {
  if constexpr (std::is_invocable_v<const Stop&, std::size_t, std::size_t>) return stop(done, of);
  else return stop();
}

}  // namespace meft::task
