// Owns: Bilevel ZOFO: everything by forward passes alone, and a small module by gradients. arXiv 2502.03604. How a step
// goes is optim/bilevel.hpp.
#pragma once

#include <algorithm>
#include <concepts>

#include <meft/method/adapt.hpp>
#include <meft/method/low_rank.hpp>
#include <meft/method/mezo.hpp>
#include <meft/method/prefix.hpp>

namespace meft {

/// The model as MeZO trains it, without dropout, and `Inside` beside it, through layers that keep their inputs only.
/// Training examples are split: two thirds for the lower level, the module's, a third for the upper one.
template <class Inside>
struct Zofo {
  Inside module = Mezo<Inside>{}.inside;
  double epsilon = 1e-3, lambda = 10, module_rate = std::same_as<Inside, PrefixTuning> ? 1e-2 : 1e-3;
  std::int64_t inner = 30;
};

template <class Inside>
struct Described<Zofo<Inside>> {
  static constexpr bool prefix = std::same_as<Inside, PrefixTuning>;
  static constexpr std::string_view name = prefix ? "zofo-prefix" : "zofo";
  static constexpr std::string_view about =
      prefix ? "the same, beside prefix-tuning by gradients"
             : "everything, by forward passes alone, beside low-rank updates by gradients";
  static constexpr MethodFacts facts{.recomputes = false, .trains_all = true, .apart = Described<Inside>::facts.apart};
  static void options(auto& m, auto&& visit) {
    Described<Inside>::options(m.module, visit);
    visit(Option{"mezo-epsilon", "share of standard noise on what trains"}, Positive{}, m.epsilon);
    visit(Option{"zofo-inner", "steps of the lower level for one of the upper"}, Whole{0, 1 << 20}, m.inner);
    visit(Option{"zofo-lambda", "weight of the lower level's loss in the upper's"}, Positive{}, m.lambda);
    visit(Option{"zofo-rate", "of the module, by Adam; --lr is the model's"}, Positive{}, m.module_rate);
  }
  static Index added(const Zofo<Inside>& m, Index width) { return Described<Inside>::added(m.module, width); }
  template <Real T, Backend B>
  static Index activation(const Zofo<Inside>& m, const StepSizes& s) {
    StepSizes recomputed = s;
    recomputed.recompute = true;
    return std::max(detail::inserted_activation(m.module, recomputed),
                    Described<Mezo<Full>>::template activation<T, B>({}, s));
  }
  static void suit(Zofo<Inside>& m, const FamilyFacts& family) {
    if constexpr (prefix) suit_start(m.module, family);
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
auto adapt(Model& model, const Zofo<Inside>& method, const AdaptOptions& options = {}) {
  using T = typename Model::value_type;
  using B = typename Model::backend;
  require(!options.recompute, "zofo: a layer's input is all that it keeps already");
  detail::train_none(model, options);
  nn::for_each_parameter(model, [](const std::string&, Parameter<T, B>& p) { p.set_probed(true); });
  ChangedLayers<T, B> layers;
  detail::for_each_layer(model, [&](auto& layer) { layers.push_back(&layer); });
  insert(layers, method.module, options);
  return detail::body_of(
      model, [](auto& list) { return Chain<T, B>{.layers = list, .plain = list.size(), .recompute = true}; });
}

template <class Model, Real T, Backend B, class Inside>
bool prepare(Model& model, const Body<T, B>& body, const Zofo<Inside>& method, const Preview<T, B>& preview) {
  if constexpr (requires { prepare(model, body, method.module, preview); })
    return prepare(model, body, method.module, preview);
  else return true;
}

}  // namespace meft
