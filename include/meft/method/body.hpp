// Owns: how a model's layers are run: one after the other, recomputed, or as a reversible stack above frozen ones; and
// the pair of both for a model with encoder and decoder.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <meft/nn/batch.hpp>
#include <meft/nn/transformer.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/reversible/stack.hpp>

namespace meft {

/// The layers of a model as a method runs them. Shares its parameters with the model.
template <Real T, Backend B = Cpu>
struct Body {
  std::vector<nn::TransformerLayer<T, B>> layers;
  ReversibleStack<T, B> stack{};         // of the layers above `plain`
  std::size_t plain = 0;                 // how many of the lowest run one after the other
  bool recompute = false;                // keep a plain layer's input only
  Index slice_tokens = B::slice_tokens;  // of plain layers that nothing trains

  nn::Hidden<T, B> operator()(nn::Hidden<T, B> h) const {
    for (std::size_t i = 0; i < plain; ++i) h.value = one(layers[i], h.value, h.context);
    if (stack.depth()) h.value = stack(std::exchange(h.value, {}), h.context);
    return h;
  }

  /// Names are those of the layers in the model, with the stack's read-out beside them.
  static void parts(auto& self, auto&& visit) {
    visit("encoder.layer", self.layers);
    readouts(self, visit);
  }
  static void readouts(auto& self, auto&& visit) { visit("readout.mix", self.stack.mix()); }

 private:
  Var<T, B> one(const nn::TransformerLayer<T, B>& layer, const Var<T, B>& x, const Context<T, B>& context) const {
    bool recorded = x.recorded();
    for (const auto& side : context.sides) recorded = recorded || side.value.recorded();
    if (Tape::current() && (stack.depth() == 0 || recorded)) {
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
    Tensor<T, B> out(x.shape());
    const auto slices = detail::cut(context.offsets, slice_tokens);
    for_slices<B>(static_cast<Index>(slices.size()), [&](Index s) {
      const auto [first, last] = slices[static_cast<std::size_t>(s)];
      const Index begin = context.offsets.begin(first), end = context.offsets.end(last - 1);
      const auto part = context.part(first, last);
      auto to = out.rows(begin, end);
      const auto y = layer(x.value().rows(begin, end), part);
      B::copy(to.data(), y.value().data(), y.value().bytes());
    });
    return out;
  }

  /// Whether the backward pass comes through the layer: something below it or in it trains.
  static bool trains(nn::TransformerLayer<T, B> layer, bool below) {
    nn::for_each_parameter(layer, [&](const std::string&, const auto& p) { below = below || p.trainable(); });
    return below;
  }
};

/// The layers of a model with encoder and decoder.
template <Real T, Backend B = Cpu>
struct BodyPair {
  Body<T, B> encoder, decoder;

  /// Names are those of the layers in the model, with the read-outs beside them.
  static void parts(auto& self, auto&& visit) {
    visit("encoder.layers", self.encoder.layers);
    visit("decoder.layers", self.decoder.layers);
    readouts(self, visit);
  }
  static void readouts(auto& self, auto&& visit) {
    visit("encoder.readout.mix", self.encoder.stack.mix());
    visit("decoder.readout.mix", self.decoder.stack.mix());
  }
};

/// A model with a second list of layers, which read the output of the first.
template <class Model>
concept EncodesAndDecodes = requires(Model& model) {
  model.decoder_layers;
};

/// What `adapt` gives for a model.
template <class Model>
using BodyOf =
    std::conditional_t<EncodesAndDecodes<Model>, BodyPair<typename Model::value_type, typename Model::backend>,
                       Body<typename Model::value_type, typename Model::backend>>;

namespace detail {

/// The layers of a model as run(layers), a Body, runs them.
template <class Model, class F>
BodyOf<Model> body_of(Model& model, const F& run) {
  if constexpr (EncodesAndDecodes<Model>) return {run(model.layers), run(model.decoder_layers)};
  else return run(model.layers);
}
/// Calls f(layer) for every layer of the model.
template <class Model, class F>
void for_each_layer(Model& model, const F& f) {
  for (auto& layer : model.layers) f(layer);
  if constexpr (EncodesAndDecodes<Model>)
    for (auto& layer : model.decoder_layers) f(layer);
}

}  // namespace detail

}  // namespace meft
