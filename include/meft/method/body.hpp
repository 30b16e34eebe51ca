// Owns: how a model's layers are run: one after the other, recomputed, as a reversible stack above frozen ones, or with
// a network beside them.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <meft/method/side.hpp>
#include <meft/nn/batch.hpp>
#include <meft/nn/transformer.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/reversible/stack.hpp>

namespace meft {

/// A list of layers as a method runs it. Shares its parameters with the model.
template <Real T, Backend B = Cpu>
struct Chain {
  std::vector<nn::TransformerLayer<T, B>> layers;
  ReversibleStack<T, B> stack{};            // of the layers above `plain`
  std::size_t plain = 0;                    // how many of the lowest run one after the other
  bool recompute = false;                   // keep a plain layer's input only
  Index slice_tokens = B::slice_tokens;     // of plain layers that nothing trains
  std::optional<SideNetwork<T, B>> side{};  // of layers that are all plain; its output takes the place of theirs

  nn::Hidden<T, B> operator()(nn::Hidden<T, B> h) const {
    nn::fold<T, B>(layers);
    if (side)
      return {Tape::current() ? beside(h.value, h.context) : beside_parts(h.value.value(), h.context), h.context};
    for (std::size_t i = 0; i < plain; ++i) h.value = one(layers[i], h.value, h.context);
    if (stack.depth()) h.value = stack(std::exchange(h.value, {}), h.context);
    return h;
  }

  /// Names are those of the layers in the model, with the stack's read-out beside them.
  static void parts(auto& self, auto&& visit) {
    visit("encoder.layer", self.layers);
    visit("readout.mix", self.stack.mix());
    visit("side", self.side);
  }

 private:
  /// What the network makes of the layers' taps, and the late layers of that.
  Var<T, B> beside(const Var<T, B>& x, const Context<T, B>& context) const {
    const std::size_t below = layers.size() - side->late;
    const auto next = [&](std::size_t i, const Var<T, B>& h, const Context<T, B>& c) { return one(layers[i], h, c); };
    const auto watch = [&](const Var<T, B>& h, const Context<T, B>& c) {
      if (side->watch) return side->watch(h, c, typename SideNetwork<T, B>::Next(next), below);
      typename SideNetwork<T, B>::Taps taps{h};
      for (std::size_t i = 0; i < below; ++i) taps.push_back(next(i, taps.back(), c));
      return taps;
    };
    const bool whole = !context.cache;  // no token was read before
    auto taps = side->cache && whole ? (*side->cache)(x.value(), context, watch) : watch(x, context);
    auto y = side->run(taps, context);
    taps.clear();
    for (std::size_t i = below; i < layers.size(); ++i) y = one(layers[i], y, context);
    return y;
  }
  /// The same where nothing is recorded, in the parts that a step takes: the taps of one alone are there at a time.
  Var<T, B> beside_parts(const Tensor<T, B>& x, const Context<T, B>& context) const {
    return in_slices(x, context, side_tokens<B>, false,
                     [&](const Tensor<T, B>& rows, const Context<T, B>& part) { return beside(rows, part); });
  }

  /// f(rows, their context) for slices of whole sequences, under no tape; at once or one after the other.
  template <class F>
  Tensor<T, B> in_slices(const Tensor<T, B>& x, const Context<T, B>& context, Index tokens, bool at_once,
                         const F& f) const {
    Tensor<T, B> out(x.shape());
    const auto slices = detail::cut<B>(context.offsets, tokens);
    const auto one = [&](Index s) {
      const NoTape none;
      const auto [first, last] = slices[static_cast<std::size_t>(s)];
      const Index begin = context.offsets.begin(first), end = context.offsets.end(last - 1);
      auto to = out.rows(begin, end);
      const auto y = f(x.rows(begin, end), context.part(first, last));
      B::copy(to.data(), y.value().data(), y.value().bytes());
    };
    const auto count = static_cast<Index>(slices.size());
    if (at_once) for_slices<B>(count, one);
    else
      for (Index s = 0; s < count; ++s) one(s);
    return out;
  }

