// Owns: a method known only when the program runs: by name, with its options as text. Walks the registry.
// Must not know: the methods.
#pragma once

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <meft/method/option_text.hpp>
#include <meft/method/preview.hpp>
#include <meft/method/registry.hpp>

namespace meft {

namespace detail {

template <class List>
struct AnyOf;
template <class... M>
struct AnyOf<MethodList<M...>> {
  using type = std::variant<M...>;
  static std::vector<type> all() { return {M{}...}; }
};
template <class M>
using DescribedOf = Described<std::remove_cvref_t<M>>;

/// f(the method), or f(what is inside of it): nothing where it takes others inside and has none.
template <class M, class F>
void visit_trained(const M& method, const F& f) {
  if constexpr (requires { method.inside.visit(f); }) method.inside.visit(f);
  else f(method);
}

}  // namespace detail

/// Any method of the registry, with its options.
using AnyMethod = detail::AnyOf<Methods>::type;

/// Every method as it is by default, in the registry's order.
inline std::vector<AnyMethod> all_methods() { return detail::AnyOf<Methods>::all(); }

inline std::string_view method_name(const AnyMethod& method) {
  return std::visit([](const auto& m) { return detail::DescribedOf<decltype(m)>::name; }, method);
}
inline std::string_view method_about(const AnyMethod& method) {
  return std::visit([](const auto& m) { return detail::DescribedOf<decltype(m)>::about; }, method);
}
inline const MethodFacts& method_facts(const AnyMethod& method) {
  return std::visit([](const auto& m) -> const MethodFacts& { return detail::DescribedOf<decltype(m)>::facts; },
                    method);
}

/// Whether it trains elements of frozen weights where they lie, itself or by what is inside.
inline bool method_writes(const AnyMethod& method) {
  bool out = false;
  const auto one = [&](const auto& m) { out = detail::DescribedOf<decltype(m)>::facts.writes; };
  std::visit([&](const auto& m) { detail::visit_trained(m, one); }, method);
  return out;
}

/// After how many steps of a run it chooses anew what trains, itself or by what is inside; 0: never.
inline std::int64_t method_renews(const AnyMethod& method) {
  std::int64_t out = 0;
  const auto one = [&](const auto& m) {
    if constexpr (requires { detail::DescribedOf<decltype(m)>::renews(m); })
      out = detail::DescribedOf<decltype(m)>::renews(m);
  };
  std::visit([&](const auto& m) { detail::visit_trained(m, one); }, method);
  return out;
}

/// The methods as they are by default, and those that take another inside with each of these.
inline std::vector<AnyMethod> methods_and_insides() {
  std::vector<AnyMethod> out;
  for (const auto& method : all_methods()) {
    out.push_back(method);
    std::visit(
        [&](auto m) {
          if constexpr (requires { m.inside = Inside{}; })
            [&]<class... Inner>(MethodList<Inner...>) {
              ((m.inside = Inner{}, out.push_back(m)), ...);
            }(InsertedMethods{});
        },
        method);
  }
  return out;
}
/// The name, behind it what is inside: `meft1+NAME`.
inline std::string method_title(const AnyMethod& method) {
  return std::visit(
      [](const auto& m) {
        std::string out(detail::DescribedOf<decltype(m)>::name);
        if constexpr (requires { m.inside.name(); })
          if (m.inside) out += "+" + std::string(m.inside.name());
        return out;
      },
      method);
}

/// The names of the methods for which ok(method), as `a, b or c`; of all without.
template <std::predicate<const AnyMethod&> Ok>
std::string method_names(const Ok& ok) {
  std::vector<std::string> names;
  for (const auto& m : all_methods())
    if (ok(m)) names.emplace_back(method_name(m));
  std::string out;
  for (std::size_t i = 0; i < names.size(); ++i)
    out += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return out;
}
inline std::string method_names() {
  return method_names([](const AnyMethod&) { return true; });
}

/// An option of a method, with its value.
struct OptionOf {
  Option about;
  std::string shown, expected;  // of its values: a word for help, and what they may be
  detail::OptionValue value;
  bool counts_layers = false;  // an integer is at most the number of the model's

  /// The value as text.
  std::string text() const {
    if (const auto* s = std::get_if<std::string>(&value)) return *s;
    if (const auto* i = std::get_if<std::int64_t>(&value)) return std::to_string(*i);
    char out[32];
    return {out, std::to_chars(out, out + sizeof out, std::get<double>(value)).ptr};
  }
};

namespace detail {

/// f(Option, OptionSlot) for each, in the order in which they are described.
template <class F>
void for_each_option(AnyMethod& method, const F& f) {
  const EachOption each{FunctionRef<void(const Option&, const OptionSlot&)>(f)};
  std::visit([&](auto& m) { DescribedOf<decltype(m)>::options(m, each); }, method);
}

}  // namespace detail

/// The options of a method, each name once: where several of what can be inside have it, that which is read.
inline std::vector<OptionOf> method_options(AnyMethod method) {
  std::vector<OptionOf> out;
  detail::for_each_option(method, [&](const Option& about, const detail::OptionSlot& slot) {
    OptionOf found{about, slot.shown(), slot.expected(), slot.value(), slot.counts_layers()};
    const auto same = [&](const OptionOf& other) { return other.about.name == about.name; };
    if (const auto at = std::find_if(out.begin(), out.end(), same); at == out.end()) out.push_back(found);
    else if (about.needs.empty()) *at = found;
  });
  return out;
}

/// Sets an option from text. False, with the method as it was, where it has no such option or the text is none of the
/// values that are expected.
[[nodiscard]] inline bool set_option(AnyMethod& method, std::string_view name, std::string_view text) {
  bool set = false;
  detail::for_each_option(method, [&](const Option& about, const detail::OptionSlot& slot) {
    if (about.name == name) set = slot.read(text);
  });
  return set;
}

/// The method of a name, or of a title as `method_title` gives it, as it is by default. Throws for an unknown one,
/// naming those that there are.
inline AnyMethod method_named(std::string_view title, Where where = Where::current()) {
  const auto plus = title.find('+');
  for (auto& m : all_methods())
    if (method_name(m) == title.substr(0, plus) &&
        (plus == title.npos || set_option(m, "inside", title.substr(plus + 1))))
      return m;
  fail({"method: expected " + method_names() + ", found", where}, title);
}

/// Sets what is another by default under a family.
inline void suit_family(AnyMethod& method, const FamilyFacts& family) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::suit(m, family); })
          detail::DescribedOf<decltype(m)>::suit(m, family);
      },
      method);
}

