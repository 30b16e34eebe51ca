// Owns: what a backend is. Backends are empty tags; their kernels are free functions that take the tag first, so that
// `gemm(B{}, …)` finds the right one and mixing devices does not compile.
#pragma once

#include <concepts>
#include <cstddef>

#include <meft/base/parallel.hpp>
#include <meft/base/shape.hpp>
#include <meft/memory/pool.hpp>

namespace meft {

/// A device: it has a name, a pool, and copies bytes to, from and within itself. `on_host`: its memory is the host's
/// and host threads compute on it; else what it is told to do is enqueued, and `synchronize` waits for it. `read` hands
/// bytes to a function on the host, later where work is recorded to be run again; `follow` uploads what a function
/// writes, `settled` gives what it finds on the host, each anew before such a run. A layer is taken through in slices
/// of about `slice_tokens` tokens.
template <class B>
concept Backend = std::is_empty_v<B> && requires(void* to, const void* from, std::size_t bytes, void (*f)(const void*),
                                                 void (*fill)(void*), bool (*found)()) {
  { B::name } -> std::convertible_to<const char*>;
  { B::pool() } -> std::same_as<Pool&>;
  { B::slice_tokens } -> std::convertible_to<Index>;
  { B::on_host } -> std::convertible_to<bool>;
  B::copy(to, from, bytes);
  B::upload(to, from, bytes);
  B::download(to, from, bytes);
  B::zero(to, bytes);
  B::read(from, bytes, f);
  B::follow(to, bytes, fill);
  { B::settled(found) } -> std::same_as<bool>;
  B::synchronize();
};

/// Calls body(i) for every slice i in [0, count): by several host threads at once, or one after the other.
template <Backend B, class Body>
void for_slices(Index count, const Body& body) {
  if constexpr (B::on_host) parallel_for(count, body);
  else
    for (Index i = 0; i < count; ++i) body(i);
}

}  // namespace meft
