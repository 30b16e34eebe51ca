// Owns: rotary position, and the positions of a ragged batch's tokens.
#pragma once

#include <cmath>

#include <meft/autodiff/op.hpp>
#include <meft/backend/kernels/rotary.hpp>
#include <meft/tensor/ragged.hpp>
#include <meft/tensor/reuse.hpp>

namespace meft {

/// For each token its place in its sequence, behind the `earlier` ones where there are such, plus `first`. [tokens]
template <Backend B>
Tensor<std::int32_t, B> positions(const Offsets& offsets, Index first = 0, const Offsets& earlier = {}) {
  require(earlier.sequences() == 0 || earlier.sequences() == offsets.sequences(),
          "positions: expected as many sequences with earlier tokens as there are, found", earlier.sequences(),
          offsets.sequences());
  return Tensor<std::int32_t, B>::following(
      {offsets.tokens()}, reading_again([offsets, first, earlier](std::int32_t* out) {
        for (Index s = 0; s < offsets.sequences(); ++s) {
          const Index begin = first + (earlier.sequences() ? earlier.length(s) : 0);
          for (Index i = 0, n = offsets.length(s); i < n; ++i) *out++ = static_cast<std::int32_t>(begin + i);
        }
      }));
}

/// y = R·x,  dx = Rᵀ·dy, with R turning each head's pairs by their angles at the token's place in its sequence. Keeps
/// nothing.
struct Rotary {
  static constexpr const char* name = "rotary";
  template <Scalar T, Backend B>
  struct Saved {};

  template <Real T, Backend B>
  Tensor<T, B> forward(auto&, Needs<1>, const Tensor<T, B>& x) const {
    require(x.rank() == 2 && x.dim(0) == offsets.tokens(), "rotary: the offsets do not cover the rows", x,
            offsets.tokens());
    require(heads > 0 && x.dim(1) > 0 && x.dim(1) % heads == 0,
            "rotary: the width is not a multiple of the number of heads", x, heads);
    const Index width = x.dim(1) / heads;
    require(spec.rotated > 0 && spec.rotated % 2 == 0 && spec.rotated <= width && spec.pairs() <= RotarySpec::most,
            "rotary: the rotated features are not an even number in [2, width of a head], or more than 512",
            spec.rotated, width);
    require(spec.base > 0 && std::isfinite(spec.base), "rotary: the base is not a positive number", spec.base);
    Tensor<T, B> y(x.shape());
    rotate(false, x.shape(), x.data(), y);
    return y;
  }
  template <Real T, Backend B>
  std::array<Tensor<T, B>, 1> backward(const auto&, Needs<1>, Tensor<T, B> dy) const {
    Tensor<T, B> dx = overwrite(dy);
    rotate(true, dy.shape(), std::as_const(dy).data(), dx);
    return {dx};
  }

  Offsets offsets;
  Index heads = 1;
  RotarySpec spec{};
  Offsets earlier{};  // of each sequence: before its rows

 private:
  template <Real T, Backend B>
  void rotate(bool back, const Shape& shape, const T* from, Tensor<T, B>& to) const {
    const UseScope use(Use::workspace);
    const auto at = positions<B>(offsets, 0, earlier);
    rotate_pairs(B{}, shape[0], heads, shape[1] / heads, spec, back, at.data(), from, to.data());
  }
};

/// x [tokens, heads · width] with each token turned by its place in its sequence, behind the `earlier` ones where there
/// are such. Angles are computed in double.
template <Operand X>
VarOf<X> rotary(const X& x, const Offsets& offsets, Index heads, const RotarySpec& spec, const Offsets& earlier = {},
                Where where = Where::current()) {
  return apply(where, Rotary{offsets, heads, spec, earlier}, x);
}

}  // namespace meft
