// Owns: what all methods share when they are put on a model: their common options, what trains, plain layers, the sizes
// that a step's memory is computed from.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <meft/method/body.hpp>
#include <meft/method/option_text.hpp>

namespace meft {

/// What every method takes.
struct AdaptOptions {
  bool recompute = false;                // keep a layer's input only: for methods that keep more
  std::optional<Precision> precision{};  // of frozen weights, and of products with others; without, what layers say
  std::uint64_t seed = 0;                // of new weights
  Index feature_cache = 0;               // MiB of what frozen layers gave for examples seen before
  Index image_tokens = 0;                // that an image has, for what mixes them; 0: those of the model's size
};

/// A training step's sizes in a list of layers, from which a method's activation memory follows. Of `held` sizes that
/// is what the list keeps between the passes, else the most that is there.
struct StepSizes {
  Index width = 0, ffn = 0, heads = 0, layers = 0, vocabulary = 0;
  Index predicted = 0;       // the rows whose logits over the vocabulary are there at once; 0: the head is another
  Index query = 0, key = 0;  // features of a token's queries, and of its keys and of its values; 0: width
  bool gated = false;        // the feed-forward block has a gate
  bool head_norms = false;   // queries and keys are normed
  bool sandwich = false;     // what blocks give is normed too
  bool images = false;       // in place of text
  bool causal = false;       // no token sees a later one
  Index tokens = 0, sequences = 0, workers = 1, threads = 1;  // workers: on the slices of one batch
  Index memory = 0;                                           // tokens of the side that cross attention reads
  std::vector<Index> slices{};                                // tokens of each
  Index part = 0;                                             // tokens of the largest, where a batch is taken in parts
  bool recompute = false;
  bool narrow = false;  // what trains is multiplied in bf16
  bool drops = true;    // layers have dropout
  bool held = false;

  /// Those of a layer alone.
  static StepSizes of(const nn::LayerSpec& layer) {
    return {.width = layer.width,
            .ffn = layer.ffn,
            .heads = layer.heads,
            .query = layer.heads * layer.head_width,
            .key = (layer.key_heads ? layer.key_heads : layer.heads) * layer.head_width,
            .gated = layer.gated,
            .head_norms = layer.head_norms,
            .sandwich = layer.sandwich,
            .causal = layer.causal};
  }

  Index longest_slice() const { return slices.empty() ? 0 : *std::max_element(slices.begin(), slices.end()); }
  // Values a token that are kept for the gradient by a layer with frozen weights whose input has one.
  Index norm() const { return width + 2; }  // input, mean and deviation
  Index queries() const { return query ? query : width; }
  Index keys() const { return key ? key : width; }
  /// Query, key, value, output, log-sum-exp; and the queries and keys that were normed.
  Index attention() const { return 2 * queries() + 2 * keys() + heads + (head_norms ? queries() + keys() : 0); }
  Index hidden() const { return gated ? 2 * ffn : ffn; }  // the input of the activation, and what it gates
  /// Of cross attention: what its norm reads, query, output, log-sum-exp, and the side's keys and values.
  Index cross() const { return memory ? norm() + 2 * queries() + heads + of_side(2 * keys()) : 0; }
  /// So many values a token of the side, shared among the list's own.
  Index of_side(Index values) const { return tokens ? (values * memory + tokens - 1) / tokens : 0; }
  Index unattended() const { return (sandwich ? 4 : 2) * norm() + hidden() + cross(); }  // the rest: norms, and these
  Index layer() const { return attention() + unattended(); }
  /// Values a token alive in a block of a layer that keeps nothing, at most.
  Index passing() const { return std::max({gated ? 3 * ffn + width : 2 * ffn, attention(), cross()}); }

