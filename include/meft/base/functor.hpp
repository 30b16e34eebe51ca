// Owns: the scalar functions of elementwise ops with their derivatives, on host and device, and the activations by
// name. Everything is a stateless object over float and double, always inlined, without branches, so that loops
// vectorise.
#pragma once

#include <string_view>

#include <meft/base/error.hpp>
#include <meft/base/vector_math.hpp>

namespace meft {

// A unary functor has y = f(x) as operator() and f'(x) as derivative(x, y). It reads only those of x and y that needs_x
// and needs_y name, so an op keeps only these and may pass anything for the other.

/// y = −x,  y' = −1.
struct Neg {
  static constexpr const char* name = "neg";
  static constexpr bool needs_x = false, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return -x;
  }
  template <class T>
  MEFT_HD T derivative(T, T) const {
    return T(-1);
  }
};

/// y = eˣ,  y' = y.
struct Exp {
  static constexpr const char* name = "exp";
  static constexpr bool needs_x = false, needs_y = true;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::exp(x);
  }
  template <class T>
  MEFT_HD T derivative(T, T y) const {
    return y;
  }
};

/// y = ln x,  y' = 1/x.
struct Log {
  static constexpr const char* name = "log";
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::log(x);
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    return T(1) / x;
  }
};

/// y = √x,  y' = 1/(2y).
struct Sqrt {
  static constexpr const char* name = "sqrt";
  static constexpr bool needs_x = false, needs_y = true;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::sqrt(x);
  }
  template <class T>
  MEFT_HD T derivative(T, T y) const {
    return T(0.5) / y;
  }
};

/// y = tanh x,  y' = 1 − y² = (1 − y)(1 + y).
struct Tanh {
  static constexpr const char* name = "tanh";
  static constexpr std::string_view hf_names[] = {"tanh"};
  static constexpr bool needs_x = false, needs_y = true;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::tanh(x);
  }
  template <class T>
  MEFT_HD T derivative(T, T y) const {
    return product(T(1) - y, T(1) + y);
  }
};

/// y = σ(x) = 1/(1 + e^−x),  y' = y(1 − y).
struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static constexpr bool needs_x = false, needs_y = true;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::sigmoid(x);
  }
  template <class T>
  MEFT_HD T derivative(T, T y) const {
    return product(y, T(1) - y);
  }
};

/// y = max(x, 0),  y' = [y > 0], so 0 at x = 0. NaN stays NaN, and lets the gradient through.
struct Relu {
  static constexpr const char* name = "relu";
  static constexpr std::string_view hf_names[] = {"relu"};
  static constexpr bool needs_x = false, needs_y = true;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return select(x < T(0), T(0), x);
  }
  template <class T>
  MEFT_HD T derivative(T, T y) const {
    return select(y <= T(0), T(0), T(1));
  }
};

namespace detail {

/// x held within ±limit, where a bounded factor has reached 0 or 1: keeps 0·∞ out. NaN stays NaN.
template <class T>
MEFT_HD T hold(T x, T limit) {
  const T above = select(x < -limit, -limit, x);
  return select(above > limit, limit, above);
}
/// The lower side alone.
template <class T>
MEFT_HD T hold_below(T x, T limit) {
  return select(x < -limit, -limit, x);
}
/// The least x at which x·σ(x), x·Φ(x) and their derivatives still differ from 0, rounded outwards.
template <class T>
inline constexpr T silu_limit = sizeof(T) == 4 ? T(110) : T(760);
template <class T>
inline constexpr T gelu_limit = sizeof(T) == 4 ? T(15) : T(40);

}  // namespace detail

/// y = x·σ(x), relative error 4e-7;  y' = σ(x)·(1 + x·(1 − σ(x))).
struct Silu {
  static constexpr const char* name = "silu";
  static constexpr std::string_view hf_names[] = {"silu", "swish"};
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return product(detail::hold_below(x, detail::silu_limit<T>), fast::sigmoid(x));
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    const auto s = fast::logistic(x);
    return product(s.value, multiply_add(detail::hold(x, detail::silu_limit<T>), s.complement, T(1)));
  }
};

/// y = x·Φ(x) = x/2·(1 + erf(x/√2)), relative error 5e-7 in the negative tail too;  y' = Φ(x) + x·φ(x).
struct Gelu {
  static constexpr const char* name = "gelu";
  static constexpr std::string_view hf_names[] = {"gelu"};
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return fast::gelu(x);
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    return fast::gelu_slope(x);
  }
};

