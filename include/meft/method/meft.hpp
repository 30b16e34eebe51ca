// Owns: MEFT1, MEFT2 and MEFT3: which functions of a pre-trained layer and which factors couple its two streams.
// Liao, Tan, Monz, arXiv 2306.00477, section 3.2 and figure 4, with the wiring of the authors' code.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <meft/method/body.hpp>
#include <meft/reversible/scheme.hpp>

namespace meft {

/// What the three have in common. The pre-trained weights stay frozen; adapters train.
struct MeftOptions {
  Index bottleneck = 8;
  StackOptions stack{};
  Index reversible_layers = -1;  // the highest so many are reversible, the others frozen and plain; -1: all
  float dropout = 0;             // inside the adapters
  bool adapter_norm = false;     // a LayerNorm in front of the reversible adapter
  double deviation = 0.02;       // of the adapters' initial weights
  std::uint64_t seed = 0;
};

/// F is the layer with a parallel adapter in its feed-forward block, G an adapter; swapped. y1 = λ·x1 + F(x2).
struct Meft1 {
  Index bottleneck = 8;
  Lambda lambda{1, 10}, beta{1, 1};
  MeftOptions options{};
};
/// F is an adapter, G the layer with a parallel adapter; swapped. y2 = β·x2 + G(y1).
struct Meft2 {
  Index bottleneck = 8;
  Lambda lambda{1, 1}, beta{1, 10};
  MeftOptions options{};
};
/// F is the attention block with an adapter behind the attention, G the feed-forward block with a parallel one.
struct Meft3 {
  Index bottleneck = 8;
  Lambda lambda{1, 10}, beta{1, 10};
  MeftOptions options{};
};

namespace detail {

template <class Method>
constexpr int meft_kind() {
  return std::is_same_v<Method, Meft1> ? 1 : std::is_same_v<Method, Meft2> ? 2 : 3;
}

/// The carrier: the stream that holds the wrapped model's output after the last swap.
constexpr int carrier_of(int kind) { return kind == 2 ? 0 : 1; }

}  // namespace detail

template <class M>
concept MeftMethod = std::same_as<M, Meft1> || std::same_as<M, Meft2> || std::same_as<M, Meft3>;

/// Makes pre-trained layers reversible. Adapters are put into the highest `reversible_layers` of `layers`, so that
/// walking the model finds them; every other parameter of the layers is left as it is (freeze and pack them first).
template <MeftMethod Method, Real T, Backend B>
Chain<T, B> couple(std::vector<nn::TransformerLayer<T, B>>& layers, Method method, Where where = Where::current()) {
  constexpr int kind = detail::meft_kind<Method>();
  auto options = method.options;
  const Index depth = static_cast<Index>(layers.size());
  const Index reversible = options.reversible_layers < 0 ? depth : options.reversible_layers;
  require(reversible >= 1 && reversible <= depth, {"meft: reversible_layers is not in [1, layers]", where}, reversible,
          depth);
  require(method.bottleneck >= 1, {"meft: the bottleneck is not positive", where}, method.bottleneck);
  const std::size_t plain = static_cast<std::size_t>(depth - reversible);

  typename ReversibleStack<T, B>::Layers stack;
  for (std::size_t i = plain; i < layers.size(); ++i) {
    auto& layer = layers[i];
    const auto adapter = [&](std::uint32_t place, std::optional<double> norm_epsilon = {}) {
      return nn::Adapter<T, B>::make(layer.width(), method.bottleneck, layer.activation, options.dropout,
                                     layer.site + place, options.seed, norm_epsilon, options.deviation);
    };
    layer.mlp_adapter = adapter(4);
    layer.mlp_placement = nn::TransformerLayer<T, B>::Placement::parallel;
    if (kind == 3) layer.attention_adapter = adapter(3);
    else
      layer.reversible_adapter =
          adapter(5, options.adapter_norm ? std::optional(layer.attention_norm.epsilon) : std::nullopt);

    const auto shared = std::make_shared<const nn::TransformerLayer<T, B>>(layer);
    const Function<T, B> small = [shared](const Var<T, B>& x, const Context<T, B>& c) {
      return (*shared->reversible_adapter)(x, c);
    };
    const Function<T, B> attend = [shared](const Var<T, B>& x, const Context<T, B>& c) { return shared->attend(x, c); };
    const Function<T, B> feed = [shared](const Var<T, B>& x, const Context<T, B>& c) { return shared->feed(x, c); };
    auto& added = stack.emplace_back();
    added = kind == 1   ? coupling<T, B>(attend, small, method.lambda, method.beta, true)
            : kind == 2 ? coupling<T, B>(small, attend, method.lambda, method.beta, true)
                        : coupling<T, B>(attend, {}, method.lambda, method.beta, false);
    added[kind == 1 ? 0 : 1].then = feed;  // the whole layer is feed(attend(x))
  }
  options.stack.carrier = detail::carrier_of(kind);
  Chain<T, B> chain{layers, ReversibleStack<T, B>(std::move(stack), options.stack, where), plain};
  chain.slice_tokens = slice_tokens<B>(options.stack);
  return chain;
}

}  // namespace meft
