// Owns: a map of hidden states onto themselves by a sum of Kronecker products of low rank.
// Must not know: the layers that read what it gives.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <meft/ops/arithmetic.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/linear.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/shape.hpp>
#include <meft/reversible/context.hpp>
#include <meft/tensor/random.hpp>

namespace meft::nn {

/// x + s·H·x, H = Σ_i A_i ⊗ (U_i·V_i) over m terms, with A_i [m, m], U_i [d/m, r], V_i [r, d/m]. With X = x as [m, d/m]
/// row by row, H·x = Σ_i A_i·X·V_iᵀ·U_iᵀ: 2·m·d·r + m³·r products a token in place of d². What lies between V and A is
/// dropped in training. x [tokens, d] → the same.
template <Real T, Backend B = Cpu>
struct KroneckerMap {
  Parameter<T, B> down, mix,
      up;  // V_i one below the other [m·r, d/m], A_iᵀ [m, m, m], U_i beside each other [d/m, m·r]
  double scale = 1;
  float dropout = 0;
  std::uint32_t site = 0;  // of the dropout

  /// Zero: U = 0, the others as Glorot and Bengio (2010) have them.
  static KroneckerMap make(Index width, Index terms, Index rank, double scale, float dropout, std::uint32_t site,
                           std::uint64_t seed) {
    require(terms > 0 && width % terms == 0,
            "kronecker: the width is not a multiple of the number of terms (option kronecker-terms)", width, terms);
    const Index part = width / terms;
    KroneckerMap out{Parameter<T, B>::empty({terms * rank, part}),
                     Parameter<T, B>::empty({terms, terms, terms}),
                     Parameter<T, B>::zeros({part, terms * rank}),
                     scale,
                     dropout,
                     site};
    fill_normal(out.down.value(), {seed, 2 * site, 0}, std::sqrt(2.0 / static_cast<double>(part + rank)));
    fill_normal(out.mix.value(), {seed, 2 * site + 1, 0}, std::sqrt(1.0 / static_cast<double>(terms)));
    return out;
  }

  Var<T, B> operator()(const Var<T, B>& x, const Context<T, B>& c) const { return x + change(x, c); }

  /// s·H·x.
  Var<T, B> change(const Var<T, B>& x, const Context<T, B>& c) const {
    const Index m = mix.shape()[0], tokens = x.dim(0), part = down.shape()[1], middle = down.shape()[0], r = middle / m;
    auto z = linear(reshape(x, {tokens * m, part}), down);  // [token, row of X; term, rank]
    if (c.run.training && dropout > 0)
      z = meft::dropout(z, dropout, c.run.key(site), static_cast<std::uint64_t>(c.first_row * m * middle));
    z = reshape(permute(reshape(z, {tokens, m, m, r}), {2, 0, 3, 1}), {m, tokens * r, m});
    z = reshape(matmul(z, mix), {m, tokens, r, m});  // [term, token, rank, row of A]
    z = reshape(permute(z, {1, 3, 0, 2}), {tokens * m, middle});
    return reshape(linear(z, up), x.shape()) * T(scale);
  }

  /// W [out, d] becomes W·(I + s·H): what a linear layer without the map in front of it has to have.
  void merge(std::vector<double>& w) const {
    const auto v = down.value().values(), a = mix.value().values(), u = up.value().values();
    const auto m = static_cast<std::size_t>(mix.shape()[0]), part = static_cast<std::size_t>(down.shape()[1]),
               middle = static_cast<std::size_t>(down.shape()[0]), r = middle / m, d = m * part;
    std::vector<double> z(m * r), y(m * r);
    for (std::size_t row = 0; row < w.size() / d; ++row) {
      const std::vector<double> was(w.begin() + static_cast<std::ptrdiff_t>(row * d),
                                    w.begin() + static_cast<std::ptrdiff_t>((row + 1) * d));
      for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t at = 0; at < m * r; ++at) {  // the row as [m, d/m] times U_i
          z[at] = 0;
          for (std::size_t p = 0; p < part; ++p)
            z[at] += was[at / r * part + p] * static_cast<double>(u[p * middle + i * r + at % r]);
        }
        for (std::size_t at = 0; at < m * r; ++at) {  // A_iᵀ times that
          y[at] = 0;
          for (std::size_t k = 0; k < m; ++k)
            y[at] += static_cast<double>(a[(i * m + at / r) * m + k]) * z[k * r + at % r];
        }
        for (std::size_t at = 0; at < d; ++at)
          for (std::size_t k = 0; k < r; ++k)
            w[row * d + at] += scale * y[at / part * r + k] * static_cast<double>(v[(i * r + k) * part + at % part]);
      }
    }
  }

  static void parts(auto& self, auto&& visit) {
    visit("down", self.down);
    visit("mix", self.mix);
    visit("up", self.up);
  }
};

}  // namespace meft::nn
