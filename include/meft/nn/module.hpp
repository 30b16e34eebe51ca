// Owns: walking modules. A module is an aggregate with `parts(self, visit)`, which names its members in order; loading,
// freezing, counting, saving and optimizing all walk it.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <meft/autodiff/parameter.hpp>

namespace meft::nn {

namespace detail {

inline std::string join(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : name.empty() ? prefix : prefix + "." + name;
}

template <class Leaf, class Part>
void visit_part(const std::string& name, Part& part, const Leaf& leaf) {
  using P = std::remove_cv_t<Part>;
  if constexpr (requires { leaf(name, part); }) leaf(name, part);
  if constexpr (requires {
                  part.has_value();
                  *part;
                }) {
    if (part.has_value()) visit_part(name, *part, leaf);
  } else if constexpr (requires {
                         part.begin();
                         part.end();
                         part.size();
                         part[0];
                       }) {
    for (std::size_t i = 0; i < part.size(); ++i) visit_part(join(name, std::to_string(i)), part[i], leaf);
  } else if constexpr (requires { P::parts(part, [](const char*, auto&) {}); }) {
    P::parts(part, [&](const auto& inner, auto& member) { visit_part(join(name, inner), member, leaf); });
  }
}

}  // namespace detail

/// Calls leaf(name, x) for every part x below `module` that `leaf` accepts: parameters, or modules of a type. Names are
/// joined by dots; members of vectors are named by their index.
template <class Module, class Leaf>
void walk(Module& module, const Leaf& leaf, const std::string& prefix = "") {
  detail::visit_part(prefix, module, leaf);
}

/// Calls f(name, parameter) for every parameter that holds a value.
template <class Module, class F>
void for_each_parameter(Module& module, const F& f, const std::string& prefix = "") {
  walk(
      module,
      [&]<Real T, Backend B>(const std::string& name, Parameter<T, B>& p) {
        if (p.defined()) f(name, p);
      },
      prefix);
}

/// The trained parameters, in walking order.
template <Real T, Backend B, class Module>
std::vector<std::pair<std::string, Parameter<T, B>>> trainable(Module& module) {
  std::vector<std::pair<std::string, Parameter<T, B>>> out;
  for_each_parameter(module, [&](const std::string& name, Parameter<T, B>& p) {
    if (p.trainable()) out.push_back({name, p});
  });
  return out;
}

/// Makes every parameter constant, and drops the gradients.
template <class Module>
void freeze(Module& module) {
  for_each_parameter(module, [](const std::string&, auto& p) { p.set_trainable(false); });
}

}  // namespace meft::nn

namespace meft {
using nn::freeze;
}
