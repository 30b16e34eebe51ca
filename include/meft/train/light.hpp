// Owns: the speed of light of a step: the operations of the products that it needs, from the descriptions of model and
// method, and the rate at which the library's products go here.
// Must not know: learners, how progress is shown.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <variant>
#include <vector>

#include <meft/method/any.hpp>
#include <meft/model/spec.hpp>
#include <meft/tensor/packed.hpp>
#include <meft/tensor/random.hpp>
#include <meft/train/options.hpp>

namespace meft::train {

/// How often a batch goes through layers: forward, forward again for what was not kept, and for the gradients of what
/// products read and of their weights.
struct Passes {
  double forward = 1, again = 0, inputs = 0, weights = 0;
};

/// Of the layers that a method trains through, and of all others: forward.
inline Passes passes_of(const AnyMethod& method, bool recompute) {
  const auto& facts = method_facts(method);
  const auto recipe = method_recipe(method);
  const auto* stack = stack_of(method);
  const double again = stack ? stack->streams != Streams::stored : recompute || recipe.inner;
  // Each batch by gradients of the module; behind `inner` of them two, by six losses besides (optim/bilevel.hpp).
  if (recipe.inner) return {1 + 6 / (static_cast<double>(*recipe.inner) + 2), again, 1, 0};
  if (recipe.epsilon > 0) return {2 * static_cast<double>(recipe.samples), 0, 0, 0};
  if (!facts.trains_layers) return {};
  return {1, again, 1, facts.trains_all ? 1.0 : 0.0};
}

namespace detail {

/// Of all tokens of a sequence, the pairs with those that they see.
inline double pairs(const nn::LayerSpec& layer, Index length) {
  const Index window = layer.window ? layer.window : length;
  double out = 0;
  for (Index i = 0; i < length; ++i)
    out += static_cast<double>(std::min(i + 1, window) + (layer.causal ? 0 : std::min(length - 1 - i, window - 1)));
  return out;
}

/// Multiply-adds of a pass forward through one layer: of products with its weights, and of attention's two.
struct LayerWork {
  double weights = 0, attention = 0;
};
/// `memory`: what a cross-attention block reads.
inline LayerWork work_of(const nn::LayerSpec& layer, const Offsets& of, const Offsets& memory) {
  const Index head = layer.head_width ? layer.head_width : layer.width / layer.heads;
  const Index query = layer.heads * head, key = (layer.key_heads ? layer.key_heads : layer.heads) * head;
  const auto tokens = static_cast<double>(of.tokens());
  const double width = static_cast<double>(layer.width), queries = 2 * width * static_cast<double>(query),
               keys = 2 * width * static_cast<double>(key);  // with the output's; with the values'
  LayerWork out{tokens * (queries + keys + (layer.gated ? 3 : 2) * width * static_cast<double>(layer.ffn)), 0};
  const auto attend = [&](double count) { out.attention += 2 * static_cast<double>(query) * count; };
  for (Index i = 0; i < of.sequences(); ++i) attend(pairs(layer, of.length(i)));
  if (!layer.cross) return out;
  out.weights += tokens * queries + static_cast<double>(memory.tokens()) * keys;
  const Index texts = std::max<Index>(memory.sequences(), 1), each = std::max<Index>(of.sequences() / texts, 1);
  for (Index i = 0; i < of.sequences(); ++i)
    attend(static_cast<double>(of.length(i)) * static_cast<double>(memory.length(std::min(i / each, texts - 1))));
  return out;
}

}  // namespace detail

/// Operations, two a multiply-add, of the products that a batch needs: of the layers, of what the method adds, and of a
/// head over the vocabulary where `words` are predicted. Embeddings, small heads and all that is no product are left
/// out; the lowest layer counts as the others do. Attention keeps no scores: its gradient takes five products where the
/// pass forward takes two. A network beside the layers counts by its weights.
inline double operations_of(const model::TransformerSpec& model, const AnyMethod& method, bool recompute,
                            const BatchSizes& batch, bool words) {
  Offsets tokens = batch.tokens, upper = batch.tokens;
  if (const auto& patches = model.patches) {
    const Index each = patches->tokens(batch.height, batch.width);
    tokens = Offsets::of_lengths(std::vector(static_cast<std::size_t>(batch.images), static_cast<std::int32_t>(each)));
  } else if (model.decoder && batch.answers.sequences()) {
    tokens = batch.tokens.part(0, batch.tokens.sequences() - batch.answers.sequences());
    upper = batch.answers;
  }
  const auto& facts = method_facts(method);
  const auto passes = passes_of(method, recompute);
  const Index highest = std::visit(
      [](const auto& m) -> Index {
        if constexpr (requires { m.options.reversible_layers; }) return m.options.reversible_layers;
        else if constexpr (requires { m.module.options.reversible_layers; }) return m.module.options.reversible_layers;
        else return -1;
      },
      method);
  const auto* stack = stack_of(method);
  const Index stored = stack ? stack->stored_layers : 0;
  const double own = method_recipe(method).epsilon > 0 ? 2 * passes.inputs
                     : facts.trains_layers             ? passes.inputs + 1
                                                       : 2;
  const Index all = model.layers.count + (model.decoder ? model.decoder->count : 0);
  double out = 0;
  const auto add = [&](const model::LayersSpec& layers, const Offsets& of, Index below) {
    for (Index i = 0; i < layers.count; ++i) {
      const auto layer = layers.at(i);
      const auto work = detail::work_of(layer, of, tokens);
      const bool trains = highest < 0 || below + i >= all - highest;
      const auto through = trains ? passes : Passes{passes.forward};
      const double forward = through.forward + (i >= layers.count - stored ? 0 : through.again);
      const auto added = static_cast<double>(added_weights(method, StepSizes::of(layer))) * (forward + own);
      out += work.weights * (forward + through.inputs + through.weights) +
             work.attention * (forward + 2.5 * through.inputs);
      if (trains) out += added * static_cast<double>(of.tokens());
    }
  };
  add(model.layers, tokens, 0);
  if (model.decoder) add(*model.decoder, upper, model.layers.count);
  if (words)
    out += static_cast<double>(batch.words * model.hidden()) * static_cast<double>(model.embeddings.vocabulary) *
           (facts.trains_layers ? passes.forward + passes.inputs + passes.weights : 2);
  return 2 * out;
}

/// Operations a second of products with packed weights, on all threads: the fastest of those that grow until one
/// takes 10 ms, the last of them for a tenth of a second.
template <Backend B>
double product_peak(Precision precision) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  double best = 0, least = 0;
  for (Index n = 48, last = B::on_host ? 768 : 3072; n <= last && least < 0.01; n *= 4) {
    Tensor<float, B> x({n, n}), y({n, n});
    fill_normal(x, {1, 1, 0}, 1);
    const PackedWeight<float, B> packed(x, arithmetic(precision));
    const auto time = [&] {
      const auto start = Clock::now();
      packed.forward(n, std::as_const(x).data(), nullptr, y.data());
      B::synchronize();
      return std::max(seconds(start), 1e-9);
    };
    const auto begin = Clock::now();
    time();  // warm
    least = time();
    while ((n == last || least >= 0.01) && seconds(begin) < 0.1) least = std::min(least, time());
    best = std::max(best, 2 * std::pow(static_cast<double>(n), 3) / least);
  }
  B::pool().trim();
  return best;
}

}  // namespace meft::train
