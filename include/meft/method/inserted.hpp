// Owns: the list of methods that only change layers; and one of them, or none, inside another method's layers. A new
// one is an include and a row here, which the registry takes over.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include <meft/method/alore.hpp>
#include <meft/method/ia3.hpp>
#include <meft/method/low_rank.hpp>
#include <meft/method/prefix.hpp>
#include <meft/method/sparsegrad.hpp>
#include <meft/method/speft.hpp>

namespace meft {

template <class... M>
struct MethodList {};

using InsertedMethods = MethodList<LowRank, Ia3, Speft, PrefixTuning, Alore, SparseGrad>;

namespace detail {

template <class List>
class OneInside;

template <class... M>
class OneInside<MethodList<M...>> {
 public:
  OneInside() = default;
  template <class Method>
  requires(std::same_as<M, Method> || ...) OneInside(Method method) : name_(Described<Method>::name) {
    std::get<Method>(all_) = std::move(method);
  }

  explicit operator bool() const { return name_ != none; }
  /// Whether it is of this kind.
  template <class Method>
  bool is() const {
    return name_ == Described<Method>::name;
  }
  std::string_view name() const { return name_; }

  /// f(method) for the one that is inside.
  template <class F>
  void visit(const F& f) const {
    ((Described<M>::name == name_ ? f(std::get<M>(all_)) : void()), ...);
  }

  /// Which one, then the options of all, each of which needs its method here.
  static void options(auto& self, auto&& visit) {
    static const std::string names = (std::string(none) + ... + ("|" + std::string(Described<M>::name)));
    const auto same = [](std::string_view name) { return name; };
    visit(Option{.name = "inside",
                 .help = "trains in the layers, in place of adapters, at its own rate",
                 .stated = Stated::changed},
          OneOf{names, [](std::string_view name) { return known(name); }, same}, self.name_);
    (of<M>(self, visit), ...);
  }

  /// `inside NAME`, as an option's `needs` and `found` have it.
  static std::string_view said(std::string_view name) {
    static const std::array all{"inside " + std::string(none), "inside " + std::string(Described<M>::name)...};
    return *std::find_if(all.begin(), all.end(), [&](const std::string& text) { return text.substr(7) == name; });
  }
  std::string_view said() const { return said(name_); }
  static constexpr std::string_view none = "none";

 private:
  /// The same name, of static storage.
  static std::string_view known(std::string_view name) {
    std::string_view out = none;
    ((Described<M>::name == name ? void(out = Described<M>::name) : void()), ...);
    return out;
  }
  template <class Method>
  static void of(auto& self, auto&& visit) {
    constexpr auto name = Described<Method>::name;
    Described<Method>::options(std::get<Method>(self.all_), [&](Option about, const auto& kind, auto& value) {
      if (self.name_ != name) about.needs = said(name), about.found = self.said();
      visit(about, kind, value);
    });
  }

  std::tuple<M...> all_{};
  std::string_view name_ = none;
};

}  // namespace detail

/// One of the methods that only change layers, with its options, or none: `.inside = LowRank{.rank = 4}`.
using Inside = detail::OneInside<InsertedMethods>;

}  // namespace meft
