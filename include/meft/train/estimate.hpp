// Owns: the activation memory that a training step will take, computed from shapes: nothing is run.
// Counts are elements of T; `kept` follows the ops' Saved structs, `moving` what is alive beside them at the highest
// point.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>

#include <meft/model/spec.hpp>
#include <meft/reversible/run.hpp>
#include <meft/train/method.hpp>

namespace meft::train {

/// A model's sizes, as its configuration has them; encoder and decoder count as one stack.
struct ModelSizes {
  Index width = 0, ffn = 0, heads = 0, layers = 0, vocabulary = 0;

  static ModelSizes of(const model::TransformerSpec& s) {
    const auto& lower = s.layers.layer;
    const auto upper = s.decoder ? s.decoder->layer : lower;
    return {s.width, std::max(lower.ffn, upper.ffn), std::max(lower.heads, upper.heads),
            s.layers.count + (s.decoder ? s.decoder->count : 0), s.embeddings.vocabulary};
  }
};

/// Predicts what Measure will read over forward and backward of one batch, dropout on. Within a few percent for BERT on
/// one thread (tested); with more, an upper bound: workers need not reach their highest points together. Cross
/// attention and heads over a vocabulary are left out.
template <Real T, Backend B = Cpu>
class ActivationEstimate {
 public:
  ActivationEstimate(const model::TransformerSpec& model, MethodOptions method, const Offsets& batch,
                     int workers = threads())
      : ActivationEstimate(ModelSizes::of(model), std::move(method), batch, workers) {}
  ActivationEstimate(const ModelSizes& sizes, MethodOptions method, const Offsets& batch, int workers = threads())
      : m_(std::move(method)),
        cuts_(meft::detail::cut(batch, B::slice_tokens)),
        n_(batch.tokens()),
        d_(sizes.width),
        f_(sizes.ffn),
        h_(sizes.heads),
        layers_(sizes.layers),
        vocab_(sizes.vocabulary),
        depth_(m_.reversible_layers < 0 ? layers_ : m_.reversible_layers),
        workers_(B::on_host ? std::min<Index>(workers, static_cast<Index>(cuts_.size())) : 1) {
    for (const auto& [first, last] : cuts_) {
      const Index rows = batch.end(last - 1) - batch.begin(first);
      slice_ = std::max(slice_, rows);
      if (m_.reversible())
        for (const Lambda factor : {m_.chosen_lambda().reduced(), m_.chosen_beta().reduced()})
          digits_ += digit_words<std::int32_t>(B{}, rows * d_, factor);
    }
  }

  std::size_t bytes() const {
    const Index embeddings = 3 * n_ * d_;  // two tables' rows and their sum
    const Index highest = m_.reversible()     ? reversible()
                          : m_.name == "head" ? n_ * (2 * d_ + std::max(2 * f_, attention()))
                          : m_.recompute      ? recomputed()
                                              : stored();
    return static_cast<std::size_t>(std::max(embeddings, highest)) * sizeof(T) +
           static_cast<std::size_t>(3 * n_) * sizeof(std::int32_t);
  }

 private:
  bool full() const { return m_.name == "full"; }
  Index norm() const { return d_ + 2; }            // input, mean and deviation
  Index attention() const { return 4 * d_ + h_; }  // query, key, value, output, log-sum-exp

  /// What a plain layer keeps, an element a token. Under adapters the lowest layer's attention keeps nothing: nothing
  /// below its output trains.
  Index kept(bool lowest) const {
    const Index always = 2 * norm() + f_;  // with the input of the activation
    if (full()) return always + attention() + 2 * d_ + f_;
    if (m_.name == "lora") return always + attention() + d_ + 2 * m_.rank;
    if (m_.name == "bitfit") return always + attention();
    return always + (lowest ? 0 : attention()) + 2 * d_ + 3 * m_.bottleneck;
  }
  /// The gradients in the highest layer's feed-forward block, and that of its weight.
  Index moving() const { return full() ? n_ * (d_ + f_) + d_ * f_ : n_ * ((m_.name == "bitfit" ? 3 : 2) * d_ + f_); }
  /// Of the embeddings' norm at the start, and the table's gradient at the end.
  Index with_embeddings(Index layers) const {
    return full() ? std::max(layers + n_ * norm(), vocab_ * d_ + 3 * n_ * d_) : layers;
  }

  Index stored() const { return with_embeddings(n_ * (kept(true) + (layers_ - 1) * kept(false)) + moving()); }
  Index recomputed() const { return with_embeddings(n_ * (layers_ * d_ + kept(layers_ == 1)) + moving()); }

  /// One function of a slice while it is differentiated: its graph, input, output, and gradients on their way; of the
  /// feed-forward block those of a chunk.
  Index differentiated() const {
    const Index chunk = std::min(slice_, B::slice_tokens), hidden = chunk * 2 * f_,
                adapter = slice_ * 3 * m_.bottleneck;
    if (m_.name == "meft3") return std::max(slice_ * (attention() + 7 * d_), slice_ * 4 * d_ + hidden) + adapter;
    return slice_ * (attention() + norm() + 5 * d_) + hidden + adapter;
  }
  /// What the two functions of a layer keep a token when they are not undone.
  Index taped() const {
    const Index both = attention() + 2 * norm() + f_;
    return both + 5 * d_ + 6 * m_.bottleneck;
  }

  Index reversible() const {
    const Index streams = 2 * n_ * d_, gradients = 2 * n_ * d_;
    if (m_.streams == Streams::stored)
      return streams + gradients + depth_ * n_ * taped() + workers_ * slice_ * (2 * d_ + f_);
    const Index held = m_.streams == Streams::exact ? depth_ * digits_ * static_cast<Index>(sizeof(std::uint32_t)) /
                                                          static_cast<Index>(sizeof(T))
                                                    : 0;
    return held + streams + std::max(gradients + workers_ * differentiated(), 3 * n_ * d_);
  }

  MethodOptions m_;
  std::vector<std::pair<Index, Index>> cuts_;
  Index n_, d_, f_, h_, layers_, vocab_, depth_, workers_;
  Index slice_ = 0, digits_ = 0;  // rows of the longest slice; words of a layer
};

}  // namespace meft::train
