// Owns: how a pass over examples goes: how many are taken at once, and how it is told to end early.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include <meft/base/shape.hpp>
#include <meft/model/spec.hpp>

namespace meft::task {

/// Asked before each batch of a pass over examples, with those that are done: whether to end it early.
using Asked = std::function<bool(std::size_t done, std::size_t of)>;

/// Tokens of examples of such `lengths` in a model: an image's length is its pixels.
inline std::vector<std::uint32_t> in_tokens(const model::TransformerSpec& spec, std::vector<std::uint32_t> lengths) {
  if (const auto& patches = spec.patches)
    for (auto& n : lengths) n = static_cast<std::uint32_t>(patches->leading + n / (patches->patch * patches->patch));
  return lengths;
}

/// The end of those of the examples, `first` and on, that `body` takes at once: at most `each`, and where it trains on
/// a batch in parts, no more than a part has, so that scoring needs no more memory than a step.
template <class Body>
std::size_t end_of_pass(const Body& body, const std::vector<std::uint32_t>& tokens, std::size_t first,
                        std::size_t each) {
  const std::size_t last = std::min(tokens.size(), first + each);
  if (body.longest_part() == 0) return last;
  Index sum = tokens[first];
  std::size_t end = first + 1;
  while (end < last && (sum += tokens[end]) <= body.longest_part()) ++end;
  return end;
}

}  // namespace meft::task
