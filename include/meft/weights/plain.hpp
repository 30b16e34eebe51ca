// Owns: weights that files keep by element, F32, F16 and BF16, looked at 16 at a time.
#pragma once

#include <bit>
#include <cstring>

#include <meft/weights/format.hpp>

namespace meft::weights {

struct F32 {
  static constexpr std::string_view dtype = "F32";
  static constexpr std::size_t numbers = 16, bytes = 64;
  static constexpr unsigned bits = 32;
  static constexpr std::array<std::size_t, 0> scales = {};

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float*) {
    float x;
    std::memcpy(&x, block + 4 * i, sizeof x);
    return x;
  }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t, const float*, Float8& low, Float8& high) {
    load(low, block);
    load(high, block + 32);
  }
#endif
};

namespace detail {

/// Numbers of two bytes, which `Self` widens: one, or eight.
template <class Self>
struct TwoBytes {
  static constexpr std::size_t numbers = 16, bytes = 32;
  static constexpr unsigned bits = 16;
  static constexpr std::array<std::size_t, 0> scales = {};

  MEFT_HD static float number(const std::byte* block, std::size_t i, const float*) { return Self::wide(block + 2 * i); }
#if MEFT_X86
  MEFT_INLINE static void part(const std::byte* block, std::size_t, const float*, Float8& low, Float8& high) {
    Word8 first, second;
    load_halves(first, block);
    load_halves(second, block + 16);
    Self::widen(low, first);
    Self::widen(high, second);
  }
#endif
};

}  // namespace detail

struct F16 : detail::TwoBytes<F16> {
  static constexpr std::string_view dtype = "F16";
  MEFT_HD static float wide(const std::byte* at) { return half_at(at); }
#if MEFT_X86
  MEFT_INLINE static void widen(Float8& to, const Word8& h) { widen_halves(to, h); }
#endif
};

struct Bf16 : detail::TwoBytes<Bf16> {
  static constexpr std::string_view dtype = "BF16";
  MEFT_HD static float wide(const std::byte* at) {
    return std::bit_cast<float>(byte_at(at) << 16 | byte_at(at + 1) << 24);
  }
#if MEFT_X86
  MEFT_INLINE static void widen(Float8& to, const Word8& h) { to = reinterpret_cast<Float8>(h << 16); }
#endif
};

}  // namespace meft::weights
