// Owns: tokenised examples, and the ragged batch made of some of them.
// Must not know: files, models, and which tokenizer it was.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/data/task.hpp>
#include <meft/nn/batch.hpp>

namespace meft::task {

/// Examples as token ids. A label is a class number, a value, or NaN where there is none.
struct Encoded {
  std::vector<std::vector<std::int32_t>> ids, types;
  std::vector<float> labels;
  std::size_t cut = 0;  ///< how many examples were longer than the length and lost tokens

  std::size_t size() const { return ids.size(); }
  std::vector<std::uint32_t> lengths() const {
    std::vector<std::uint32_t> out;
    for (const auto& sequence : ids) out.push_back(static_cast<std::uint32_t>(sequence.size()));
    return out;
  }
  /// Takes tokens `pad` off the texts' ends, but the first: where each token sees those before it alone, the last that
  /// is none is what transformers reads a class from. -1: none is.
  void drop_behind(Index pad) {
    for (std::size_t i = 0; i < size(); ++i)
      while (ids[i].size() > 1 && ids[i].back() == pad) ids[i].pop_back(), types[i].pop_back();
  }
};

/// Encodes examples (pairs when `pair`) with a tokenizer such as text::WordPiece, cut to `max_length` tokens. An
/// example without tokens, as an empty text is where nothing is put around it, is the tokenizer's first token. Errors:
/// it has none.
template <class Tokenizer>
Encoded encode(const Tokenizer& tokenizer, const std::vector<data::Example>& examples, bool pair,
               std::size_t max_length, Where where = Where::current()) {
  Encoded out;
  for (const auto& example : examples) {
    auto one = pair ? tokenizer.encode(example.text, example.pair, max_length, where)
                    : tokenizer.encode(example.text, max_length, where);
    if (one.ids.empty()) {
      if (tokenizer.bos() < 0)
        fail({example.place.text(out.ids.size()) + ": a text without tokens, and the tokenizer has no bos", where});
      one.ids = {tokenizer.bos()};
      one.types = {0};
    }
    out.ids.push_back(std::move(one.ids));
    out.types.push_back(std::move(one.types));
    out.labels.push_back(example.label);
    if constexpr (requires { one.cut; }) out.cut += one.cut;
  }
  return out;
}

/// The examples numbered `rows` as one batch. Labels are set when `labels` is 0 (regression: targets) or a number of
/// classes; -1 leaves them out. Throws for a label that is missing or no class.
template <Backend B = Cpu>
nn::Batch<B> batch_of(const Encoded& examples, std::span<const std::uint32_t> rows, int labels = -1, Run run = {},
                      Where where = Where::current()) {
  std::vector<std::vector<std::int32_t>> ids, types;
  std::vector<std::int32_t> classes;
  std::vector<float> targets;
  for (const std::uint32_t row : rows) {
    ids.push_back(examples.ids.at(row));
    types.push_back(examples.types.at(row));
    if (labels < 0) continue;
    const float label = examples.labels.at(row);
    require(std::isfinite(label), {"batch: an example without a label", where}, row);
    if (labels == 0) {
      targets.push_back(label);
      continue;
    }
    require(label >= 0 && label < static_cast<float>(labels) && label == std::floor(label),
            {"batch: a label is not a class", where}, label, labels);
    classes.push_back(static_cast<std::int32_t>(label));
  }
  auto batch = nn::Batch<B>::pack(ids, types, where);
  batch.run = run;
  if (labels > 0) batch.labels = Tensor<std::int32_t, B>::from({static_cast<Index>(classes.size())}, classes);
  if (labels == 0) batch.targets = Tensor<float, B>::from({static_cast<Index>(targets.size())}, targets);
  return batch;
}

}  // namespace meft::task
