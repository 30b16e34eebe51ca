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

/// Adds the sequences from which a line's tokens are predicted. A masked model's have one masked token each.
inline void add_line(EncodedChoices& out, const std::vector<Tokens>& blocks, const BlockOptions& cut,
                     const std::optional<MaskOptions>& mask) {
  const auto add = [&](Tokens ids, Tokens labels) {
    out.types.emplace_back(ids.size(), 0);
    out.ids.push_back(std::move(ids));
    out.labels.push_back(std::move(labels));
  };
  for (const Tokens& block : blocks) {
    if (!mask) {
      add(block, causal_labels(block));
      continue;
    }
    for (std::size_t t = cut.before.size(); t + cut.after.size() < block.size(); ++t) {
      Tokens ids = block, labels(block.size(), ignored_label);
      std::swap(labels[t], ids[t]);
      ids[t] = mask->mask;
      add(std::move(ids), std::move(labels));
    }
  }
}

}  // namespace detail

/// Of each line, cut into blocks as `cut` says (see `blocks`); lines without tokens have none. With `mask` the model is
/// a masked one. `each` sequences go at a time. Nothing when `stop`, as
/// `asked` takes it, ends it early.
template <class Model, class Tokenizer, class Stop>
std::optional<std::vector<LineLikelihood>> line_likelihoods(const LanguageLearner<Model>& learner,
                                                            const Tokenizer& tokenizer,
                                                            std::span<const std::string> lines, const BlockOptions& cut,
                                                            const std::optional<MaskOptions>& mask, std::size_t each,
                                                            const Stop& stop) {
  std::vector<LineLikelihood> out;
  while (out.size() < lines.size()) {
    EncodedChoices sequences;
    std::vector<std::size_t> counts;  // of each line's
    for (std::size_t i = out.size(); i < lines.size() && sequences.ids.size() < 256; ++i) {
      const std::size_t before = sequences.ids.size();
      detail::add_line(sequences, blocks(tokenizer, lines.subspan(i, 1), cut), cut, mask);
      counts.push_back(sequences.ids.size() - before);
    }
    const auto found = learner.option_log_likelihoods(
        sequences, each, [&](std::size_t, std::size_t) { return asked(stop, out.size(), lines.size()); });
    if (!found) return {};
    std::size_t at = 0;
    for (const std::size_t count : counts) {
      LineLikelihood line;
      for (const std::size_t end = at + count; at < end; ++at) {
        line.log_likelihood += (*found)[at];
        for (const std::int32_t label : sequences.labels[at]) line.tokens += label != ignored_label;
      }
      out.push_back(line);
    }
  }
  return out;
}

}  // namespace meft::task
