// Owns: elementwise arithmetic of two operands with NumPy broadcasting, and of an operand and a number.
#pragma once

#include <type_traits>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/base/compose.hpp>
#include <meft/ops/activation.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

namespace detail {

/// f(a, b) under broadcasting.
template <class F, Real T, Backend B>
Tensor<T, B> map_pair(const char* name, const F& f, const Tensor<T, B>& a, const Tensor<T, B>& b) {
  Shape shape;
  try {
    shape = broadcast(a.shape(), b.shape());
  } catch (Error& error) {
    error.within(name);
    throw;
  }
  Tensor<T, B> y(shape);
  map_broadcast(B{}, f, shape, y.data(), a.shape(), a.data(), b.shape(), b.data());
  return y;
}

/// f(dy), in dy's own memory when that is free.
template <class F, Real T, Backend B>
Tensor<T, B> map_gradient(const F& f, const Tensor<T, B>& dy) {
  Tensor<T, B> dx = overwrite(dy);
  map(B{}, f, dy.size(), dx.data(), dy.data());
  return dx;
}

}  // namespace detail

/// y = a + b,  da = dy, db = dy, each summed over the axes along which the operand was repeated.
struct AddPair {
  static constexpr const char* name = "add";
  template <Scalar T, Backend B>
  struct Saved {
    Shape a, b;
  };
  static auto forward(auto& saved, Needs<2>, const auto& a, const auto& b) {
    saved.a = a.shape();
    saved.b = b.shape();
    return detail::map_pair(name, Add{}, a, b);
  }
  static auto backward(const auto& saved, Needs<2> need, const auto& dy) {
    return grads(
        need, [&] { return sum_to(dy, saved.a); }, [&] { return sum_to(dy, saved.b); });
  }
};

/// y = a − b,  da = dy, db = −dy, summed as in AddPair.
struct SubPair {
  static constexpr const char* name = "sub";
  template <Scalar T, Backend B>
  struct Saved {
    Shape a, b;
  };
  static auto forward(auto& saved, Needs<2>, const auto& a, const auto& b) {
    saved.a = a.shape();
    saved.b = b.shape();
    return detail::map_pair(name, Sub{}, a, b);
  }
  static auto backward(const auto& saved, Needs<2> need, const auto& dy) {
    return grads(
        need, [&] { return sum_to(dy, saved.a); }, [&] { return detail::map_gradient(Neg{}, sum_to(dy, saved.b)); });
  }
};

/// y = a·b,  da = dy·b, db = dy·a, summed as in AddPair.
struct MulPair {
  static constexpr const char* name = "mul";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> a, b;
    Shape shape_a, shape_b;
  };
  static auto forward(auto& saved, Needs<2> need, const auto& a, const auto& b) {
    saved.shape_a = a.shape();
    saved.shape_b = b.shape();
    if (need[0]) saved.b = b;
    if (need[1]) saved.a = a;
    return detail::map_pair(name, Mul{}, a, b);
  }
  static auto backward(const auto& saved, Needs<2> need, const auto& dy) {
    return grads(
        need, [&] { return sum_to(detail::map_pair(name, Mul{}, dy, saved.b), saved.shape_a); },
        [&] { return sum_to(detail::map_pair(name, Mul{}, dy, saved.a), saved.shape_b); });
  }
};

/// y = a/b,  da = dy/b, db = −dy·y/b, summed as in AddPair.
struct DivPair {
  static constexpr const char* name = "div";
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> b, y;
    Shape shape_a, shape_b;
  };
  static auto forward(auto& saved, Needs<2> need, const auto& a, const auto& b) {
    auto y = detail::map_pair(name, Div{}, a, b);
    saved.shape_a = a.shape();
    saved.shape_b = b.shape();
    if (need.any()) saved.b = b;
    if (need[1]) saved.y = y;
    return y;
  }
  static auto backward(const auto& saved, Needs<2> need, const auto& dy) {
    return grads(
        need, [&] { return sum_to(detail::map_pair(name, Div{}, dy, saved.b), saved.shape_a); },
        [&] {
          const auto scaled = map(Mul{}, dy, saved.y);
          return sum_to(detail::map_pair(name, NegatedQuotient{}, scaled, saved.b), saved.shape_b);
        });
  }
};

