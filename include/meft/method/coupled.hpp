// Owns: MEFT1, MEFT2 and MEFT3: which functions of a pre-trained layer and which factors couple its two streams.
// Liao, Tan, Monz, arXiv 2306.00477, section 3.2 and figure 4, with the wiring of the authors' code.
#pragma once

#include <concepts>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <meft/method/inserted.hpp>
#include <meft/reversible/scheme.hpp>

namespace meft {

/// paper: y = λ·x + F. balanced: y = λ·(x − other) + F, which adds to the model no more than what the last layer
/// changed. After BDIA (Zhang et al., arXiv 2407.09093), without its factor.
enum class Coupling { paper, balanced };
/// Of the adapters: the up-projection at zero, so that they add nothing, or N(0, deviation²) as the rest.
enum class AdapterStart { zero, paper };

/// What the three have in common. The pre-trained weights stay frozen; adapters train. Or another method's updates
/// `inside` the layers: these alone, without adapters, so that what trains is what trains under that method on its own.
/// Of a layer's two functions the one that is an adapter is then nothing, and the factor beside it one. With `maps`
/// that function is a sum of Kronecker products, s·H·x of ALoRE, with or without a method inside.
struct MeftOptions {
  StackOptions stack{};
  Index reversible_layers = -1;             // the highest so many are reversible, the others frozen and plain; -1: all
  float dropout = 0;                        // inside the adapters
  bool adapter_norm = false;                // a LayerNorm in front of the reversible adapter
  Coupling coupling = Coupling::paper;      // of the functions that are the model's; an adapter's has none
  AdapterStart start = AdapterStart::zero;  // of the adapters
  double deviation = 0.02;                  // of the adapters' initial weights
  bool maps = false;                        // of Meft1 and Meft2
  Alore map{};                              // the options of that; with Alore inside they are its
};

/// F is the layer with a parallel adapter in its feed-forward block, G an adapter; swapped. y1 = λ·x1 + F(x2).
struct Meft1 {
  Index bottleneck = 8;
  Lambda lambda{1, 10}, beta{1, 1};
  MeftOptions options{};
  Inside inside{};
};
/// F is an adapter, G the layer with a parallel adapter; swapped. y2 = β·x2 + G(y1).
struct Meft2 {
  Index bottleneck = 8;
  Lambda lambda{1, 1}, beta{1, 10};
  MeftOptions options{};
  Inside inside{};
};
/// F is the attention block with an adapter behind the attention, G the feed-forward block with a parallel one.
struct Meft3 {
  Index bottleneck = 8;
  Lambda lambda{1, 10}, beta{1, 10};
  MeftOptions options{};
  Inside inside{};
};

/// Meft1, Meft2 or Meft3.
template <class M>
concept MeftMethod = std::same_as<M, Meft1> || std::same_as<M, Meft2> || std::same_as<M, Meft3>;

namespace detail {

template <MeftMethod M>
inline constexpr int meft_kind = std::same_as<M, Meft1>   ? 1
                                 : std::same_as<M, Meft2> ? 2
                                                          : 3;

/// What is beside the layer.
template <MeftMethod M>
Alore map_of(const M& method) {
  Alore out = method.options.map;
  method.inside.visit([&](const auto& inner) {
    if constexpr (std::same_as<std::decay_t<decltype(inner)>, Alore>) out = inner;
  });
  return out;
}

/// The adapters of a reversible layer.
template <MeftMethod Method, Real T, Backend B>
void add_adapters(nn::TransformerLayer<T, B>& layer, const Method& method, std::uint64_t seed) {
  const auto& options = method.options;
  const auto adapter = [&](std::uint32_t place, std::optional<double> norm_epsilon = {}) {
    return nn::Adapter<T, B>::make(layer.width(), method.bottleneck, layer.activation, options.dropout,
                                   layer.site + place, seed, norm_epsilon, options.deviation,
                                   options.start == AdapterStart::zero);
  };
  layer.mlp_adapter = adapter(4);
  layer.mlp_placement = nn::TransformerLayer<T, B>::Placement::parallel;
  if (meft_kind<Method> == 3) layer.attention_adapter = adapter(3);
  else if (!options.maps)
    layer.reversible_adapter =
        adapter(5, options.adapter_norm ? std::optional(layer.attention_norm.epsilon) : std::nullopt);
}

/// The carrier: the stream that holds the wrapped model's output after the last swap.
constexpr int carrier_of(int kind) { return kind == 2 ? 0 : 1; }

}  // namespace detail

template <MeftMethod M>
struct Described<M> {
  static constexpr int kind = detail::meft_kind<M>;
  static constexpr std::string_view name = kind == 1 ? "meft1" : kind == 2 ? "meft2" : "meft3";
  static constexpr std::string_view about = kind == 1   ? "adapters beside layers made reversible"
                                            : kind == 2 ? "the same, with the streams' parts exchanged"
                                                        : "adapters beside blocks made reversible";
  static constexpr MethodFacts facts{
      .reversible = true, .recomputes = false, .apart = "its layers run as two coupled streams"};
  static void options(auto& m, auto&& visit) {
    auto& common = m.options;
    const auto adapting = [&](Option option) {
      if (m.inside) option.needs = Inside::said(Inside::none), option.found = m.inside.said();
      return option;
    };
    Inside::options(m.inside, visit);
    visit(Option{"streams", "how streams come back"}, one_of<Streams>("exact|rounded|stored"), common.stack.streams);
    visit(Option{.name = "stored-layers",
                 .help = "so many of the highest layers keep what the backward pass reads: faster, the same bits",
                 .stated = Stated::changed,
                 .needs = common.stack.streams == Streams::exact ? "" : "streams exact",
                 .found = name_of(common.stack.streams)},
          Whole{0, 65536}, common.stack.stored_layers);
    visit(
        Option{.name = "fraction-bits",
               .help = "of a stream's 32-bit numbers, at most; a feature whose values need a range beyond +-2^(31 - N) "
                       "has fewer",
               .stated = Stated::since,
               .needs = common.stack.streams == Streams::rounded ? "streams exact or stored" : "",
               .found = "streams rounded, which has no range"},
        Whole{1, 29}, common.stack.fraction_bits);
    const Option lambda{"lambda", "factor of the first stream"}, beta{"beta", "factor of the second stream"};
    visit(kind == 2 && !common.maps ? adapting(lambda) : lambda, Factor{}, m.lambda);
    visit(kind == 1 && !common.maps ? adapting(beta) : beta, Factor{}, m.beta);
    if constexpr (kind != 3) {
      visit(Option{.name = "beside",
                   .help = "the function beside a layer: an adapter, with --inside nothing; or alore's sum of products",
                   .stated = Stated::changed},
            one_of<bool>("adapter|alore"), common.maps);
      if (!m.inside.template is<Alore>())
        Described<Alore>::options(common.map, [&](Option about, const auto& of, auto& value) {
          if (!common.maps) about.needs = "beside alore", about.found = "beside adapter";
          visit(about, of, value);
        });
    }
    visit(Option{"readout", "output from the two streams",
                 "plm, the model's; images: average; OPT: scaled, the model's plus a tenth of the other"},
          OneOf{"average|plm|learned|scaled", [](std::string_view s) { return readout_from(s); },
                [](const Readout& r) { return name_of(r); }},
          common.stack.readout);
    visit(Option{.name = "coupling",
                 .help = "paper: F + lambda * x; balanced: F + lambda * (x - the other stream), nearer to the model",
                 .shown = "balanced; images and OPT: paper",
                 .stated = Stated::changed,
                 .before = "paper"},
          one_of<Coupling>("paper|balanced"), common.coupling);
    visit(adapting({.name = "adapter-start",
                    .help = "zero: adapters add nothing at first; paper: they start at random",
                    .stated = Stated::changed,
                    .before = "paper"}),
          one_of<AdapterStart>("zero|paper"), common.start);
    visit(adapting({"bottleneck", "width of the adapters"}), Whole{1, 65536}, m.bottleneck);
    visit(Option{"reversible-layers", "only the highest N layers"}, LayerCount{}, common.reversible_layers);
    visit(adapting({.name = "adapter-deviation",
                    .help = "standard deviation of the adapters' first weights",
                    .stated = Stated::changed}),
          Share{}, common.deviation);
  }

