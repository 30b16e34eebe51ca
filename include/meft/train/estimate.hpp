// Owns: the activation memory that a training step will take, computed from shapes: nothing is run. The methods say
// what they keep.
#pragma once

#include <algorithm>
#include <cstddef>

#include <meft/method/any.hpp>
#include <meft/model/spec.hpp>
#include <meft/ops/language.hpp>

namespace meft::train {

/// The layers of a model: encoder and decoder.
inline Index layers_of(const model::TransformerSpec& s) { return s.layers.count + (s.decoder ? s.decoder->count : 0); }

/// A model's and a batch's sizes, on `workers` threads; with `words` the head predicts them.
template <Backend B = Cpu>
StepSizes step_sizes(const model::TransformerSpec& model, const Offsets& batch, int workers = threads(),
                     bool words = false) {
  const auto& lower = model.layers.layer;
  const auto upper = model.decoder ? model.decoder->layer : lower;
  auto out = StepSizes::of(lower);
  out.width = model.width;
  out.ffn = std::max(lower.ffn, upper.ffn);
  out.heads = std::max(lower.heads, upper.heads);
  out.layers = layers_of(model);
  out.vocabulary = model.embeddings.vocabulary;
  if (words) {
    const auto& head = model.language;
    out.predicted = meft::detail::logits_at_once<B>(out.vocabulary, head && head->transform && head->bias);
  }
  out.images = model.patches.has_value();
  out.tokens = batch.tokens();
  out.sequences = batch.sequences();
  for (const auto& [first, last] : meft::detail::cut(batch, B::slice_tokens))
    out.slices.push_back(batch.end(last - 1) - batch.begin(first));
  for (const auto& [first, last] : meft::detail::cut(batch, side_tokens<B>))
    out.part = std::max(out.part, batch.end(last - 1) - batch.begin(first));
  out.threads = workers;
  out.workers = B::on_host ? std::min<Index>(workers, std::ssize(out.slices)) : 1;
  return out;
}

/// Predicts, in bytes, what Measure will read over forward and backward of one batch, or of the largest of the parts
/// that the method takes it in, dropout on. Within a few percent for BERT on one thread (tested); with more, an upper
/// bound: workers need not reach their highest points together, and of a head over a vocabulary, whose rows may be
/// fewer. Cross attention is left out.
template <Real T, Backend B = Cpu>
std::size_t expected_activation(const AnyMethod& method, StepSizes sizes) {
  if (method_facts(method).beside) sizes.tokens = sizes.part;
  const Index embeddings = 3 * sizes.tokens * sizes.width;  // two tables' rows and their sum
  const Index highest = method_activation<T, B>(method, sizes);
  return static_cast<std::size_t>(std::max(embeddings, highest)) * sizeof(T) +
         static_cast<std::size_t>(3 * sizes.tokens) * sizeof(std::int32_t);
}

}  // namespace meft::train
