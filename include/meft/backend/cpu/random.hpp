// Owns: filling arrays with random numbers on the CPU.
#pragma once

#include <cstdint>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// out[i] = deviation · normal(key, i).
template <Real T>
void fill_normal(Cpu, Index n, T* out, Key key, double deviation) {
  parallel_chunks(n, 4096, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) out[i] = static_cast<T>(deviation * normal(key, static_cast<std::uint64_t>(i)));
  });
}

}  // namespace meft
