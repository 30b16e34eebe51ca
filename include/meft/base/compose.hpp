// Owns: functors made of functors: one operand fixed to a number, and a gradient times a derivative. Named types, so
// that a device kernel can be made for each.
#pragma once

#include <meft/base/functor.hpp>

namespace meft {

/// f(a, b) with b fixed.
template <class F, class T>
struct WithRight {
  F f;
  T b;
  MEFT_HD T operator()(T a) const { return f(a, b); }
};

/// f(a, b) with a fixed.
template <class F, class T>
struct WithLeft {
  F f;
  T a;
  MEFT_HD T operator()(T b) const { return f(a, b); }
};

/// dy · f', from the one of x and y that F reads, or from dy alone when it reads none.
template <class F>
struct Slope {
  static_assert(!(F::needs_x && F::needs_y), "meft: an elementwise functor reads x or y, not both");
  template <class T>
  MEFT_HD T operator()(T dy, T kept) const {
    return product(dy, F{}.derivative(kept, kept));
  }
  template <class T>
  MEFT_HD T operator()(T dy) const {
    return product(dy, F{}.derivative(T(0), T(0)));
  }
};

/// dy · f' from x, whichever F's derivative reads.
template <class F>
struct SlopeAt {
  template <class T>
  MEFT_HD T operator()(T dy, T x) const {
    return product(dy, F{}.derivative(x, F::needs_y ? F{}(x) : T(0)));
  }
};

/// f(g)·u, which is also dy·f(g), the gradient by u.
template <class F>
struct Gate {
  template <class T>
  MEFT_HD T operator()(T g, T u) const {
    return product(F{}(g), u);
  }
};

/// dy·u·f'(g): the gradient of f(g)·u by g.
template <class F>
struct GateSlope {
  template <class T>
  MEFT_HD T operator()(T dy, T g, T u) const {
    return SlopeAt<F>{}(product(dy, u), g);
  }
};

/// f(b, a).
template <class F>
struct Swapped {
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return F{}(b, a);
  }
};

/// The larger of two; a NaN wins.
struct Larger {
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    const T larger = a > b ? a : b;  // of the right where either is NaN
    return a != a ? a : larger;
  }
};

/// x itself.
struct Identity {
  template <class T>
  MEFT_HD T operator()(T x) const {
    return x;
  }
};

/// The first operand: broadcasting it repeats it.
struct First {
  template <class T>
  MEFT_HD T operator()(T a, T) const {
    return a;
  }
};

/// first·a + second·b.
template <class T>
struct Mix {
  T first, second;
  MEFT_HD T operator()(T a, T b) const { return multiply_add(first, a, product(second, b)); }
};

/// (a − b)·c.
struct DifferenceTimes {
  template <class T>
  MEFT_HD T operator()(T a, T b, T c) const {
    return (a - b) * c;
  }
};

/// (a − b)².
struct SquaredDifference {
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return product(a - b, a - b);
  }
};

/// dy times the derivative of s/x: −dy · (s/x)/x.
template <class T>
struct QuotientSlope {
  T s;
  MEFT_HD T operator()(T dy, T x) const { return product(-dy, s / x / x); }
};

/// −a/b: the gradient of a quotient by its divisor b, from a = dy·y.
struct NegatedQuotient {
  template <class T>
  MEFT_HD T operator()(T a, T b) const {
    return -a / b;
  }
};

}  // namespace meft
