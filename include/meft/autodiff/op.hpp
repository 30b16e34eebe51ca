// Owns: what an op is, and `apply`, which runs one and records it.
//
// An op is a struct with a name, `Saved<T, B>` (all that it costs in activation memory), `forward(saved, need, x…)` and
// `backward(saved, need, dy)`. Options are its data members. See ops/matmul.hpp for the shortest example.
#pragma once

#include <array>
#include <concepts>
#include <initializer_list>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include <meft/autodiff/parameter.hpp>
#include <meft/autodiff/tape.hpp>

namespace meft {

/// Which of an op's N inputs need a gradient. An op saves only what those need.
template <std::size_t N>
struct Needs {
  std::array<bool, N> wanted{};
  bool operator[](std::size_t i) const { return wanted[i]; }
  bool any() const {
    for (bool w : wanted)
      if (w) return true;
    return false;
  }
};

template <class X>
struct operand_traits : std::false_type {};
template <class T, class B>
struct operand_traits<Tensor<T, B>> : std::true_type {};
template <class T, class B>
struct operand_traits<Var<T, B>> : std::true_type {};
template <class T, class B>
struct operand_traits<Parameter<T, B>> : std::true_type {};

/// What an op takes: a tensor (constant), a variable or a parameter.
template <class X>
concept Operand = operand_traits<std::remove_cvref_t<X>>::value && Real<typename std::remove_cvref_t<X>::value_type>;

template <Real T, Backend B>
const Var<T, B>& as_var(const Var<T, B>& x) {
  return x;
}
template <Real T, Backend B>
Var<T, B> as_var(const Tensor<T, B>& x) {
  return x;
}
template <Real T, Backend B>
Var<T, B> as_var(const Parameter<T, B>& x) {
  return x.variable();
}

template <Operand X>
using VarOf = Var<typename std::remove_cvref_t<X>::value_type, typename std::remove_cvref_t<X>::backend>;

/// The gradients of an op: each function is called only when its input needs it.
template <std::size_t N, class First, class... Rest>
auto grads(const Needs<N>& need, const First& first, const Rest&... rest) {
  static_assert(N == 1 + sizeof...(Rest), "grads: one function for each input");
  using Gradient = std::decay_t<decltype(first())>;
  std::array<Gradient, N> out;
  std::size_t i = 0;
  const auto one = [&](const auto& f) {
    if (need[i]) out[i] = f();
    ++i;
  };
  one(first);
  (one(rest), ...);
  return out;
}

/// An op as far as it is checked here: its name and what it saves.
template <class Op>
concept Differentiable = requires {
  { Op::name } -> std::convertible_to<const char*>;
}
&&requires { typename Op::template Saved<float, Cpu>; };

namespace detail {

/// f(x…) with the arguments evaluated from left to right, as braces demand: leaves are made in the order of use.
struct InOrder {
  template <class F, class... X>
  InOrder(const F& f, const X&... x) {
    f(x...);
  }
};

/// Something that any member of an aggregate may be made from.
struct Anything {
  template <class X>
  operator X() const;
};
/// When what an op keeps was last written to: as its own `written()` says, or the tensors among an aggregate's members
/// (at most six, no C arrays), in lists, tuples, optionals, variants, smart pointers. Of other classes nobody looks.
template <class S>
std::uint64_t written(const S& s) {
  const auto last = [](const auto&... members) {
    std::uint64_t time = 0;
    for (const std::uint64_t t : {std::uint64_t{0}, written(members)...}) time = t > time ? t : time;
    return time;
  };
  using A = Anything;
  if constexpr (requires { s.written(); }) return s.written();
  else if constexpr (requires { s.begin() != s.end(); }) {
    std::uint64_t time = 0;
    if constexpr (!std::is_trivially_copyable_v<std::remove_cvref_t<decltype(*s.begin())>>)
      for (const auto& one : s)
        if (const std::uint64_t t = written(one); t > time) time = t;
    return time;
  } else if constexpr (std::is_trivially_copyable_v<S>) return 0;
  else if constexpr (requires { s ? *s : *s; }) return s ? written(*s) : 0;
  else if constexpr (requires { s.value().written(); }) return s.value().written();
  else if constexpr (requires { std::tuple_size<S>::value; }) return std::apply(last, s);
  else if constexpr (requires { s.valueless_by_exception(); }) return visit(last, s);
  else if constexpr (!std::is_aggregate_v<S>) return 0;
  else if constexpr (requires { S{A{}, A{}, A{}, A{}, A{}, A{}, A{}}; })
    static_assert(
        std::is_void_v<S>,
        "an op's Saved: an aggregate in it has more than six members, or a C array: group them in structs, use "
        "std::array, or give it written(), when a tensor in it was last written to");
  else if constexpr (requires { S{A{}, A{}, A{}, A{}, A{}, A{}}; }) {
    const auto& [a, b, c, d, e, f] = s;
    return last(a, b, c, d, e, f);
  } else if constexpr (requires { S{A{}, A{}, A{}, A{}, A{}}; }) {
    const auto& [a, b, c, d, e] = s;
    return last(a, b, c, d, e);
  } else if constexpr (requires { S{A{}, A{}, A{}, A{}}; }) {
    const auto& [a, b, c, d] = s;
    return last(a, b, c, d);
  } else if constexpr (requires { S{A{}, A{}, A{}}; }) {
    const auto& [a, b, c] = s;
    return last(a, b, c);
  } else if constexpr (requires { S{A{}, A{}}; }) {
    const auto& [a, b] = s;
    return last(a, b);
  } else {
    const auto& [a] = s;
    return last(a);
  }
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_none(const char* op) {
  throw Error(joined({op, ": its backward gave an empty gradient to an input that needs one"}));
}

template <class Op, class T, class B, std::size_t N>
struct OpNode final : Slot<T, B> {
  OpNode(Op o, typename Op::template Saved<T, B> s, Needs<N> n, std::array<int, N> i)
      : Slot<T, B>(Op::name), op(std::move(o)), saved(std::move(s)), need(n), inputs(i) {}

  [[gnu::cold]] void backward(Tape& tape) override {
    check_unchanged(this->name, written(saved), made);
    auto out = differentiated(tape);
    saved = {};
    for (std::size_t i = 0; i < N; ++i)
      if (need[i]) {
        if (!out[i].defined()) refuse_none(this->name);
        tape.add(inputs[i], std::move(out[i]));
      }
  }

  /// On a device an op that can adds its first gradient to what is there in the pass that makes it; one that says so
  /// also where that is its dy.
  auto differentiated(Tape& tape) {
    if constexpr (!B::on_host) {
      if constexpr (requires(const Tensor<T, B>& dx) { op.backward(saved, need, dx, dx); }) {
        constexpr bool to_own = requires { Op::adds_to_own; };
        const auto into =
            need[0] ? tape.template take<T, B>(inputs[0], to_own ? this->gradient : Tensor<T, B>()) : Tensor<T, B>();
        return op.backward(saved, need, std::exchange(this->gradient, {}), into);
      }
    }
    return op.backward(saved, need, std::exchange(this->gradient, {}));
  }

  Op op;
  typename Op::template Saved<T, B> saved;
  Needs<N> need;
  std::array<int, N> inputs;
  std::uint64_t made = ++clock();
};

}  // namespace detail

/// An op whose last input may be empty, which stands for none.
template <class Op>
concept LastMayBeEmpty = Op::last_may_be_empty;

namespace detail {
[[gnu::cold, gnu::noinline]] inline void check_filled(const char* op, std::initializer_list<bool> filled, bool last,
                                                      Where where) {
  std::size_t i = 0;
  for (const bool full : filled)
    if (++i; !full && !(last && i == filled.size()))
      refuse_empty(joined({op, ": input ", decimal(static_cast<long long>(i), false), " of ",
                           decimal(static_cast<long long>(filled.size()), false)}),
                   where);
}
}  // namespace detail

/// Runs `op` on its inputs and records it on the current tape when any of them needs a gradient. The forward kernel is
/// the same either way. Errors point at `where`, the line of the op's caller.
template <Differentiable Op, Operand First, Operand... Rest>
VarOf<First> apply(Where where, Op op, const First& first, const Rest&... rest) {
  using T = typename std::remove_cvref_t<First>::value_type;
  using B = typename std::remove_cvref_t<First>::backend;
  static_assert((std::is_same_v<VarOf<First>, VarOf<Rest>> && ...),
                "meft: an op's inputs differ in element type or device");
  constexpr std::size_t count = 1 + sizeof...(Rest);
  Var<T, B> result;
  const auto run = [&](const VarOf<First>& x0, const VarOf<Rest>&... x) __attribute__((cold, noinline)) {
    detail::check_filled(Op::name, {x0.defined(), x.defined()...}, LastMayBeEmpty<Op>, where);
    Tape* tape = Tape::current();
    Needs<count> need;
    if (tape) need.wanted = {tape->wants(x0, Op::name, where), tape->wants(x, Op::name, where)...};
    typename Op::template Saved<T, B> saved;
    Tensor<T, B> y;
    try {
      y = op.forward(saved, need, x0.value(), x.value()...);
    } catch (Error& error) {
      error.at(where);
      throw;
    }
    if (!need.any()) result = Tape::unrecorded<T, B>(Op::name, std::move(y), {&x0, &x...});
    else
      result = tape->attach<T, B>(  // no make_unique: it costs each op a fifth of its compile time
          std::move(y), std::unique_ptr<detail::Slot<T, B>>(new detail::OpNode<Op, T, B, count>(
                            std::move(op), std::move(saved), need, {Tape::node(x0), Tape::node(x)...})));
  };
  detail::InOrder{run, as_var(first), as_var(rest)...};
  return result;
}

}  // namespace meft
