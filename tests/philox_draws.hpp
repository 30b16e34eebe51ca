// Owns: a list of what dropout draws. Comes before the library's headers.
#pragma once

// Dropout takes its bits here, where they are listed.
#define dropout_draws dropout_draws_unlisted
#include <meft/backend/cpu/philox.hpp>
#undef dropout_draws

#include <tuple>
#include <vector>

namespace meft::cpu {

/// Seed, step, site and block of eight elements.
using Draw = std::tuple<std::uint64_t, std::uint32_t, std::uint32_t, std::uint64_t>;
std::vector<Draw> draws;
bool listing = false;  // on one thread

inline void dropout_draws(Key key, std::uint64_t block, Index blocks, std::uint16_t* bits) {
  for (Index b = 0; listing && b < blocks; ++b)
    draws.emplace_back(key.seed, key.step, key.site, block + static_cast<std::uint64_t>(b));
  dropout_draws_unlisted(key, block, blocks, bits);
}

}  // namespace meft::cpu
