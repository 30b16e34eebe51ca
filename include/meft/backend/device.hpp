// Owns: the choice of a backend by name when a program runs, among those that it was built with.
#pragma once

#include <array>
#include <string_view>

#include <meft/backend/cpu/tag.hpp>
#ifdef MEFT_CUDA
#include <meft/backend/cuda/ahead.hpp>
#include <meft/backend/cuda/panels.hpp>
#include <meft/backend/cuda/recording.hpp>
#endif

namespace meft {

inline constexpr std::array<std::string_view, 2> device_names{"cpu", "cuda"};

/// Calls `f.operator()<B>()` for the backend that `name` names, and gives what it gives. Throws for any other name, and
/// for cuda in a program that does not link meft::cuda.
template <class F>
decltype(auto) with_device(std::string_view name, F&& f, Where where = Where::current()) {
#ifdef MEFT_CUDA
  if (name == Cuda::name) return std::forward<F>(f).template operator()<Cuda>();
#endif
  if (name == device_names[1])
    fail({"device: cuda needs a program that was built with the target meft::cuda (MEFT_CUDA=nvcc)", where});
  require(name == Cpu::name, {"device: expected cpu or cuda, found", where}, name);
  return std::forward<F>(f).template operator()<Cpu>();
}

}  // namespace meft
