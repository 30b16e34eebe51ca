// Owns: the activation memory that a training step will take, computed from shapes: nothing is run. The methods say
// what they keep.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <meft/method/any.hpp>
#include <meft/model/spec.hpp>
#include <meft/ops/language.hpp>

namespace meft::train {

/// The layers of a model: encoder and decoder.
inline Index layers_of(const model::TransformerSpec& s) { return s.layers.count + (s.decoder ? s.decoder->count : 0); }

namespace detail {

/// The tokens of each of the first `count` sequences with those of its share of the others.
inline Offsets of_examples(const Offsets& batch, Index count) {
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(count));
  for (Index i = 0; i < batch.sequences(); ++i)
    lengths[static_cast<std::size_t>(i % count)] += static_cast<std::int32_t>(batch.length(i));
  return Offsets::of_lengths(lengths);
}

}  // namespace detail

/// A model's and a batch's sizes on `workers` threads, list by list; with `words` the head predicts them. A decoder
/// reads the batch's last `answers` sequences, or without them what its encoder reads.
template <Backend B = Cpu>
std::vector<StepSizes> step_sizes(const model::TransformerSpec& model, const Offsets& batch, int workers = threads(),
                                  bool words = false, Index answers = 0) {
  const auto of = [&](const model::LayersSpec& layers, const Offsets& read) {
    auto out = StepSizes::of(layers.layer);
    out.width = model.width;
    out.layers = layers.count;
    out.vocabulary = model.embeddings.vocabulary;
    out.images = model.patches.has_value();
    out.tokens = read.tokens();
    out.sequences = read.sequences();
    for (const auto& [first, last] : meft::detail::cut(read, B::slice_tokens))
      out.slices.push_back(read.end(last - 1) - read.begin(first));
    out.threads = workers;
    out.workers = B::on_host ? std::min<Index>(workers, std::ssize(out.slices)) : 1;
    return out;
  };
  const Index first = model.decoder ? batch.sequences() - answers : batch.sequences();
  std::vector<StepSizes> out{of(model.layers, batch.part(0, first))};
  if (model.decoder) {
    out.push_back(of(*model.decoder, answers ? batch.part(first, batch.sequences()) : batch));
    out.back().memory = out.front().tokens * std::max<Index>(answers, first) / std::max<Index>(first, 1);
  }
  for (const auto& [begin, end] : meft::detail::cut(detail::of_examples(batch, first), side_tokens<B>)) {
    Index read = 0, given = 0;
    for (Index i = begin; i < end; ++i) read += batch.length(i);
    for (Index i = first; i < batch.sequences(); ++i)
      if (const Index of = (i - first) % first; begin <= of && of < end) given += batch.length(i);
    out.front().part = std::max(out.front().part, read);
    out.back().part = std::max(out.back().part, answers && model.decoder ? given : read);
  }
  if (words) {
    const auto& head = model.language;
    out.back().predicted =
        meft::detail::logits_at_once<B>(model.embeddings.vocabulary, head && head->transform && head->bias);
  }
  return out;
}

/// Predicts, in bytes, what Measure will read over forward and backward of one batch, or of the largest of the parts
/// that the method takes it in, dropout on. Within a few percent for BERT on one thread (tested); with more, an upper
/// bound: workers need not reach their highest points together, and of a head over a vocabulary, whose rows may be
/// fewer. Of models with a decoder at most a seventh too low, and up to a quarter too high beside one and by forward
/// passes.
template <Real T, Backend B = Cpu>
std::size_t expected_activation(const AnyMethod& method, std::vector<StepSizes> lists) {
  const bool beside = method_facts(method).beside;
  Index held = 0, most = 0, tokens = 0;
  for (auto& s : lists) {
    if (beside) {
      if (s.memory) s.memory = lists.front().tokens;
      s.tokens = s.part;
    }
    const auto activation = [&] {
      Index out = method_activation<T, B>(method, s);
      if (beside && s.memory && added_weights(method, s) > 0)  // the encoder's network is below
        out += s.plain(s.layer(), s.layer(), s.gradients(2));
      return out;
    };
    const Index side = 2 * s.memory * s.width;        // what the encoder gives, and its gradient
    const Index embeddings = 3 * s.tokens * s.width;  // two tables' rows and their sum
    most = std::max(most, held + std::max(embeddings, side + activation()));
    s.held = true;
    held += activation();
    tokens += s.tokens;
  }
  return static_cast<std::size_t>(most) * sizeof(T) + static_cast<std::size_t>(3 * tokens) * sizeof(std::int32_t);
}

}  // namespace meft::train
