// Owns: what a tokenizer returns, and how a pair is cut to a length.
// Must not know: any tokenizer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace meft::text {

/// Token ids with special tokens, and the part each belongs to: 0 for the first text, 1 for the second.
struct Encoding {
  std::vector<std::int32_t> ids, types;
  bool cut = false;  ///< tokens of a text are left out, since they do not fit in the length
};

/// The lengths to which a pair of `first` and `second` tokens is cut so that both fit in `room`: the longer loses
/// first, then both get half. Source: Hugging Face tokenizers, truncation strategy longest_first.
inline std::pair<std::size_t, std::size_t> longest_first(std::size_t first, std::size_t second, std::size_t room) {
  if (first + second <= room) return {first, second};
  std::size_t shorter = std::min(first, second), longer = room - std::min(room, shorter);
  if (shorter > longer) {
    shorter = room / 2;
    longer = room - shorter;
  }
  return first > second ? std::pair{longer, shorter} : std::pair{shorter, longer};
}

}  // namespace meft::text
