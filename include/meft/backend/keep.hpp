// Owns: what dropout draws and does to an element, on any backend.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <meft/base/host_device.hpp>
#include <meft/base/random.hpp>

namespace meft {

/// Dropout's draws: 16 bits an element, eight elements a block of Philox4x32-7.
inline constexpr int dropout_rounds = 7, dropout_block_size = 8;

MEFT_HD std::array<std::uint32_t, 4> dropout_block(Key key, std::uint64_t block) {
  return philox<dropout_rounds>(key, block);
}
/// The bits of element e of a block. By choices: a device keeps no array that is read at a place it does not know.
MEFT_HD int dropout_bits(const std::array<std::uint32_t, 4>& block, unsigned e) {
  const std::uint32_t low = e & 2 ? block[1] : block[0], high = e & 2 ? block[3] : block[2];
  return static_cast<int>((e & 4 ? high : low) >> (e & 1) * 16 & 0xffffu);
}
MEFT_HD int dropout_bits(Key key, std::uint64_t element) {
  return dropout_bits(dropout_block(key, element / dropout_block_size),
                      static_cast<unsigned>(element % dropout_block_size));
}

/// x/(1 − p) where the element's bits are at least p·2¹⁶, else +0, p rounded up to a multiple of 2⁻¹⁶: the mean is x.
/// By a mask, so that loops vectorise and a dropped infinity is 0 too.
template <class T>
struct Keep {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  int threshold;
  T scale;

  /// 0 ≤ p < 1.
  explicit Keep(double p) {
    const double least = std::ceil(p * 0x1p16);
    threshold = least < 0x1p16 ? static_cast<int>(least) : 0xffff;
    scale = static_cast<T>(0x1p16 / (0x1p16 - threshold));
  }
  MEFT_HD T operator()(T x, int bits) const {
    const Bits mask = Bits{0} - static_cast<Bits>(bits >= threshold);
    return std::bit_cast<T>(std::bit_cast<Bits>(x * scale) & mask);
  }
};

}  // namespace meft
