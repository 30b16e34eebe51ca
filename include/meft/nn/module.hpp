// Owns: walking modules. A module is an aggregate with `parts(self, visit)`, which names its members in order; loading,
// freezing, counting, saving and optimizing all walk it:
//
//   struct Block {
//     nn::Linear<float> up, down;
//     static void parts(auto& self, auto&& visit) {
//       visit("up", self.up);
//       visit("down", self.down);
//     }
//   };
//
// A member is a parameter, a tensor, a module, or one of these behind a pointer, in an optional, a variant or a list;
// what is none of these does not compile. Members that `parts` does not name are not walked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <meft/autodiff/parameter.hpp>
#include <meft/base/function_ref.hpp>

namespace meft::nn {

namespace detail {

inline std::string join(const std::string& prefix, std::string_view name) {
  std::string out = prefix;
  if (!out.empty() && !name.empty()) out += '.';
  return out += name;
}

/// What has no parts: parameters, tensors, packed weights, numbers, classes without members.
template <class P>
concept Whole = !std::is_class_v<P> || std::is_empty_v<P> || requires {
  typename P::value_type;
  typename P::backend;
};

template <class Leaf, class Part>
void visit_part(const std::string& name, Part& part, const Leaf& leaf) {
  using P = std::remove_cv_t<Part>;
  if constexpr (requires { leaf(name, part); }) leaf(name, part);
  if constexpr (std::is_array_v<P>) {
    for (std::size_t i = 0; i < std::extent_v<P>; ++i) visit_part(join(name, std::to_string(i)), part[i], leaf);
  } else if constexpr (requires { part ? *part : *part; }) {
    if (part) visit_part(name, *part, leaf);
  } else if constexpr (requires { std::variant_size<P>::value; }) {
    std::visit([&](auto& held) { visit_part(name, held, leaf); }, part);
  } else if constexpr (requires {
                         part.end() - part.begin();
                         part.size();
                         part[0];
                       }) {
    for (std::size_t i = 0; i < part.size(); ++i) visit_part(join(name, std::to_string(i)), part[i], leaf);
  } else if constexpr (requires { P::parts(part, [](const char*, auto&) {}); }) {
    P::parts(part, [&](std::string_view inner, auto& member) { visit_part(join(name, inner), member, leaf); });
  } else {
    static_assert(
        Whole<P>,
        "walk: a module, or a part of it, has no `static void parts(auto& self, auto&& visit)`, and is no list "
        "with places (std::vector, std::array), optional, variant or pointer: it would not be trained or saved");
  }
}

/// The address tells a type from all others.
template <class P>
inline constexpr char type_of{};

/// A leaf that takes every part, its type erased, so that a module's walk is compiled once whatever is looked for.
class AnyLeaf {
 public:
  using Call = FunctionRef<void(const std::string&, const char* type, void* part)>;
  explicit AnyLeaf(const Call& call) : call_(call) {}

  template <class P>
  void operator()(const std::string& name, P& part) const {
    static_assert(!std::is_const_v<P>, "walk: a part of a module that is not const is itself not");
    call_(name, &type_of<P>, &part);
  }

 private:
  Call call_;
};

/// The part that a leaf takes whose call is no template.
template <class Leaf>
struct Taken;
template <class R, class Leaf, class Part>
struct Taken<R (Leaf::*)(const std::string&, Part&) const> {
  using type = Part;
};
template <class Leaf>
using TakenBy = typename Taken<decltype(&Leaf::operator())>::type;

/// The parameters of a module by its type: those of M<T, B>, of what names T and B, or of a list's elements.
template <class Module>
struct ParameterOf {};
template <template <Real, Backend> class M, Real T, Backend B>
struct ParameterOf<M<T, B>> {
  using type = Parameter<T, B>;
};
template <class Module>
requires requires {
  typename Module::T;
  typename Module::B;
}
struct ParameterOf<Module> {
  using type = Parameter<typename Module::T, typename Module::B>;
};
template <class Element, class Allocator>
struct ParameterOf<std::vector<Element, Allocator>> : ParameterOf<Element> {};

}  // namespace detail

/// Calls leaf(name, x) for every part x below `module` that `leaf` accepts: parameters, or modules of a type. Names are
/// joined by dots; members of vectors are named by their index. For a leaf that takes one type, and that very one, a
/// module's walk is compiled once.
template <class Module, class Leaf>
void walk(Module& module, const Leaf& leaf, const std::string& prefix = "") {
  if constexpr (requires { typename detail::TakenBy<Leaf>; }) {
    using Part = detail::TakenBy<Leaf>;
    using P = std::remove_const_t<Part>;
    static_assert(std::is_const_v<Part> || !std::is_const_v<Module>, "walk: a const module's parts are const");
    const auto call = [&](const std::string& name, const char* type, void* part) {
      if (type == &detail::type_of<P>) leaf(name, *static_cast<Part*>(part));
    };
    detail::visit_part(prefix, const_cast<std::remove_const_t<Module>&>(module),
                       detail::AnyLeaf(detail::AnyLeaf::Call(call)));
  } else {
    detail::visit_part(prefix, module, leaf);
  }
}

/// Calls f(name, parameter) for every parameter that holds a value.
template <class Module, class F>
void for_each_parameter(Module& module, const F& f, const std::string& prefix = "") {
  if constexpr (requires { typename detail::ParameterOf<std::remove_const_t<Module>>::type; }) {
    using P = typename detail::ParameterOf<std::remove_const_t<Module>>::type;
    using Seen = std::conditional_t<std::is_const_v<Module>, const P, P>;
    walk(
        module,
        [&](const std::string& name, Seen& p) {
          if (p.defined()) f(name, p);
        },
        prefix);
  } else {
    walk(
        module,
        [&]<Real T, Backend B>(const std::string& name, Parameter<T, B>& p) {
          if (p.defined()) f(name, p);
        },
        prefix);
  }
}

/// Parameters by name; they share their values with the modules.
template <Real T, Backend B>
using Named = std::vector<std::pair<std::string, Parameter<T, B>>>;

/// The parameters that training changes, in walking order.
template <Real T, Backend B, class Module>
Named<T, B> trainable(Module& module) {
  Named<T, B> out;
  for_each_parameter(module, [&]<Real U, Backend D>(const std::string& name, Parameter<U, D>& p) {
    if constexpr (std::is_same_v<Parameter<U, D>, Parameter<T, B>>) {
      if (p.trainable() || p.probed()) out.push_back({name, p});
    } else
      static_assert(std::is_void_v<U>,
                    "trainable: a parameter of another type or device than said: over<double>(module), for one");
  });
  return out;
}

/// Tensors by name that were chosen and do not train: which elements of a weight do, and in which basis.
template <Backend B>
using Indices =
    std::vector<std::pair<std::string, std::variant<Tensor<std::int32_t, B>, Tensor<float, B>, Tensor<double, B>>>>;

/// Those below a module that hold any, in walking order.
template <Backend B, class Module>
Indices<B> indices(Module& module) {
  Indices<B> out;
  const auto all_of = [&]<class T>(T) {
    walk(module, [&](const std::string& name, Tensor<T, B>& x) {
      if (x.defined()) out.push_back({name, x});
    });
  };
  all_of(std::int32_t{}), all_of(float{}), all_of(double{});
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
