// Owns: what methods share that train virtual tokens: how many, and what they are before the first step.
// Must not know: the methods.
#pragma once

#include <cstdint>
#include <vector>

#include <meft/base/error.hpp>
#include <meft/base/random.hpp>
#include <meft/base/shape.hpp>
#include <meft/method/option.hpp>

namespace meft {

enum class TokenStart {
  random,  // standard normal
  words    // words of the model's table, drawn by the seed
};

inline constexpr Option tokens_option{"virtual-tokens", "how many"};
inline constexpr Whole token_counts{1, 65536};
inline constexpr Option token_start_option{"virtual-start", "standard normal numbers, or words drawn from the model's"};
inline constexpr auto token_starts = one_of<TokenStart>("random|words");

/// Images start from no words.
inline void suit_start(TokenStart& start, const FamilyFacts& family) {
  if (family.images) start = TokenStart::random;
}

namespace detail {

inline constexpr std::uint32_t virtual_site = 0x70000000u;  // and above: what virtual tokens are drawn from

/// `count` words of the model by id. Throws for a model that has none.
template <class Model>
std::vector<std::int32_t> some_words(const Model& model, Index count, Key key, Where where = Where::current()) {
  require(model.embeddings.has_value(), {"virtual tokens: expected a model that reads words, found", where},
          model.spec.family);
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(
        below(key, static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(model.spec.embeddings.vocabulary))));
  return ids;
}

}  // namespace detail

}  // namespace meft