/// How it is trained unless told otherwise: as what is inside is.
inline Recipe method_recipe(const AnyMethod& method) {
  Recipe out;
  const auto one = [&](const auto& m) {
    if constexpr (requires { detail::DescribedOf<decltype(m)>::recipe(m); })
      out = detail::DescribedOf<decltype(m)>::recipe(m);
  };
  std::visit([&](const auto& m) { detail::visit_trained(m, one); }, method);
  return out;
}

/// The tokens that the method puts before every sequence.
inline Index tokens_in_front(const AnyMethod& method) {
  return std::visit(
      [](const auto& m) {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::in_front(m); })
          return detail::DescribedOf<decltype(m)>::in_front(m);
        else return Index{0};
      },
      method);
}

/// The weights that the method adds to a layer of that size.
inline Index added_weights(const AnyMethod& method, const StepSizes& layer) {
  return std::visit(
      [&](const auto& m) {
        detail::require_options(m);
        return detail::DescribedOf<decltype(m)>::added(m, layer);
      },
      method);
}

/// The most elements of T that a training step has alive at once beside what lives between steps.
template <Real T, Backend B>
Index method_activation(const AnyMethod& method, const StepSizes& sizes) {
  return std::visit(
      [&](const auto& m) {
        using D = detail::DescribedOf<decltype(m)>;
        detail::require_options(m);
        if constexpr (requires { D::template activation<T, B>(m, sizes); })
          return D::template activation<T, B>(m, sizes);
        else return detail::inserted_activation(m, sizes);
      },
      method);
}

/// The method in the files of PyPI's peft; null where it has none of the kind.
inline const PeftForm* peft_form(const AnyMethod& method) {
  return std::visit(
      [](const auto& m) -> const PeftForm* {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::peft; })
          return &detail::DescribedOf<decltype(m)>::peft;
        else return nullptr;
      },
      method);
}
/// f(its name in adapter_config.json, the method's member) for each number that it has there.
template <class Any, class F>
requires std::same_as<std::remove_const_t<Any>, AnyMethod>
void for_peft_numbers(Any& method, const F& f) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::peft; })
          detail::DescribedOf<decltype(m)>::peft_numbers(m, f);
      },
      method);
}
/// Sets what is another where has(a name in adapter_config.json) says that it is so there; after the numbers.
template <class F>
void for_peft_flags(AnyMethod& method, const F& has) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::peft_flags(m, has); })
          detail::DescribedOf<decltype(m)>::peft_flags(m, has);
      },
      method);
}
/// Sets what a file says of the method's own: whether has(Projection) its first tensor.
template <class F>
void for_peft_changed(AnyMethod& method, const F& has) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::peft_changed(m, has); })
          detail::DescribedOf<decltype(m)>::peft_changed(m, has);
      },
      method);
}
/// Of the form's two tensors, where their product is added to a weight.
inline std::optional<PeftProduct> peft_product(const AnyMethod& method) {
  return std::visit(
      [](const auto& m) -> std::optional<PeftProduct> {
        if constexpr (requires { detail::DescribedOf<decltype(m)>::peft_product(m); })
          return detail::DescribedOf<decltype(m)>::peft_product(m);
        else return {};
      },
      method);
}

/// The options of a method's stack; null for one that is not reversible.
template <class Any>
requires std::same_as<std::remove_const_t<Any>, AnyMethod>
auto* stack_of(Any& method) {
  using Stack = std::conditional_t<std::is_const_v<Any>, const StackOptions, StackOptions>;
  return std::visit(
      [](auto& m) -> Stack* {
        if constexpr (requires { m.options.stack; }) return &m.options.stack;
        else if constexpr (requires { m.module.options.stack; }) return &m.module.options.stack;
        else return nullptr;
      },
      method);
}

/// Puts the method on a model: sets what trains, adds what it adds, packs what is frozen. Gives the body that runs the
/// layers.
template <class Model, std::same_as<AnyMethod> Any>
auto adapt(Model& model, const Any& method, const AdaptOptions& options = {}) {
  return std::visit([&](const auto& m) { return adapt(model, m, options); }, method);
}

/// Shows the method examples before training, where it chooses by them what trains. False when stopped: then nothing is
/// chosen. A run that is resumed has it in its state (checkpoints::choose_as_in), or where that is a log alone asks
/// again.
template <class Model, Real T, Backend B, std::same_as<AnyMethod> Any>
bool prepare(Model& model, const Body<T, B>& body, const Any& method, const Preview<T, B>& preview) {
  return std::visit(
      [&](const auto& m) {
        bool done = true;
        const auto one = [&](const auto& own) {
          if constexpr (requires { prepare(model, body, own, preview); }) done = prepare(model, body, own, preview);
        };
        detail::visit_trained(m, one);
        return done;
      },
      method);
}

}  // namespace meft
