// Owns: float arrays rounded to bf16, and back.
#pragma once

#include <meft/base/scalar.hpp>
#include <stream.cuh>

namespace meft::cuda {

/// Neighbours that a thread takes together: 16 bytes of bf16.
template <class T>
struct alignas(16) Eight {
  T at[8];
};

/// y[i] = x[i], rounded to bf16 on the way; From and To are float, double or bf16. The first 8·eights together.
template <class To, class From>
__global__ void convert(Index n, Index eights, const From* x, To* y) {
  const auto rounded = [](From v) { return static_cast<To>(static_cast<float>(bf16(static_cast<float>(v)))); };
  for (Index i = first(); i < eights; i += stride()) {
    const Eight<From> in = reinterpret_cast<const Eight<From>*>(x)[i];
    Eight<To> out;
    for (int k = 0; k < 8; ++k) out.at[k] = rounded(in.at[k]);
    reinterpret_cast<Eight<To>*>(y)[i] = out;
  }
  for (Index i = 8 * eights + first(); i < n; i += stride()) y[i] = rounded(x[i]);
}

template <class To, class From>
void round_to(Index n, const From* x, To* y) {
  const Index eights = aligned(x, y) ? n / 8 : 0;
  if (n) launch(convert<To, From>, blocks(eights ? eights : n), threads, 0, stream(), n, eights, x, y);
}

}  // namespace meft::cuda
