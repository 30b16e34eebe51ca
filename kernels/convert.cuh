// Owns: float arrays rounded to bf16, and back.
#pragma once

#include <meft/base/scalar.hpp>
#include <stream.cuh>

namespace meft::cuda {

/// y[i] = x[i], rounded to bf16 on the way; From and To are float, double or bf16. 4 elements a thread.
template <class To, class From>
__global__ void convert(Index n, const From* x, To* y) {
  for (Index i = 4 * first(); i < n; i += 4 * stride())
    for (Index k = i; k < i + 4 && k < n; ++k)
      y[k] = static_cast<To>(static_cast<float>(bf16(static_cast<float>(x[k]))));
}

template <class To, class From>
void round_to(Index n, const From* x, To* y) {
  if (n) launch(convert<To, From>, blocks((n + 3) / 4), threads, 0, stream(), n, x, y);
}

}  // namespace meft::cuda
