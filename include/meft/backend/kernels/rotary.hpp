// Owns: the interface of rotary position, and how it is described.
#pragma once

#include <cmath>
#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/base/host_device.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// Su et al., "RoFormer", arXiv 2104.09864: in each head of a row at position p, pair i of the first `rotated` features
/// turns by the angle p·base^(−2i/rotated); the other features stay. Pairs are (i, i + rotated/2), as in Hugging Face's
/// Llama, or neighbours (2i, 2i + 1) when interleaved, as in its GPT-J.
struct RotarySpec {
  Index rotated = 0;  // even; of each head
  double base = 10000;
  bool interleaved = false;

  static constexpr Index most = 256;  // pairs
  MEFT_HD Index pairs() const { return rotated / 2; }
  /// The angle of pair i at position 1.
  MEFT_HD double frequency(Index i) const {
    return std::pow(base, -static_cast<double>(2 * i) / static_cast<double>(rotated));
  }
};

/// y = x [rows, heads · width] with each head's pairs turned by their angles at the row's position, or turned back. `y`
/// may be `x`.
template <Backend B, Real T>
void rotate_pairs(B, Index rows, Index heads, Index width, const RotarySpec& spec, bool back,
                  const std::int32_t* position, const T* x, T* y);

}  // namespace meft
