// Owns: the coupling schemes of the literature, a line each. MEFT's own choice of F and G is in method/.
#pragma once

#include <meft/ops/arithmetic.hpp>
#include <meft/reversible/layer.hpp>

namespace meft {

/// y1 = λ·x1 + F(x2), y2 = β·x2 + G(y1), streams swapped after or not. MEFT, arXiv 2306.00477, equation 4; with λ = β =
/// 1 and no swap it is RevNet (Gomez et al., arXiv 1707.04585, equation 6).
template <Real T, Backend B>
ReversibleLayer<T, B> coupling(Function<T, B> f, Function<T, B> g, Lambda lambda = {}, Lambda beta = {},
                               bool swap = false) {
  ReversibleLayer<T, B> layer{shear<T, B>(0, 1, lambda, std::move(f)), shear<T, B>(1, 0, beta, std::move(g))};
  if (swap) layer.push_back(swap_streams<T, B>());
  return layer;
}

/// RevNet.
template <Real T, Backend B>
ReversibleLayer<T, B> revnet(Function<T, B> f, Function<T, B> g) {
  return coupling<T, B>(std::move(f), std::move(g));
}

/// x[k+1] = x[k−1] + 2h·f(x[k]). Chang et al., "Reversible architectures", arXiv 1709.03698, equation 12.
template <Real T, Backend B>
ReversibleLayer<T, B> midpoint(Function<T, B> f, double h) {
  return {shear<T, B>(0, 1, {},
                      [f = std::move(f), h](const Var<T, B>& x, const Context<T, B>& c) { return f(x, c) * T(2 * h); }),
          swap_streams<T, B>()};
}

/// x[k+1] = 2·x[k] − x[k−1] + h²·f(x[k]). The same paper, equation 15.
template <Real T, Backend B>
ReversibleLayer<T, B> leapfrog(Function<T, B> f, double h) {
  return {shear<T, B>(0, 1, {-1, 1},
                      [f = std::move(f), h](const Var<T, B>& x, const Context<T, B>& c) {
                        return x * T(2) + f(x, c) * T(h * h);
                      }),
          swap_streams<T, B>()};
}

}  // namespace meft
