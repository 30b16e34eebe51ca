// Owns: the count of device memory by use. One meter serves a pool; tables are made from it.
#pragma once

#include <array>
#include <cstddef>

namespace meft {

/// What a buffer is for. Activations of a reversible stack are those of its slices; its streams with their gradients,
/// and its digits, are counted apart. `features`: what frozen layers gave, kept for later steps.
enum class Use { parameter, gradient, optimizer, features, activation, workspace, streams, digits };
inline constexpr std::size_t uses = 8;

/// Whether it stays from one step to the next.
constexpr bool lasts(Use use) { return use <= Use::features; }

/// Who may have a block again that was given back: anyone, or what takes blocks for the same purpose alone: recordings,
/// which write to their blocks whenever they are run; uploads that run ahead of the work that was enqueued.
enum class Shelf { common, recordings, ahead };

namespace detail {
inline Use& current_use() {
  thread_local Use use = Use::activation;
  return use;
}
inline Shelf& current_shelf() {
  thread_local Shelf shelf = Shelf::common;
  return shelf;
}
}  // namespace detail

/// While it lives, this thread's allocations are counted under `use`.
class UseScope {
 public:
  explicit UseScope(Use use) : before_(detail::current_use()) { detail::current_use() = use; }
  ~UseScope() { detail::current_use() = before_; }
  UseScope(const UseScope&) = delete;
  UseScope& operator=(const UseScope&) = delete;

 private:
  Use before_;
};

/// While it lives, this thread's allocations come from `shelf` and return there.
class ShelfScope {
 public:
  explicit ShelfScope(Shelf shelf) : before_(detail::current_shelf()) { detail::current_shelf() = shelf; }
  ~ShelfScope() { detail::current_shelf() = before_; }
  ShelfScope(const ShelfScope&) = delete;
  ShelfScope& operator=(const ShelfScope&) = delete;

 private:
  Shelf before_;
};

/// Bytes alive now and at the highest point since the last `reset_peak`.
struct Reading {
  using ByUse = std::array<std::size_t, uses>;
  ByUse live{}, at_peak{};
  std::size_t total = 0;
  std::size_t peak = 0;

  std::size_t of(Use use) const { return live[static_cast<std::size_t>(use)]; }
  std::size_t peak_of(Use use) const { return at_peak[static_cast<std::size_t>(use)]; }
};

}  // namespace meft
