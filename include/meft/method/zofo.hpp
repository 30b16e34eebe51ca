// Owns: Bilevel ZOFO: everything by forward passes alone, and a small module by gradients. arXiv 2502.03604. How a step
// goes is optim/bilevel.hpp.
#pragma once

#include <algorithm>
#include <concepts>
#include <string_view>
#include <type_traits>

#include <meft/method/adapt.hpp>
#include <meft/method/coupled.hpp>
#include <meft/method/low_rank.hpp>
#include <meft/method/mezo.hpp>
#include <meft/method/prefix.hpp>
#include <meft/method/prompt.hpp>

namespace meft {

namespace detail {

/// The module as it starts: of virtual tokens from words, and as few as the authors have.
template <class Inside>
Inside module_beside() {
  Inside out;
  if constexpr (requires { out.start = TokenStart::words; }) out.start = TokenStart::words;
  if constexpr (std::same_as<Inside, PromptTuning>) out.tokens = 10;
  return out;
}

}  // namespace detail

/// The model as MeZO trains it, without dropout, and `Inside` beside it: by gradients through layers that keep their
/// inputs only, or of Meft1 through its reversible ones, which keep none. Training examples are split: two thirds for
/// the lower level, the module's, a third for the upper one.
template <class Inside>
struct Zofo {
  Inside module = detail::module_beside<Inside>();
  double epsilon = 1e-3, lambda = 10, module_rate = requires { module.tokens; }
  ? 1e-2 : 1e-3;
  std::int64_t inner = 30;
};

template <class Inside>
struct Described<Zofo<Inside>> {
  static constexpr bool prefix = std::same_as<Inside, PrefixTuning>, prompt = std::same_as<Inside, PromptTuning>,
                        coupled = MeftMethod<Inside>;
  static constexpr std::string_view name = prefix    ? "zofo-prefix"
                                           : prompt  ? "zofo-prompt"
                                           : coupled ? "zofo-meft1"
                                                     : "zofo";
  static constexpr std::string_view about =
      prefix    ? "the same, beside prefix-tuning by gradients"
      : prompt  ? "the same, beside virtual words"
      : coupled ? "the same, beside meft1: gradients without stored activations"
                : "everything, by forward passes alone, beside low-rank updates by gradients";
  static constexpr MethodFacts facts{
      .reversible = coupled, .recomputes = false, .trains_all = true, .apart = Described<Inside>::facts.apart};
  static void options(auto& m, auto&& visit) {
    Described<Inside>::options(m.module, visit);
    visit(Option{"mezo-epsilon", "share of standard noise on what trains"}, Positive{}, m.epsilon);
    visit(Option{"zofo-inner", "steps of the lower level for one of the upper"}, Whole{0, 1 << 20}, m.inner);
    visit(Option{"zofo-lambda", "weight of the lower level's loss in the upper's"}, Positive{}, m.lambda);
    visit(Option{"zofo-rate", "of the module, by Adam; --lr is the model's"}, Positive{}, m.module_rate);
  }
  static Index added(const Zofo<Inside>& m, const StepSizes& s) { return Described<Inside>::added(m.module, s); }
  static Index in_front(const Zofo<Inside>& m) requires prompt { return m.module.tokens; }
  template <Real T, Backend B>
  static Index activation(const Zofo<Inside>& m, const StepSizes& s) {
    StepSizes recomputed = s, probed = s;
    recomputed.recompute = true, recomputed.drops = false;
    Index gradients = 0;
    if constexpr (Insertable<Inside>) gradients = detail::inserted_activation(m.module, recomputed);
    else gradients = Described<Inside>::template activation<T, B>(m.module, recomputed);
    if constexpr (prompt) {
      const Index more = m.module.tokens * s.sequences;
      for (Index& slice : probed.slices) slice += more * slice / s.tokens;
      probed.tokens += more;
    }
    return std::max(gradients, Described<Mezo<Full>>::template activation<T, B>({}, probed));
  }
  static void suit(Zofo<Inside>& m, const FamilyFacts& family) {
    if constexpr (requires { m.module.start = TokenStart::words; }) suit_start(m.module.start, family);
    if constexpr (coupled) Described<Inside>::suit(m.module, family);
  }
  static Recipe recipe(const Zofo<Inside>& m) {
    return {.rate = 1e-6,
            .warmup = 0,
            .decay = 0,
            .clip = 0,
            .schedule = Schedule::constant,
            .epsilon = m.epsilon,
            .inner = m.inner,
            .lambda = m.lambda,
            .module_rate = m.module_rate};
  }
};

template <class Model, class Inside>
auto adapt(Model& model, const Zofo<Inside>& method, const AdaptOptions& options = {}, Where where = Where::current()) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  detail::require_options(method, where);
  require(!options.recompute, {"zofo: a layer's input is all that it keeps already", where});
  detail::train_none(model, options);
  nn::for_each_parameter(model, [](const std::string&, Parameter<T, B>& p) { p.set_probed(true); });
  if constexpr (MeftMethod<Inside>) {
    method.module.inside.visit([&](const auto& inner) {
      using Inner = Described<std::decay_t<decltype(inner)>>;
      require(!Inner::facts.writes, {"zofo: expected a module of its own weights, found", where}, Inner::name);
    });
    return detail::coupled_body(model, method.module, options, where);
  } else {
    if constexpr (Insertable<Inside>) {
      ChangedLayers<T, B> layers;
      detail::for_each_layer(model, [&](auto& layer) { layers.push_back(&layer); });
      insert(layers, method.module, options);
    } else {
      detail::add_prompts(model, method.module, options.seed);
    }
    return detail::body_of(
        model, [](auto& list) { return Chain<T, B>{.layers = list, .plain = list.size(), .recompute = true}; });
  }
}

template <class Model, Real T, Backend B, class Inside>
bool prepare(Model& model, const Body<T, B>& body, const Zofo<Inside>& method, const Preview<T, B>& preview) {
  bool done = true;
  const auto one = [&](const auto& own) {
    if constexpr (requires { prepare(model, body, own, preview); }) done = prepare(model, body, own, preview);
  };
  if constexpr (MeftMethod<Inside>) method.module.inside.visit(one);
  else one(method.module);
  return done;
}

}  // namespace meft
