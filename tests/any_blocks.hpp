// Owns: matrices in blocks of any format, and Gaussian tensors, for tests.
#pragma once

#include <cmath>
#include <cstring>

#include <meft/backend/blocks.hpp>
#include <meft/tensor/random.hpp>
#include <meft/weights/formats.hpp>

namespace meft::test {

inline Tensor<float> gaussian(const Shape& shape, std::uint32_t site) {
  Tensor<float> out(shape);
  fill_normal(out, {23, site, 0}, 1.0);
  return out;
}

/// Blocks of any format, of bytes that are finite numbers.
inline Blocks any_blocks(const weights::Format& format, Index out, Index in, std::uint32_t site) {
  Blocks b{.format = &format, .out = out, .in = in};
  b.buffer = Buffer(Cpu::pool(), b.bytes());
  auto* const bytes = static_cast<std::byte*>(b.buffer.data());
  b.data = bytes;
  const auto from = gaussian({static_cast<Index>(b.bytes())}, site);
  for (std::size_t i = 0; i < b.bytes(); ++i)
    bytes[i] = static_cast<std::byte>(static_cast<int>(std::fabs(from.data()[i]) * 1e4f) & 255);
  const auto scale = [&](std::size_t at, float value) {
    for (std::size_t block = 0; block < b.bytes(); block += format.bytes) {
      const half h(value * (1 + from.data()[block] / 8));
      std::memcpy(bytes + block + at, &h, sizeof h);
    }
  };
  if (format.numbers == weights::part) {
    for (Index i = 0; i < out * in; ++i) {
      const float x = from.data()[i];
      const bf16 b16(x);
      const half h(x);
      if (format.bytes == 64) std::memcpy(bytes + 4 * i, &x, 4);
      else if (format.dtype == "F16") std::memcpy(bytes + 2 * i, &h, 2);
      else std::memcpy(bytes + 2 * i, &b16, 2);
    }
    return b;
  }
  scale(format.dtype == "Q6_K" ? 208 : 0, 0.01f);
  if (format.dtype.ends_with("_1") || format.dtype == "Q4_K" || format.dtype == "Q5_K") scale(2, -0.02f);
  return b;
}

}  // namespace meft::test
