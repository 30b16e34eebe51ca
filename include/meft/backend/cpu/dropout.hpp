// Owns: dropout on the CPU. Element e is kept when random_bits(key, e) ≥ p·2³², so the mask is replayed, never stored.
// Philox runs on 16 counters side by side: 64 elements a round.
#pragma once

#include <cmath>
#include <cstdint>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/random.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/target.hpp>

namespace meft {

namespace cpu {

constexpr int philox_lanes = 16;

/// bits[4j + k] = philox(key, block + j)[k] for j in [0, philox_lanes).
MEFT_INLINE inline void philox_blocks(Key key, std::uint64_t block, std::uint32_t* bits) {
  constexpr int lanes = philox_lanes;
  std::uint32_t c0[lanes], c1[lanes], c2[lanes], c3[lanes];
  for (int j = 0; j < lanes; ++j) {
    const std::uint64_t b = block + static_cast<std::uint64_t>(j);
    c0[j] = static_cast<std::uint32_t>(b);
    c1[j] = static_cast<std::uint32_t>(b >> 32);
    c2[j] = key.site;
    c3[j] = key.step;
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < lanes; ++j) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[j], p1 = std::uint64_t{0xCD9E8D57u} * c2[j];
      c0[j] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[j] ^ k0;
      c2[j] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[j] ^ k1;
      c1[j] = static_cast<std::uint32_t>(p1);
      c3[j] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int j = 0; j < lanes; ++j) {
    bits[4 * j] = c0[j];
    bits[4 * j + 1] = c1[j];
    bits[4 * j + 2] = c2[j];
    bits[4 * j + 3] = c3[j];
  }
}

/// x·scale where bits ≥ threshold, else 0. A select, not a product, so that a dropped infinity is 0 too.
template <class T>
struct Keep {
  std::uint32_t threshold;
  T scale;
  MEFT_INLINE T operator()(T x, std::uint32_t bits) const {
    const T scaled = x * scale;
    return bits >= threshold ? scaled : T(0);
  }
};

}  // namespace cpu

/// y[i] = x[i]/(1 − p) where element first + i is kept, else 0; 0 ≤ p < 1. `y` may be `x`.
template <Real T>
void dropout(Cpu, Index n, const T* x, T* y, double p, Key key, std::uint64_t first) {
  constexpr Index width = 4 * cpu::philox_lanes;
  const double limit = std::ceil(p * 0x1p32);
  const cpu::Keep<T> keep{limit < 0x1p32 ? static_cast<std::uint32_t>(limit) : 0xffffffffu, static_cast<T>(1 / (1 - p))};
  parallel_chunks(n, cpu::map_grain, [&](Index begin, Index end) {
    vectorised([&]() MEFT_INLINE {
      for (Index i = begin; i < end;) {
        const std::uint64_t element = first + static_cast<std::uint64_t>(i);
        const Index skip = static_cast<Index>(element % 4);
        const Index count = end - i < width - skip ? end - i : width - skip;
        std::uint32_t bits[width];
        cpu::philox_blocks(key, element / 4, bits);
        if (count == width) {
          for (Index j = 0; j < width; ++j) y[i + j] = keep(x[i + j], bits[j]);
        } else {
          for (Index j = 0; j < count; ++j) y[i + j] = keep(x[i + j], bits[skip + j]);
        }
        i += count;
      }
    });
  });
}

}  // namespace meft
