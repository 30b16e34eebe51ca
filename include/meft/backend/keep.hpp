// Owns: what dropout does to one element, on any backend.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <meft/base/host_device.hpp>

namespace meft {

/// x/(1 − p) where the element's random bits are at least p·2³², else +0. By a mask, so that loops vectorise and a
/// dropped infinity is 0 too.
template <class T>
struct Keep {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  std::uint32_t threshold;
  T scale;

  /// 0 ≤ p < 1.
  explicit Keep(double p) : scale(static_cast<T>(1 / (1 - p))) {
    const double least = std::ceil(p * 0x1p32);
    threshold = least < 0x1p32 ? static_cast<std::uint32_t>(least) : 0xffffffffu;
  }
  MEFT_HD T operator()(T x, std::uint32_t bits) const {
    const Bits mask = Bits{0} - static_cast<Bits>(bits >= threshold);
    return std::bit_cast<T>(std::bit_cast<Bits>(x * scale) & mask);
  }
};

}  // namespace meft
