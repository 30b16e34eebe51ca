// Owns: a list of what Philox draws. Comes before the library's headers.
#pragma once

// Dropout takes its words here, where they are listed.
#define philox_words philox_words_unlisted
#include <meft/backend/cpu/philox.hpp>
#undef philox_words

#include <tuple>
#include <vector>

namespace meft::cpu {

/// Seed, step, site and block of four words.
using Draw = std::tuple<std::uint64_t, std::uint32_t, std::uint32_t, std::uint64_t>;
std::vector<Draw> draws;
bool listing = false;  // on one thread

inline void philox_words(Key key, std::uint64_t block, Index blocks, std::uint32_t* words) {
  for (Index b = 0; listing && b < blocks; ++b)
    draws.emplace_back(key.seed, key.step, key.site, block + static_cast<std::uint64_t>(b));
  philox_words_unlisted(key, block, blocks, words);
}

}  // namespace meft::cpu
