// Owns: the block formats of GGUF's weights: how many numbers a block has, in how many bytes, and their values. Each
// product below is exact in float, so the values are the same with and without fused multiply-add.
// Source: ggml's ggml-common.h and ggml-quants.c. Must not know: files, tensors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

#include <meft/base/scalar.hpp>

namespace meft::io {

/// A type whose numbers come in blocks along a row.
struct BlockFormat {
  std::string_view dtype;
  std::size_t numbers, bytes;
  void (*decode)(const std::byte* block, float* out);  // one block
};

namespace detail {

constexpr std::size_t small_block = 32, large_block = 256, most_block = large_block;

inline std::uint32_t byte_at(const std::byte* at) { return static_cast<std::uint32_t>(*at); }
/// A number of two bytes.
inline float half_at(const std::byte* at) {
  half value;
  std::memcpy(&value, at, sizeof value);
  return static_cast<float>(value);
}

/// scale·(q − zero), or scale·q + least: half a block has the low, the other half the high four bits; `fifth` has a bit
/// more of each.
template <bool has_least, bool has_fifth>
void decode_small(const std::byte* block, float* out) {
  const float scale = half_at(block), least = has_least ? half_at(block + 2) : 0;
  const auto value = [&](std::uint32_t q) {
    if constexpr (has_least) return scale * static_cast<float>(q) + least;
    else return scale * static_cast<float>(static_cast<int>(q) - (has_fifth ? 16 : 8));
  };
  block += has_least ? 4 : 2;
  std::uint32_t fifth = 0;
  if (has_fifth) {
    std::memcpy(&fifth, block, sizeof fifth);
    block += sizeof fifth;
  }
  for (std::size_t i = 0; i < small_block / 2; ++i) {
    const std::uint32_t low = (byte_at(block + i) & 15) | (has_fifth ? (fifth >> i & 1) << 4 : 0),
                        high = byte_at(block + i) >> 4 | (has_fifth ? (fifth >> (i + 16) & 1) << 4 : 0);
    out[i] = value(low);
    out[i + small_block / 2] = value(high);
  }
}

inline void decode_q8_0(const std::byte* block, float* out) {
  const float scale = half_at(block);
  for (std::size_t i = 0; i < small_block; ++i)
    out[i] = scale * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
}

/// Eight groups of 32, each with a scale and a least value of six bits: d·scale·q − m·least.
template <bool has_fifth>
void decode_groups(const std::byte* block, float* out) {
  const float d = half_at(block), m = half_at(block + 2);
  const std::byte *packed = block + 4, *fifth = block + 16, *q = fifth + (has_fifth ? 32 : 0);
  for (std::size_t g = 0; g < 8; ++g) {
    std::uint32_t scale = 0, least = 0;
    if (g < 4) {
      scale = byte_at(packed + g) & 63;
      least = byte_at(packed + g + 4) & 63;
    } else {
      scale = (byte_at(packed + g + 4) & 15) | (byte_at(packed + g - 4) >> 6) << 4;
      least = byte_at(packed + g + 4) >> 4 | (byte_at(packed + g) >> 6) << 4;
    }
    const float by = d * static_cast<float>(scale), less = m * static_cast<float>(least);
    const std::byte* from = q + g / 2 * 32;
    for (std::size_t i = 0; i < 32; ++i) {
      std::uint32_t value = g % 2 ? byte_at(from + i) >> 4 : byte_at(from + i) & 15;
      if (has_fifth) value |= (byte_at(fifth + i) >> g & 1) << 4;
      out[g * 32 + i] = by * static_cast<float>(value) - less;
    }
  }
}

/// Sixteen groups of 16, each with a signed scale of eight bits: d·scale·(q − 32).
inline void decode_q6_k(const std::byte* block, float* out) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const float d = half_at(block + 208);
  for (std::size_t i = 0; i < large_block; ++i) {
    const std::size_t part = i / 128, quarter = i / 32 % 4, at = i % 32;
    const std::uint32_t four = byte_at(low + part * 64 + quarter % 2 * 32 + at),
                        two = byte_at(high + part * 32 + at) >> 2 * quarter & 3;
    const int value = static_cast<int>((quarter < 2 ? four & 15 : four >> 4) | two << 4) - 32;
    out[i] = d * static_cast<float>(static_cast<std::int8_t>(scales[i / 16])) * static_cast<float>(value);
  }
}

}  // namespace detail

/// The format of that name, or null.
inline const BlockFormat* block_format(std::string_view dtype) {
  static constexpr BlockFormat known[] = {{"Q4_0", 32, 18, detail::decode_small<false, false>},
                                          {"Q4_1", 32, 20, detail::decode_small<true, false>},
                                          {"Q5_0", 32, 22, detail::decode_small<false, true>},
                                          {"Q5_1", 32, 24, detail::decode_small<true, true>},
                                          {"Q8_0", 32, 34, detail::decode_q8_0},
                                          {"Q4_K", 256, 144, detail::decode_groups<false>},
                                          {"Q5_K", 256, 176, detail::decode_groups<true>},
                                          {"Q6_K", 256, 210, detail::decode_q6_k}};
  const auto* at = std::find_if(std::begin(known), std::end(known), [&](const auto& f) { return f.dtype == dtype; });
  return at == std::end(known) ? nullptr : at;
}

}  // namespace meft::io
