// Owns: the merges of a SentencePiece vocabulary that a GGUF file has without them, from the order of its tokens. The
// same as transformers' generate_merges. Must not know: files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <meft/text/unicode.hpp>

namespace meft::checkpoints {

/// Each token that two others make, with these, the best first: by score, then by the longer left part, then by the
/// longer right one. A token of more bytes than `longest` is made of none.
inline std::vector<std::pair<std::string_view, std::string_view>> merges_of(const std::vector<std::string_view>& tokens,
                                                                            const std::vector<double>& scores,
                                                                            std::size_t longest = 512) {
  struct Merge {
    double score;
    std::size_t left, right;  // characters
    std::string_view first, second;
  };
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < tokens.size(); ++i) ids[tokens[i]] = i;
  std::vector<Merge> merges;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto token = tokens[i];
    if (token.size() > longest || ids[token] != i) continue;
    std::vector<std::size_t> ends;  // of its characters
    for (std::size_t at = 0; at < token.size();) ends.push_back(at += text::decode(token, at).length);
    std::vector<std::tuple<std::size_t, std::size_t, std::size_t>> found;  // ids, characters of the left one
    for (std::size_t k = 0; k + 1 < ends.size(); ++k) {
      const auto left = ids.find(token.substr(0, ends[k]));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(ends[k]));
      if (right != ids.end()) found.emplace_back(left->second, right->second, k + 1);
    }
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
    });
    for (const auto& [left, right, count] : found)
      merges.push_back({scores[i], count, ends.size() - count, tokens[left], tokens[right]});
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.score, a.left, a.right) > std::tie(b.score, b.left, b.right);
  });
  std::vector<std::pair<std::string_view, std::string_view>> out;
  out.reserve(merges.size());
  for (const auto& merge : merges) out.emplace_back(merge.first, merge.second);
  return out;
}

}  // namespace meft::checkpoints
