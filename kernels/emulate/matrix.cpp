// Owns: the matrix instructions of a warp, by the fragments that PTX gives its lanes. Lane 4·g + t holds, of a 16×8
// result, rows g and g + 8 at columns 2t and 2t + 1; of the left operand, 16×16, those rows at depths 2t, 2t + 1, 2t +
// 8 and 2t + 9; of the right one, 16×8, column g at those depths. PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type" and "ldmatrix".
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "device.hpp"
#include "worker.hpp"

namespace emulate {
namespace {

/// The bf16 that is the lower or the upper half of a word.
double low(std::uint32_t word) { return std::bit_cast<float>(word << 16); }
double high(std::uint32_t word) { return std::bit_cast<float>(word & 0xFFFF0000u); }

/// A sum as tensor cores leave it: cut off, not rounded.
float cut(double sum) {
  const auto near = static_cast<float>(sum);
  if (!std::isfinite(near) || std::abs(static_cast<double>(near)) <= std::abs(sum)) return near;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(near) - 1);
}

}  // namespace

void multiply_lanes(const std::uint64_t (&parts)[32]) {
  double a[16][16], b[16][8], c[16][8];
  for (std::size_t lane = 0; lane < 32; ++lane) {
    const auto& part = *reinterpret_cast<const Multiply*>(parts[lane]);
    const std::size_t g = lane / 4, t = lane % 4;
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t row = g + i % 2 * 8, depth = 2 * t + i / 2 * 8;
      a[row][depth] = low(part.a[i]), a[row][depth + 1] = high(part.a[i]);
      c[g + i / 2 * 8][2 * t + i % 2] = static_cast<double>(part.c[i]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t depth = 2 * t + i * 8;
      b[depth][g] = low(part.b[i]), b[depth + 1][g] = high(part.b[i]);
    }
  }
  for (std::size_t i = 0; i < 16; ++i)
    for (std::size_t k = 0; k < 16; ++k)
      for (std::size_t j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
  for (std::size_t lane = 0; lane < 32; ++lane) {
    const auto& part = *reinterpret_cast<const Multiply*>(parts[lane]);
    for (std::size_t i = 0; i < 4; ++i) part.c[i] = cut(c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2]);
  }
}

const char* load_lanes(const std::uint64_t (&parts)[32]) {
  const auto part = [&](std::size_t lane) -> const Load& { return *reinterpret_cast<const Load*>(parts[lane]); };
  for (std::size_t lane = 0; lane < 32; ++lane)
    if (reinterpret_cast<std::uintptr_t>(part(lane).row) % 16)
      return "ldmatrix reads a row that is not aligned to 16 bytes";
  for (std::size_t i = 0; i < 4; ++i) {
    std::uint16_t x[8][8];
    for (std::size_t r = 0; r < 8; ++r) std::memcpy(x[r], part(8 * i + r).row, sizeof x[r]);
    for (std::size_t lane = 0; lane < 32; ++lane) {
      const std::size_t g = lane / 4, t = 2 * (lane % 4);
      const bool turned = part(lane).turned;
      const std::uint32_t first = turned ? x[t][g] : x[g][t], second = turned ? x[t + 1][g] : x[g][t + 1];
      part(lane).to[i] = first | second << 16;
    }
  }
  return nullptr;
}

}  // namespace emulate
