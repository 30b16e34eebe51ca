// Owns: counter-based randomness. A value is a pure function of (seed, site, step, element), so it can be replayed
// anywhere, in any order and on any number of threads. Philox4x32: Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include <meft/base/host_device.hpp>

namespace meft {

/// What a random draw depends on besides the element's number.
struct Key {
  std::uint64_t seed = 0;
  std::uint32_t site = 0;  // which use: one number for each dropout or initialised tensor
  std::uint32_t step = 0;
};

/// Four independent 32-bit words for counter `block` under `key`. Seven rounds are the least that passes every test of
/// TestU01, ten leave a margin (Salmon et al.).
template <int rounds = 10>
MEFT_HD std::array<std::uint32_t, 4> philox(Key key, std::uint64_t block) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32), c2 = key.site,
                c3 = key.step;
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// The 32 random bits of one element.
MEFT_HD std::uint32_t random_bits(Key key, std::uint64_t element) { return philox(key, element / 4)[element % 4]; }

/// Uniform in [0, 1), a multiple of 2^-24.
inline float uniform(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// Normal deviate of one element (Box–Muller on two words of its own block).
inline double normal(Key key, std::uint64_t element) {
  const auto w = philox(key, element);
  const double u = (static_cast<double>(w[0]) + 1.0) * 0x1p-32, v = static_cast<double>(w[1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
}

/// A random number below `n` (Lemire's multiplication; the bias is below 2^-32 n).
inline std::uint32_t below(Key key, std::uint64_t element, std::uint32_t n) {
  return static_cast<std::uint32_t>((std::uint64_t{random_bits(key, element)} * n) >> 32);
}

/// Mixes a word into a running 64-bit hash (the finaliser of MurmurHash3).
MEFT_HD std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0xff51afd7ed558ccdull;
  return hash ^ (hash >> 32);
}

}  // namespace meft