  Var<T, B> one(const nn::TransformerLayer<T, B>& layer, const Var<T, B>& x, const Context<T, B>& context) const {
    bool recorded = x.recorded();
    for (const auto& side : context.sides) recorded = recorded || side.value.recorded();
    if (Tape::current() && ((stack.depth() == 0 && !side) || recorded)) {
      if (!recompute || !trains(layer, recorded)) return layer(x, context);
      if (context.sides.empty())
        return checkpoint([layer, context](const Var<T, B>& in) { return layer(in, context); }, x);
      auto rest = context;
      rest.sides.front().value = {};
      return checkpoint(
          [layer, rest](const Var<T, B>& in, const Var<T, B>& side) {
            auto whole = rest;
            whole.sides.front().value = side;
            return layer(in, whole);
          },
          x, context.sides.front().value);
    }
    const NoTape none;
    return in_slices(x.value(), context, slice_tokens, true, layer);
  }

  /// Whether the backward pass comes through the layer: something below it or in it trains.
  static bool trains(nn::TransformerLayer<T, B> layer, bool below) {
    nn::for_each_parameter(layer, [&](const std::string&, const auto& p) { below = below || p.trainable(); });
    return below;
  }
};

/// All of a model's layers. Calls run the first list.
template <Real T, Backend B = Cpu>
struct Body {
  Chain<T, B> chain, decoder{};  // the second list reads the output of the first; most models have none

  nn::Hidden<T, B> operator()(nn::Hidden<T, B> h) const { return chain(std::move(h)); }

  /// The ranges of the chains' streams, where they have one.
  StreamRanges<T, B> ranges() const {
    StreamRanges<T, B> out;
    for (const auto* list : {&chain, &decoder})
      if (list->stack.depth() && list->stack.range()) out.push_back(list->stack.range());
    return out;
  }

  /// The most tokens that a layer takes at once in a step, in whole sequences.
  Index longest_slice() const {
    Index out = std::numeric_limits<Index>::max();
    for (const auto* list : {&chain, &decoder}) {
      const bool reversible = list->stack.depth() > 0;
      if (reversible) out = std::min(out, slice_tokens<B>(list->stack.options()));
      if (list->side || (reversible && list->plain > 0)) out = std::min(out, list->slice_tokens);
    }
    return out;
  }

  /// The most tokens that a step takes through the layers at once, in whole sequences: beside a network, all that is
  /// kept is a part's. 0: the batch goes as a whole.
  Index longest_part() const { return chain.side ? side_tokens<B> : 0; }

  /// Names are those of the layers in the model, with what the chains have of their own beside them.
  static void parts(auto& self, auto&& visit) {
    const bool one = self.decoder.layers.empty();
    visit(one ? "encoder.layer" : "encoder.layers", self.chain.layers);
    visit("decoder.layers", self.decoder.layers);
    own(self, visit);
  }
  /// Read-outs and networks beside the layers.
  static void own(auto& self, auto&& visit) {
    const bool one = self.decoder.layers.empty();
    visit(one ? "readout.mix" : "encoder.readout.mix", self.chain.stack.mix());
    visit("decoder.readout.mix", self.decoder.stack.mix());
    visit(one ? "side" : "encoder.side", self.chain.side);
    visit("decoder.side", self.decoder.side);
  }
};

namespace detail {

/// The layers of a model as run(layers), a Chain, runs them.
template <class Model, class F>
auto body_of(Model& model, const F& run) {
  Body<typename Model::value_type, typename Model::backend> out{run(model.layers)};
  if (!model.decoder_layers.empty()) out.decoder = run(model.decoder_layers);
  return out;
}
/// Calls f(layer) for every layer of the model.
template <class Model, class F>
void for_each_layer(Model& model, const F& f) {
  for (auto* list : {&model.layers, &model.decoder_layers})
    for (auto& layer : *list) f(layer);
}

}  // namespace detail

}  // namespace meft