/// y = x/2·(1 + tanh u) = x·σ(2u),  u = √(2/π)·(x + 0.044715·x³),
/// y' = σ(2u) + x·σ(2u)·(1 − σ(2u))·2u',  2u' = 2√(2/π)·(1 + 0.134145·x²).
/// Relative error 1e-6 for x ≥ −2; below, 4 roundings of u make it 2e-7·|2u|, at most 1.5e-5 to x = −10.
struct GeluTanh {
  static constexpr const char* name = "gelu_tanh";
  static constexpr std::string_view hf_names[] = {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"};
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return product(detail::hold_below(x, detail::gelu_limit<T>), fast::sigmoid(inner(x)));
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    const T held = detail::hold(x, detail::gelu_limit<T>);
    const auto s = fast::logistic(inner(held));
    const T slope = multiply_add(T(3) * cubic<T>, held * held, linear<T>);
    return multiply_add(held * slope * s.complement, s.value, s.value);
  }

 private:
  template <class T>
  static constexpr T linear = T(1.59576912160573071176);  // 2√(2/π)
  template <class T>
  static constexpr T cubic = T(0.07135481627260025078);  // 0.044715 · 2√(2/π)
  template <class T>
  MEFT_HD static T inner(T x) {
    return product(x, multiply_add(cubic<T>, x * x, linear<T>));
  }
};

/// y = x²,  y' = 2x.
struct Square {
  static constexpr const char* name = "square";
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return product(x, x);
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    return x + x;
  }
};

/// y = |x|,  y' = sign x, 0 at 0.
struct Abs {
  static constexpr const char* name = "abs";
  static constexpr bool needs_x = true, needs_y = false;
  template <class T>
  MEFT_HD T operator()(T x) const {
    return select(x < T(0), -x, x + T(0));  // + 0 turns −0 into 0
  }
  template <class T>
  MEFT_HD T derivative(T x, T) const {
    return select(x > T(0), T(1), select(x < T(0), T(-1), T(0)));
  }
};

/// a + b.
struct Add {
  static constexpr const char* name = "add";
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return a + b;
  }
};

/// a − b.
struct Sub {
  static constexpr const char* name = "sub";
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return a - b;
  }
};

/// a·b. Inside a larger formula use product or multiply_add.
struct Mul {
  static constexpr const char* name = "mul";
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return a * b;
  }
};

/// a/b.
struct Div {
  static constexpr const char* name = "div";
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return a / b;
  }
};

/// A list of functors, which says their names and what is compiled for them.
template <class... F>
struct Functors {};

/// Those of one operand that ops apply, but for the activations; those of two.
using Functions = Functors<Neg, Exp, Log, Sqrt, Square, Abs, Sigmoid>;
using Operators = Functors<Add, Sub, Mul, Div>;

/// The activations of the supported models: the places of their functors in the list.
enum class Activation { relu, gelu, gelu_tanh, silu, tanh };
using Activations = Functors<Relu, Gelu, GeluTanh, Silu, Tanh>;

/// F is one of these, or made of one: its slope, its gate.
template <class F>
inline constexpr bool of_activation = requires {
  F::hf_names;
};
template <template <class...> class Made, class... F>
inline constexpr bool of_activation<Made<F...>> = (of_activation<F> || ...);

namespace detail {

template <class Fn, class F, class... Rest>
decltype(auto) visit_at(Functors<F, Rest...>, int value, Fn& fn, int place = 0) {
  if constexpr (sizeof...(Rest) == 0) {
    if (place != value) fail("activation: no such value", value);
    return fn(F{});
  } else {
    if (place == value) return fn(F{});
    return visit_at(Functors<Rest...>{}, value, fn, place + 1);
  }
}

template <class... F>
Activation activation_named(Functors<F...>, std::string_view name, Where where) {
  int place = 0, found = -1;
  std::string known;
  const auto look = [&](const auto& names) {
    for (const std::string_view other : names) {
      if (other == name) found = place;
      known += (known.empty() ? "" : ", ") + std::string(other);
    }
    ++place;
  };
  (look(F::hf_names), ...);
  if (found < 0) throw Error("activation: expected one of " + known + ", found \"" + std::string(name) + "\"", where);
  return static_cast<Activation>(found);
}

}  // namespace detail

/// The activation that a Hugging Face config means by `hidden_act` or `activation_function`. An unknown name is an
/// Error.
inline Activation activation_from(std::string_view hf_name, Where where = Where::current()) {
  return detail::activation_named(Activations{}, hf_name, where);
}

/// fn(Gelu{}) for Activation::gelu, and so on: turns the run-time choice into a type. Every branch returns the same
/// type.
template <class Fn>
decltype(auto) visit(Activation activation, Fn&& fn) {
  return detail::visit_at(Activations{}, static_cast<int>(activation), fn);
}
/// Whether the derivative reads what the activation was given.
inline bool reads_argument(Activation activation) {
  return visit(activation, [](auto f) { return f.needs_x; });
}

}  // namespace meft
