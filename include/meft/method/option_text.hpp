// Owns: the kinds of options as flags and files have them: what help shows, what may stand there, reading and writing;
// an option of any kind, its type erased; and whether a method's options are in their ranges.
// Must not know: the methods.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <variant>

#include <meft/base/error.hpp>
#include <meft/base/function_ref.hpp>
#include <meft/base/lambda.hpp>
#include <meft/base/shape.hpp>
#include <meft/method/option.hpp>

namespace meft::detail {

inline std::string shown(Whole) { return "N"; }
inline std::string shown(LayerCount) { return "N"; }
inline std::string shown(Share) { return "X"; }
inline std::string shown(Part) { return "X"; }
inline std::string shown(Positive) { return "X"; }
inline std::string shown(Factor) { return "n/d|2^-k"; }
template <class F, class G>
std::string shown(const OneOf<F, G>& kind) {
  return std::string(kind.names);
}

template <class Value>
std::string shown(SomeOf<Value>) {
  return "A,B,...";
}

inline std::string expected(Whole w) {
  return "an integer from " + std::to_string(w.low) + " to " + std::to_string(w.high);
}
inline std::string expected(LayerCount) { return "a number of layers from 1"; }
inline std::string expected(Share) { return "a number from 0, below 1"; }
inline std::string expected(Part) { return "a number from 0 to 1"; }
inline std::string expected(Positive) { return "a number above 0"; }
inline std::string expected(Factor) { return "n, n/d or 2^-k with 1 <= |n|, d <= 32768 and 0 <= k <= 15"; }
template <class F, class G>
std::string expected(const OneOf<F, G>& kind) {
  return std::string(kind.names);
}

template <class Value>
std::string expected(SomeOf<Value> kind) {
  std::string out;
  for (const auto& one : kind.all) (out += out.empty() ? "" : ", ") += one.first;
  return "one or more of " + out + ", with commas between them";
}

/// Whether a number may stand there; in a program an integer may be above what a text may have.
constexpr bool in_range(Whole w, std::int64_t n) { return n >= w.low; }
constexpr bool in_range(Share, double x) { return x >= 0 && x < 1; }
constexpr bool in_range(Part, double x) { return x >= 0 && x <= 1; }
inline bool in_range(Positive, double x) { return x > 0 && std::isfinite(x); }

template <class V>
bool number(std::string_view text, V& to) {
  V found{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), found);
  if (code != std::errc() || end != text.data() + text.size()) return false;
  to = found;
  return true;
}

/// False, with `to` as it was, for a text that is none of the kind.
bool read(Whole w, auto& to, std::string_view text) {
  std::int64_t found{};
  if (!number(text, found) || !in_range(w, found) || found > w.high) return false;
  to = static_cast<std::remove_reference_t<decltype(to)>>(found);
  return true;
}
inline bool read(LayerCount, Index& to, std::string_view text) {
  Index found = -1;
  if (text != "all" && (!number(text, found) || found < 1)) return false;
  to = found;
  return true;
}
template <class Kind>
requires std::same_as<Kind, Share> || std::same_as<Kind, Part> || std::same_as<Kind, Positive>
bool read(Kind kind, double& to, std::string_view text) {
  double found{};
  if (!number(text, found) || !in_range(kind, found)) return false;
  to = found;
  return true;
}
inline bool read(Factor, Lambda& to, std::string_view text) {
  try {
    to = Lambda::parse(text);
  } catch (const Error&) {
    return false;
  }
  return true;
}
template <class F, class G>
bool read(const OneOf<F, G>& kind, auto& to, std::string_view text) {
  for (std::size_t at = 0, end; at <= kind.names.size(); at = end + 1) {
    end = std::min(kind.names.find('|', at), kind.names.size());
    if (kind.names.substr(at, end - at) == text) return to = kind.from(text), true;
  }
  return false;
}

