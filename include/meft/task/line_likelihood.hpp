// Owns: how likely a language model finds each of some lines: of a causal model the sum over the tokens, each after
// those before; of a masked one the pseudo-log-likelihood, each token masked by itself (Salazar et al., "Masked
// Language Model Scoring", ACL 2020). Must not know: files.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/task/language_learner.hpp>

namespace meft::task {

/// The sum of the log-likelihoods of a line's tokens, and their number.
struct LineLikelihood {
  double log_likelihood = 0;
  std::size_t tokens = 0;
};

namespace detail {

/// Calls add(ids, labels) for each sequence from which a line's tokens are predicted, until it is false; whether it
/// never was. A masked model's have one masked token each.
template <class Add>
bool each_sequence(const std::vector<Tokens>& blocks, const BlockOptions& cut, const std::optional<MaskOptions>& mask,
                   const Add& add) {
  for (const Tokens& block : blocks) {
    if (!mask && !add(block, causal_labels(block))) return false;
    for (std::size_t t = cut.before.size(); mask && t + cut.after.size() < block.size(); ++t) {
      Tokens ids = block, labels(block.size(), ignored_label);
      std::swap(labels[t], ids[t]);
      ids[t] = mask->mask;
      if (!add(std::move(ids), std::move(labels))) return false;
    }
  }
  return true;
}

}  // namespace detail

/// Of each line, cut into blocks as `cut` says (see `blocks`); lines without tokens have none. With `mask` the model is
/// a masked one. `each` sequences go at a time. Nothing when stopped.
template <class Model, class Tokenizer>
std::optional<std::vector<LineLikelihood>> line_likelihoods(const LanguageLearner<Model>& learner,
                                                            const Tokenizer& tokenizer,
                                                            std::span<const std::string> lines, const BlockOptions& cut,
                                                            const std::optional<MaskOptions>& mask, std::size_t each,
                                                            const Asked& stop) {
  constexpr std::size_t most = 256;  // that wait
  std::vector<LineLikelihood> out(lines.size());
  EncodedChoices waiting;
  std::vector<std::size_t> line_of;
  const auto score = [&] {
    const std::size_t done = line_of.empty() ? 0 : line_of.front();
    const auto found = learner.option_log_likelihoods(
        waiting, each, [&](std::size_t, std::size_t) { return stop(done, lines.size()); });
    for (std::size_t i = 0; found && i < line_of.size(); ++i) {
      out[line_of[i]].log_likelihood += (*found)[i];
      for (const std::int32_t label : waiting.labels[i]) out[line_of[i]].tokens += label != ignored_label;
    }
    waiting = {};
    line_of.clear();
    return found.has_value();
  };
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (!detail::each_sequence(blocks(tokenizer, lines.subspan(i, 1), cut), cut, mask, [&](Tokens ids, Tokens labels) {
          waiting.types.emplace_back(ids.size(), 0);
          waiting.ids.push_back(std::move(ids));
          waiting.labels.push_back(std::move(labels));
          line_of.push_back(i);
          return line_of.size() < most || score();
        }))
      return {};
  if (!score()) return {};
  return out;
}

}  // namespace meft::task
