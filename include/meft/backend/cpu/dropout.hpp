// Owns: dropout on the CPU: backend/kernels/dropout.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/philox.hpp>
#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/keep.hpp>
#include <meft/backend/kernels/dropout.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>

namespace meft {

namespace cpu {

/// run(i, count, bits) for stretches of [0, n), in parallel: bits[k] are dropout's of element i + k, number
/// first + i + k of the key. Short ones, so that memory is read and written while others are drawn.
template <class Run>
void for_draws(Index n, Key key, std::uint64_t first, const Run& run) {
  parallel_chunks(n, map_grain, [&](Index begin, Index end) {
    constexpr Index most = 256, block = dropout_block_size;
    std::uint16_t bits[most];
    for (Index i = begin; i < end;) {
      const std::uint64_t element = first + static_cast<std::uint64_t>(i);
      const Index skip = static_cast<Index>(element % block), count = std::min(end - i, most - skip);
      dropout_draws(key, element / block, (skip + count + block - 1) / block, bits);
      run(i, count, static_cast<const std::uint16_t*>(bits + skip));
      i += count;
    }
  });
}

}  // namespace cpu

template <class F, Real T, class... In>
void map_dropped(Cpu, const F& f, Index n, T* out, double p, Key key, std::uint64_t first, const In*... in) {
  const Keep<T> keep(p);
  cpu::for_draws(n, key, first, [&](Index i, Index count, const std::uint16_t* bits) {
    vectorised([&]() MEFT_INLINE {
      cpu::map_run([f, keep](int b, In... x) MEFT_INLINE { return keep(f(x...), b); }, count, out + i, bits, in + i...);
    });
  });
}

template <Real T>
void add_dropped(Cpu, Index n, const T* x, const T* t, T* y, double p, Key key, std::uint64_t first,
                 const T* also = nullptr) {
  if (also) {
    add_dropped(Cpu{}, n, also, t, y, p, key, first);
    return map(Cpu{}, Add{}, n, y, x, static_cast<const T*>(y));
  }
  if (p == 0) return map(Cpu{}, Add{}, n, y, x, t);
  const Keep<T> keep(p);
  cpu::for_draws(n, key, first, [&](Index i, Index count, const std::uint16_t* bits) {
    vectorised([&]() MEFT_INLINE {
      cpu::map_run([keep](T a, T b, int c) MEFT_INLINE { return a + keep(b, c); }, count, y + i, x + i, t + i, bits);
    });
  });
}

}  // namespace meft
