// Owns: the interface of a bottleneck of two narrow products with an activation between them, in one pass.
#pragma once

#include <meft/backend/backend.hpp>
#include <meft/base/functor.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// Weights down [inner, width] and up [width, inner], and their biases.
template <class T>
struct BottleneckWeights {
  Index width, inner;
  const T *down, *down_bias, *up, *up_bias;
};
/// Where their gradients go; each may be null.
template <class T>
struct BottleneckGradients {
  T *down, *down_bias, *up, *up_bias;
};

/// z = x·downᵀ + bias, y = f(z)·upᵀ + bias: x and y [rows, width], z [rows, inner].
template <Backend B, Real T>
void bottleneck(B, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, T* z, T* y);
/// Gradients of the above from dy: dx, which may be null, is added to `from`, which may be null, dx or dy. Sums over
/// rows are made in an order that depends on the shape alone.
template <Backend B, Real T>
void bottleneck_backward(B, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, const T* z,
                         const T* dy, const T* from, T* dx, const BottleneckGradients<T>& to);

}  // namespace meft
