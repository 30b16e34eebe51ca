// Owns: float arrays rounded to bf16, and back.
#pragma once

#include <meft/base/scalar.hpp>
#include <stream.cuh>

namespace meft::cuda {

/// y[i] = x[i], rounded to bf16 on the way; From and To are float, double or bf16.
template <class To, class From>
__global__ void convert(Index n, const From* x, To* y) {
  for (Index i = first(); i < n; i += stride())
    y[i] = static_cast<To>(static_cast<float>(bf16(static_cast<float>(x[i]))));
}

template <class To, class From>
void round_to(Index n, const From* x, To* y) {
  if (n) launch(convert<To, From>, blocks(n), threads, 0, stream(), n, x, y);
}

}  // namespace meft::cuda
