// Owns: how a model's layers are run: one after the other, recomputed, or as a reversible stack above frozen ones.
#pragma once

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
  ReversibleStack<T, B> stack{};  // of the layers above `plain`
  std::size_t plain = 0;          // how many of the lowest run one after the other
  bool recompute = false;         // keep a plain layer's input only
  Index slice_tokens = 256;       // of plain layers that nothing trains

  nn::Hidden<T, B> operator()(nn::Hidden<T, B> h) const {
    for (std::size_t i = 0; i < plain; ++i) h.value = one(layers[i], h.value, h.context);
    if (stack.depth()) h.value = stack(std::exchange(h.value, {}), h.context);
    return h;
  }

  /// Names are those of the layers in the model, with the stack's read-out beside them.
  static void parts(auto& self, auto&& visit) {
    visit("encoder.layer", self.layers);
    visit("readout.mix", self.stack.mix());
  }

 private:
  Var<T, B> one(const nn::TransformerLayer<T, B>& layer, const Var<T, B>& x, const Context<T, B>& context) const {
    if (Tape::current() && (stack.depth() == 0 || x.recorded())) {
      if (!recompute) return layer(x, context);
      return checkpoint([layer, context](const Var<T, B>& in) { return layer(in, context); }, x);
    }
    const NoTape none;
    Tensor<T, B> out(x.shape());
    const auto slices = detail::cut(context.offsets, slice_tokens);
    parallel_for(static_cast<Index>(slices.size()), [&](Index s) {
      const auto [first, last] = slices[static_cast<std::size_t>(s)];
      const Index begin = context.offsets.begin(first), end = context.offsets.end(last - 1);
      const Context<T, B> part{context.offsets.part(first, last), context.run, context.first_row + begin};
      auto to = out.rows(begin, end);
      const auto y = layer(x.value().rows(begin, end), part);
      B::copy(to.data(), y.value().data(), y.value().bytes());
    });
    return out;
  }
};

}  // namespace meft
