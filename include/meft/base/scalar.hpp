// Owns: the element types of tensors. Computation is in float or double; bf16 and half are for storage and conversion.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>

#include <meft/base/host_device.hpp>

namespace meft {

/// bfloat16: the upper half of a float. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  MEFT_HD explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  MEFT_HD explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  explicit operator double() const { return static_cast<float>(*this); }
  friend bool operator==(bf16, bf16) = default;
};

/// IEEE 754 binary16. Conversion rounds to nearest, ties to even; overflow gives infinity.
struct half {
  std::uint16_t bits = 0;

  half() = default;
  explicit half(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    const std::uint32_t mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) bits = static_cast<std::uint16_t>(sign | 0x7e00u);
    else if (mag >= 0x477ff000u) bits = static_cast<std::uint16_t>(sign | 0x7c00u);
    else if (mag >= 0x38800000u)
      bits = static_cast<std::uint16_t>(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
    else bits = static_cast<std::uint16_t>(sign | subnormal(mag));
  }
  explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u,
                        fraction = bits & 0x3ffu;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
    const float tiny = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -tiny : tiny;
  }
  explicit operator double() const { return static_cast<float>(*this); }
  friend bool operator==(half, half) = default;

 private:
  // Adding 0.5 aligns the fraction to 2^-24, the unit of a subnormal half, and the addition itself rounds to even.
  static std::uint16_t subnormal(std::uint32_t mag) {
    const float aligned = std::bit_cast<float>(mag) + 0.5f;
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u);
  }
};

/// What a tensor may hold.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bf16> || std::same_as<T, half> ||
    std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t> || std::same_as<T, std::uint8_t> ||
    std::same_as<T, std::uint32_t>;

/// What gradients are computed in.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// The name a safetensors header has for T.
template <Scalar T>
constexpr const char* dtype_name() {
  if constexpr (std::same_as<T, float>) return "F32";
  else if constexpr (std::same_as<T, double>) return "F64";
  else if constexpr (std::same_as<T, bf16>) return "BF16";
  else if constexpr (std::same_as<T, half>) return "F16";
  else if constexpr (std::same_as<T, std::int32_t>) return "I32";
  else if constexpr (std::same_as<T, std::int64_t>) return "I64";
  else if constexpr (std::same_as<T, std::uint32_t>) return "U32";
  else return "U8";
}

}  // namespace meft