  /// Of plain layers that keep `lowest` and `other` values a token, while `moving` more elements are on their way
  /// through the highest one's feed-forward block.
  Index plain(Index lowest, Index other, Index moving) const {
    const Index all = lowest + (layers - 1) * other, ends = recompute ? layers * width : all;
    const Index kept = recompute ? ends + (layers == 1 ? lowest : other) : all;
    if (held) return tokens * ends;
    return std::max(tokens * kept + moving, at_head(tokens * ends));
  }
  /// Beside what is `kept` those of a head that predicts words: what it reads, the gradient and the last norm, and a
  /// chunk's rows, logits and gradients (ops/language.hpp); 0 where the head is another.
  Index at_head(Index kept) const {
    return predicted ? kept + 3 * tokens * width + std::min(predicted, tokens) * (vocabulary + 2 * width) : 0;
  }
  /// That of gradients alone: a block's output's and hidden layer's, `widths` of the one.
  Index gradients(Index widths) const { return tokens * (widths * width + hidden()); }
};

/// Layers that a method changes: of an encoder, a decoder, or the upper ones of these.
template <Real T, Backend B>
using ChangedLayers = std::vector<nn::TransformerLayer<T, B>*>;

/// A method that only changes layers: insert(layers, m, options) puts it into frozen ones and says what trains there.
template <class M>
concept Insertable = requires(const ChangedLayers<float, Cpu>& layers, const M& m, const AdaptOptions& options) {
  insert(layers, m, options);
};

namespace detail {

/// Says which of the model's parameters train, by name, and how the others are packed.
template <class Model, class Keep>
void train_only(Model& model, const AdaptOptions& options, const Keep& keep) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  if (options.precision) nn::set_precision<T, B>(model, *options.precision);
  nn::for_each_parameter(model, [&](const std::string& name, auto& p) { p.set_trainable(keep(name)); });
}
template <class Model>
void train_none(Model& model, const AdaptOptions& options) {
  train_only(model, options, [](const std::string&) { return false; });
}

/// The layers one after the other, with frozen weights packed.
template <class Model>
auto plain_body(Model& model, const AdaptOptions& options) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  nn::pack<T, B>(model);
  return body_of(model, [&](auto& layers) {
    return Chain<T, B>{.layers = layers, .plain = layers.size(), .recompute = options.recompute};
  });
}

/// What a method that changes layers keeps besides; cross attention is changed as attention is.
template <class M>
Kept kept_in(const M& method, const StepSizes& s) {
  Kept out = Described<M>::kept(method, s);
  if (s.memory) out.attention *= 2;
  return out;
}

/// What plain layers take that a method changes.
template <class M>
Index inserted_activation(const M& method, const StepSizes& s) {
  const Kept more = kept_in<M>(method, s);
  const Index kept = s.layer() + more.attention + more.feed;
  Index below = 0;
  if constexpr (requires { Described<M>::below(method, s); }) below = Described<M>::below(method, s);
  return s.plain(kept - below, kept, s.gradients(2) + s.tokens * more.moving);
}

/// Nothing inside the model is dropped: what its layers give is a function of the example.
template <class Model>
void without_dropout(Model& model) {
  model.spec.dropout = 0;
  for (auto* embeddings : {&model.embeddings, &model.decoder_embeddings})
    if (*embeddings) (*embeddings)->spec.dropout = 0;
  if (model.patches) model.patches->spec.dropout = 0;
  for_each_layer(model, [](auto& layer) {
    layer.dropout = layer.activation_dropout = layer.attention.dropout = 0;
    if (layer.cross) layer.cross->dropout = 0;
  });
}

/// Frozen layers, and make(layers), a module as SideNetwork takes it, beside each list of them; with a cache where
/// these read no other side.
template <class Model, class Make>
auto side_body(Model& model, const AdaptOptions& options, const Make& make) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  require(!options.recompute, "side network: frozen layers keep no activations that could be recomputed");
  require(options.feature_cache >= 0, "side network: option feature-cache: expected MiB from 0, found",
          options.feature_cache);
  train_none(model, options);
  without_dropout(model);
  auto body = plain_body(model, options);
  for (auto* chain : {&body.chain, &body.decoder})
    if (!chain->layers.empty()) {
      chain->side = SideNetwork<T, B>::of(make(chain->layers));
      if (options.feature_cache && !chain->layers.front().cross)
        chain->side->cache =
            std::make_shared<FeatureCache<T, B>>(static_cast<std::size_t>(options.feature_cache) << 20);
    }
  return body;
}

}  // namespace detail

/// Frozen layers with what the method puts into them, one after the other.
template <class Model, Insertable M>
auto adapt(Model& model, const M& method, const AdaptOptions& options = {}) {
  detail::require_options(method);
  detail::train_none(model, options);
  ChangedLayers<typename Model::value_type, typename Model::backend> layers;
  detail::for_each_layer(model, [&](auto& layer) { layers.push_back(&layer); });
  insert(layers, method, options);
  return detail::plain_body(model, options);
}

}  // namespace meft
