// Owns: rows of a matrix in blocks decoded on the device, by the formats' own functions (include/meft/weights).
#pragma once

#include <convert.cuh>
#include <cstddef>
#include <cstdint>
#include <row.cuh>
#include <string_view>

#include <meft/weights/list.hpp>

namespace meft::cuda {

/// to[count, in] ← rows numbers[0], numbers[1] … of W, or without numbers the first, rounded to bf16. A block of
/// threads goes along a row; a thread takes eight numbers, which lie in one block of the format.
template <class F, class To>
__global__ void decode_rows(Index count, Index in, Index row_bytes, const std::byte* w, const std::int32_t* numbers,
                            bool whole, To* to) {
  constexpr Index each = 8, block = static_cast<Index>(F::numbers);
  for (Index m = blockIdx.x; m < count; m += gridDim.x) {
    const std::byte* const row = w + (numbers ? numbers[m] : m) * row_bytes;
    for (Index j = threadIdx.x * each; j < in; j += blockDim.x * each) {
      const weights::Numbers<F> from(row + j / block * static_cast<Index>(F::bytes));
      const auto at = static_cast<std::size_t>(j % block);
      Eight<To> out;
      for (Index k = 0; k < each; ++k) {
        const float x = from[at + static_cast<std::size_t>(k)];
        out.at[k] = static_cast<To>(static_cast<float>(bf16(x)));
      }
      To* const here = to + m * in + j;
      if (whole) *reinterpret_cast<Eight<To>*>(here) = out;
      else
        for (Index k = 0; k < each && j + k < in; ++k) here[k] = out.at[k];
    }
  }
}

template <class To, class... F>
void decode_blocks(weights::List<F...>, std::string_view dtype, Index count, Index in, Index row_bytes,
                   const std::byte* w, const std::int32_t* numbers, To* to) {
  if (count == 0) return;
  const bool whole = in % 8 == 0 && aligned(to);
  const auto one = [&](auto kernel) {
    launch(kernel, blocks(count, 1), along((in + 7) / 8), 0, stream(), count, in, row_bytes, w, numbers, whole, to);
    return true;
  };
  (void)((F::dtype == dtype && one(decode_rows<F, To>)) || ...);
}

}  // namespace meft::cuda
