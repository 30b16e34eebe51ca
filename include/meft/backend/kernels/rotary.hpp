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
///
/// For contexts longer than those trained on, a share s of a pair's frequency f is kept and the rest divided by
/// `factor`: s·f + (1 − s)·f/factor, with s = 0, or rising from 0 to 1 as x goes from `low` to `high`, x the turns of
/// the pair in the `original` context (Llama 3.1), or falling with the pair's number (Peng et al., "YaRN", arXiv
/// 2309.00071).
struct RotarySpec {
  enum class Keeps { nothing, by_turns, by_number };

  Index rotated = 0;  // even; of each head
  double base = 10000;
  bool interleaved = false;
  double factor = 1;
  Keeps keeps = Keeps::nothing;
  double low = 0, high = 1, original = 0;
  double magnitude = 1;  // of the turned features

  static constexpr Index most = 256;  // pairs
  MEFT_HD Index pairs() const { return rotated / 2; }
  /// The angle of pair i at position 1.
  MEFT_HD double frequency(Index i) const {
    const double f = std::pow(base, -static_cast<double>(2 * i) / static_cast<double>(rotated));
    if (factor == 1) return f;
    const double s = kept(i, f);
    return s * f + (1 - s) * f / factor;
  }

 private:
  MEFT_HD double kept(Index i, double f) const {
    constexpr double turn = 6.283185307179586477;
    const double s = keeps == Keeps::by_turns    ? (original * f / turn - low) / (high - low)
                     : keeps == Keeps::by_number ? (high - static_cast<double>(i)) / (high - low)
                                                 : 0;
    return s < 0 ? 0 : s < 1 ? s : 1;
  }
};

/// y = x [rows, heads · width] with each head's pairs turned by their angles at the row's position, or turned back. `y`
/// may be `x`.
template <Backend B, Real T>
void rotate_pairs(B, Index rows, Index heads, Index width, const RotarySpec& spec, bool back,
                  const std::int32_t* position, const T* x, T* y);

}  // namespace meft
