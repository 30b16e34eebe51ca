// Owns: dropout on the CPU. Element e is kept when random_bits(key, e) ≥ p·2³², so the mask is replayed, never stored.
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

/// run(i, count, words) for stretches of [0, n), in parallel: words[k] are the random bits of element i + k, number
/// first + i + k of the key.
template <class Run>
void for_random_words(Index n, Key key, std::uint64_t first, const Run& run) {
  parallel_chunks(n, map_grain, [&](Index begin, Index end) {
    constexpr Index most = 1024;
    std::uint32_t words[most];
    for (Index i = begin; i < end;) {
      const std::uint64_t element = first + static_cast<std::uint64_t>(i);
      const Index skip = static_cast<Index>(element % 4), count = std::min(end - i, most - skip);
      philox_words(key, element / 4, (skip + count + 3) / 4, words);
      run(i, count, words + skip);
      i += count;
    }
  });
}

}  // namespace cpu

template <class F, Real T, class... In>
void map_dropped(Cpu, const F& f, Index n, T* out, double p, Key key, std::uint64_t first, const In*... in) {
  const Keep<T> keep(p);
  cpu::for_random_words(n, key, first, [&](Index i, Index count, const std::uint32_t* words) {
    vectorised([&]() MEFT_INLINE {
      cpu::map_run([f, keep](std::uint32_t w, In... x) MEFT_INLINE { return keep(f(x...), w); }, count, out + i, words,
                   in + i...);
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
  cpu::for_random_words(n, key, first, [&](Index i, Index count, const std::uint32_t* words) {
    vectorised([&]() MEFT_INLINE {
      cpu::map_run([keep](T a, T b, std::uint32_t w) MEFT_INLINE { return a + keep(b, w); }, count, y + i, x + i, t + i,
                   words);
    });
  });
}

}  // namespace meft
