// Owns: what a backend is. Backends are empty tags; their kernels are free functions that take the tag first, so that
// `gemm(B{}, …)` finds the right one and mixing devices does not compile.
#pragma once

#include <concepts>
#include <cstddef>

#include <meft/memory/pool.hpp>

namespace meft {

/// A device: it has a name, a pool, and copies bytes to, from and within itself.
template <class B>
concept Backend = std::is_empty_v<B> && requires(void* to, const void* from, std::size_t bytes) {
  { B::name } -> std::convertible_to<const char*>;
  { B::pool() } -> std::same_as<Pool&>;
  B::copy(to, from, bytes);
  B::upload(to, from, bytes);
  B::download(to, from, bytes);
  B::zero(to, bytes);
};

}  // namespace meft