  /// OPT is as its authors have it. Other texts start near the model, and end better or as well; images do not always
  /// (bench/variants.json).
  static void suit(M& m, const FamilyFacts& family) {
    const bool opt = family.model_type == "opt", near = !opt && !family.images;
    m.options.stack.readout = readout_from(opt ? "scaled" : near ? "plm" : "average");
    m.options.coupling = near ? Coupling::balanced : Coupling::paper;
  }

  static Index added(const M& m, const StepSizes& s) {
    Index out = m.inside ? 0 : (m.options.maps ? 2 : 4) * s.width * m.bottleneck;
    m.inside.visit([&](const auto& method) { out = Described<std::decay_t<decltype(method)>>::added(method, s); });
    return out + (m.options.maps ? Described<Alore>::added(detail::map_of(m), s) / 2 : 0);
  }
  /// Of a stack: streams, their gradients and digits, and what the workers' slices hold. A slice under differentiation
  /// holds one function's graph, input, output and gradients on their way; of the feed-forward block those of a chunk.
  template <Real T, Backend B>
  static Index activation(const M& m, const StepSizes& s) {
    const auto& common = m.options;
    Kept more;  // of what is inside
    m.inside.visit([&](const auto& method) { more = detail::kept_in(method, s); });
    const Index bottleneck = m.inside ? 0 : m.bottleneck;
    const Index depth = common.reversible_layers < 0 ? s.layers : common.reversible_layers;
    const Index streams = 2 * s.tokens * s.width, gradients = streams, slice = s.longest_slice();
    const bool all = common.stack.streams == Streams::stored || common.stack.stored_layers >= depth;
    // Stored layers: what a layer reads from one stream is what the next reads first, but for MEFT3.
    const Index row = s.tokens * s.width, read = kind == 3 ? 3 : 2,
                kept_layers = all ? depth : common.stack.stored_layers;
    const Index layer = s.tokens * (s.layer() + 6 * bottleneck + more.attention + more.feed) + read * row,
                taped = kept_layers ? kept_layers * layer + (3 - read) * row : 0,
                stored = taped + s.workers * slice * (2 * s.width + s.hidden());
    if (all && s.held) return streams + taped;
    if (all) return std::max(gradients + stored, s.at_head(streams + taped));
    const Index hidden = std::min(slice, B::slice_tokens) * (s.hidden() + s.ffn + more.feed + more.moving);
    const Index attended = slice * (s.attention() + s.cross() + s.of_side(2 * s.width) + more.attention);
    const Index differentiated =
        slice * 3 * bottleneck + (kind == 3 ? std::max(attended + slice * 7 * s.width, slice * 4 * s.width + hidden)
                                            : attended + slice * (s.norm() + 5 * s.width) + hidden);
    Index digits = 0;  // words a layer
    if (common.stack.streams == Streams::exact)
      for (const Index rows : s.slices)
        for (const Lambda factor : {m.lambda.reduced(), m.beta.reduced()})
          digits += digit_words<std::int32_t>(B{}, rows * s.width, factor);
    const Index held =
        (depth - kept_layers) * digits * static_cast<Index>(sizeof(std::uint32_t)) / static_cast<Index>(sizeof(T));
    const Index back = std::max(taped ? stored : 0, s.workers * differentiated);
    const Index kept = held + streams, ends = kept + taped + (taped ? streams : 0);
    if (s.held) return ends;
    return std::max({kept + gradients + back, kept + 3 * row, s.at_head(ends)});
  }
};

/// Makes pre-trained layers reversible. Adapters, or what is inside, are put into the highest `reversible_layers` of
/// `layers`, so that walking the model finds them; every other parameter of the layers is left as it is (freeze and
/// pack them first).
template <MeftMethod Method, Real T, Backend B>
Chain<T, B> couple(std::vector<nn::TransformerLayer<T, B>>& layers, const Method& method,
                   const AdaptOptions& adapted = {}, Where where = Where::current()) {
  constexpr int kind = detail::meft_kind<Method>;
  detail::require_options(method, where);
  auto options = method.options;
  const Index depth = static_cast<Index>(layers.size());
  const Index reversible = options.reversible_layers < 0 ? depth : options.reversible_layers;
  require(reversible >= 1 && reversible <= depth, {"meft: reversible_layers is not in [1, layers]", where}, reversible,
          depth);
  const std::size_t plain = static_cast<std::size_t>(depth - reversible);
  if (options.maps) {
    require(kind != 3, {"meft3: both of its functions are the layer's: none is a sum of products", where});
    const Alore map = detail::map_of(method);
    for (std::size_t i = plain; i < layers.size(); ++i)
      layers[i].reversible_map =
          nn::KroneckerMap<T, B>::make(layers[i].width(), map.terms, map.rank, map.scale,
                                       static_cast<float>(map.dropout), layers[i].site + 5, adapted.seed);
  }
  if (method.inside) {
    const Lambda beside = kind == 1 ? method.beta : kind == 2 ? method.lambda : Lambda{};
    require(options.maps || beside.reduced(where) == Lambda{1, 1},
            {"meft: without an adapter the factor beside it is one", where}, beside.text());
    ChangedLayers<T, B> changed;
    for (std::size_t i = plain; i < layers.size(); ++i) changed.push_back(&layers[i]);
    method.inside.visit([&](const auto& inner) { insert(changed, inner, adapted); });
  }

  typename ReversibleStack<T, B>::Layers stack;
  for (std::size_t i = plain; i < layers.size(); ++i) {
    if (!method.inside) detail::add_adapters(layers[i], method, adapted.seed);
    const auto shared = std::make_shared<const nn::TransformerLayer<T, B>>(layers[i]);
    Function<T, B> small;
    if (shared->reversible_adapter)
      small = [shared](const Var<T, B>& x, const Context<T, B>& c) { return (*shared->reversible_adapter)(x, c); };
    if (shared->reversible_map)
      small = [shared](const Var<T, B>& x, const Context<T, B>& c) { return shared->reversible_map->change(x, c); };
    const Function<T, B> attend = [shared](const Var<T, B>& x, const Context<T, B>& c) { return shared->attend(x, c); };
    const Function<T, B> feed = [shared](const Var<T, B>& x, const Context<T, B>& c) { return shared->feed(x, c); };
    auto& added = stack.emplace_back();
    added = kind == 1   ? coupling<T, B>(attend, small, method.lambda, method.beta, true)
            : kind == 2 ? coupling<T, B>(small, attend, method.lambda, method.beta, true)
                        : coupling<T, B>(attend, {}, method.lambda, method.beta, false);
    added[kind == 1 ? 0 : 1].then = feed;  // the whole layer is feed(attend(x))
    added[kind == 2 ? 1 : 0].reads = shared->attends_to();
    if (options.coupling == Coupling::balanced)
      for (std::size_t k = 0; k < 2; ++k) added[k].balanced = kind == 3 || k == (kind == 1 ? 0 : 1);
    if (kind != 3 && !small) added.erase(added.begin() + (kind == 1 ? 1 : 0));
  }
  options.stack.carrier = detail::carrier_of(kind);
  Chain<T, B> chain{layers, ReversibleStack<T, B>(std::move(stack), options.stack, where), plain};
  chain.slice_tokens = slice_tokens<B>(options.stack);
  return chain;
}

namespace detail {

/// The layers of a model, coupled.
template <class Model, MeftMethod Method>
auto coupled_body(Model& model, const Method& method, const AdaptOptions& options, Where where) {
  return body_of(model, [&](auto& layers) {
    auto own = method;
    auto& reversible = own.options.reversible_layers;  // the smaller of two lists may be reversible as a whole
    if (!model.decoder_layers.empty() &&
        reversible <= static_cast<Index>(std::max(model.layers.size(), model.decoder_layers.size())))
      reversible = std::min(reversible, static_cast<Index>(layers.size()));
    return couple(layers, own, options, where);
  });
}

}  // namespace detail

/// MEFT on a whole model: freezes and packs it, then couples its layers.
template <class Model, MeftMethod Method>
auto adapt(Model& model, const Method& method, const AdaptOptions& options = {}, Where where = Where::current()) {
  detail::require_options(method, where);
  require(!options.recompute, {"meft: reversible layers keep no activations that could be recomputed", where});
  detail::train_none(model, options);
  nn::pack<typename Model::value_type, typename Model::backend>(model);
  return detail::coupled_body(model, method, options, where);
}

}  // namespace meft