/// y = f(x, number), or f(number, x) when `left`; dx = dy·∂f/∂x. Only number/x keeps x.
template <class F, bool left>
struct WithNumber {
  static constexpr bool adds = std::is_same_v<F, Add>, subtracts = std::is_same_v<F, Sub>;
  static constexpr bool multiplies = std::is_same_v<F, Mul>;
  static constexpr const char* name = F::name;
  template <Scalar T, Backend B>
  struct Saved {
    Tensor<T, B> x;
  };
  template <Real T, Backend B>
  Tensor<T, B> forward(auto& saved, Needs<1> need, const Tensor<T, B>& x) const {
    const T value = static_cast<T>(number);
    if constexpr (std::is_same_v<F, Div> && left) {
      if (need[0]) saved.x = x;
    }
    if constexpr (left) return map(WithLeft<F, T>{{}, value}, x);
    else return map(WithRight<F, T>{{}, value}, x);
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto& saved, Needs<1>, Tensor<T, B> dy) const {
    const T value = static_cast<T>(number);
    if constexpr (adds || (subtracts && !left)) return {dy};
    else if constexpr (subtracts) return {detail::map_gradient(Neg{}, dy)};
    else if constexpr (!left || multiplies) return {detail::map_gradient(WithRight<F, T>{{}, value}, dy)};
    else {
      Tensor<T, B> dx = overwrite(dy);
      map(B{}, QuotientSlope<T>{value}, dy.size(), dx.data(), dy.data(), saved.x.data());
      return {dx};
    }
  }

  double number;
};

/// A plain number beside an operand.
template <class X>
concept Number = std::is_arithmetic_v<std::remove_cvref_t<X>>;
/// What arithmetic takes: two operands, or an operand and a number in either order.
template <class A, class B>
concept Terms = (Operand<A> && (Operand<B> || Number<B>)) || (Number<A> && Operand<B>);

namespace detail {

template <class Pair, class F, class A, class B>
auto arithmetic(Where where, const A& a, const B& b) {
  if constexpr (Number<A>) return apply(where, WithNumber<F, true>{static_cast<double>(a)}, b);
  else if constexpr (Number<B>) return apply(where, WithNumber<F, false>{static_cast<double>(b)}, a);
  else return apply(where, Pair{}, a, b);
}

}  // namespace detail

/// a + b, a − b, a·b, a/b elementwise; shapes broadcast (aligned at the back, extents equal or one of them 1).
template <class A, class B>
requires Terms<A, B>
auto add(const A& a, const B& b, Where where = Where::current()) {
  return detail::arithmetic<AddPair, Add>(where, a, b);
}
template <class A, class B>
requires Terms<A, B>
auto sub(const A& a, const B& b, Where where = Where::current()) {
  return detail::arithmetic<SubPair, Sub>(where, a, b);
}
template <class A, class B>
requires Terms<A, B>
auto mul(const A& a, const B& b, Where where = Where::current()) {
  return detail::arithmetic<MulPair, Mul>(where, a, b);
}
template <class A, class B>
requires Terms<A, B>
auto div(const A& a, const B& b, Where where = Where::current()) {
  return detail::arithmetic<DivPair, Div>(where, a, b);
}

/// The same as operators. An operator cannot know its caller's line: its errors point here.
template <class A, class B>
requires Terms<A, B>
auto operator+(const A& a, const B& b) { return add(a, b); }
template <class A, class B>
requires Terms<A, B>
auto operator-(const A& a, const B& b) { return sub(a, b); }
template <class A, class B>
requires Terms<A, B>
auto operator*(const A& a, const B& b) { return mul(a, b); }
template <class A, class B>
requires Terms<A, B>
auto operator/(const A& a, const B& b) { return div(a, b); }

}  // namespace meft