template <class Value>
bool read(SomeOf<Value> kind, Value& to, std::string_view text) {
  std::underlying_type_t<Value> found = 0;
  for (std::size_t at = 0, end; at <= text.size(); at = end + 1) {
    end = std::min(text.find(',', at), text.size());
    const auto same = [&](const auto& one) { return one.first == text.substr(at, end - at); };
    const auto one = std::find_if(kind.all.begin(), kind.all.end(), same);
    if (one == kind.all.end()) return false;
    found |= static_cast<std::underlying_type_t<Value>>(one->second);
  }
  to = static_cast<Value>(found);
  return true;
}

using OptionValue = std::variant<std::int64_t, double, std::string>;

inline OptionValue value(Whole, auto v) { return static_cast<std::int64_t>(v); }
inline OptionValue value(LayerCount, Index v) { return v < 0 ? OptionValue("all") : OptionValue(std::int64_t{v}); }
inline OptionValue value(Share, double v) { return v; }
inline OptionValue value(Part, double v) { return v; }
inline OptionValue value(Positive, double v) { return v; }
inline OptionValue value(Factor, Lambda v) { return v.reduced().text(); }
template <class F, class G>
OptionValue value(const OneOf<F, G>& kind, const auto& v) {
  return std::string(kind.to(v));
}

template <class Value>
OptionValue value(SomeOf<Value> kind, Value v) {
  std::string out;
  for (const auto& [name, one] : kind.all) {
    if (one == v) return std::string(name);
    const auto bits = static_cast<std::underlying_type_t<Value>>(one);
    if (std::has_single_bit(bits) && (bits & static_cast<std::underlying_type_t<Value>>(v)) != 0)
      (out += out.empty() ? "" : ",") += name;
  }
  return out;
}

/// A kind and the member that it is of, their types erased.
class OptionSlot {
 public:
  template <class Kind, class V>
  OptionSlot(const Kind& kind, V& member) : kind_(&kind), member_(&member), of_(&table<Kind, V>) {}

  std::string shown() const { return of_->shown(kind_); }
  std::string expected() const { return of_->expected(kind_); }
  OptionValue value() const { return of_->value(kind_, member_); }
  bool read(std::string_view text) const { return of_->read(kind_, member_, text); }
  bool counts_layers() const { return of_->counts_layers; }

 private:
  struct Table {
    std::string (*shown)(const void*);
    std::string (*expected)(const void*);
    OptionValue (*value)(const void*, const void*);
    bool (*read)(const void*, void*, std::string_view);
    bool counts_layers;
  };
  template <class Kind, class V>
  static constexpr Table table{[](const void* k) { return detail::shown(*static_cast<const Kind*>(k)); },
                               [](const void* k) { return detail::expected(*static_cast<const Kind*>(k)); },
                               [](const void* k, const void* v) {
                                 return detail::value(*static_cast<const Kind*>(k), *static_cast<const V*>(v));
                               },
                               [](const void* k, void* v, std::string_view text) {
                                 return detail::read(*static_cast<const Kind*>(k), *static_cast<V*>(v), text);
                               },
                               std::same_as<Kind, LayerCount>};

  const void* kind_;
  void* member_;
  const Table* of_;
};

/// What Described<M>::options is called with: of one type, so that each method's options are compiled once.
struct EachOption {
  FunctionRef<void(const Option&, const OptionSlot&)> f;
  template <class Kind, class V>
  void operator()(const Option& about, const Kind& kind, V& member) const {
    f(about, {kind, member});
  }
};

/// Throws for a number of a method that is not in its option's range, where that is read.
template <class M>
void require_options(const M& method, Where where = Where::current()) {
  Described<M>::options(method, [&](const Option& about, const auto& kind, const auto& value) {
    if constexpr (requires { in_range(kind, value); })
      if (about.needs.empty() && !in_range(kind, value))
        fail({std::string(Described<M>::name) + ": option " + std::string(about.name) + ": expected " + expected(kind) +
                  ", found",
              where},
             value);
  });
}

}  // namespace meft::detail
