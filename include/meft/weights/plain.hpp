// Owns: weights that files keep by element, F32, F16 and BF16, looked at 16 at a time.
#pragma once

#include <meft/weights/format.hpp>

namespace meft::weights {

struct F32 {
  static constexpr std::string_view dtype = "F32";
  static constexpr std::size_t numbers = 16, bytes = 64;
  MEFT_INLINE static void part(const std::byte* block, std::size_t, float* out) { std::memcpy(out, block, bytes); }
};

struct F16 {
  static constexpr std::string_view dtype = "F16";
  static constexpr std::size_t numbers = 16, bytes = 32;
  MEFT_INLINE static void part(const std::byte* block, std::size_t, float* out) {
    for (std::size_t i = 0; i < numbers; i += 8) {
      Half8 halves;
      load(halves, block + 2 * i);
      const Word8 h = __builtin_convertvector(halves, Word8), magnitude = (h & 0x7fffu) << 13,
                  sign = (h & 0x8000u) << 16;
      const Float8 by = reinterpret_cast<Float8>(magnitude) * 0x1p112f;
      const auto none = reinterpret_cast<Word8>(magnitude >= 0x7c00u << 13) & 0x7f800000u;  // infinite, or NaN
      const Word8 bits = reinterpret_cast<Word8>(by) | sign | none;
      store(out + i, bits);
    }
  }
};

struct Bf16 {
  static constexpr std::string_view dtype = "BF16";
  static constexpr std::size_t numbers = 16, bytes = 32;
  MEFT_INLINE static void part(const std::byte* block, std::size_t, float* out) {
    for (std::size_t i = 0; i < numbers; i += 8) {
      Half8 halves;
      load(halves, block + 2 * i);
      const Word8 wide = __builtin_convertvector(halves, Word8) << 16;
      store(out + i, wide);
    }
  }
};

}  // namespace meft::weights
