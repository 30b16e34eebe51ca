// Owns: products of which chosen elements are wanted alone, on the CPU.
#pragma once

#include <algorithm>
#include <array>

#include <meft/backend/cpu/tag.hpp>
#include <meft/backend/kernels/sampled.hpp>
#include <meft/base/parallel.hpp>
#include <meft/base/target.hpp>

namespace meft {

template <Real T>
void sampled_product(Cpu, Index depth, Index rows, Index columns, const T* a, const T* b, Index n,
                     const std::int32_t* indices, T* z) {
  constexpr Index block = 512;
  parallel_chunks(n, block, [&](Index begin, Index end) {
    for (; begin < end; begin += block) {
      const Index count = std::min(block, end - begin);
      std::array<std::int32_t, block> row, column;
      for (Index m = 0; m < count; ++m) {
        row[static_cast<std::size_t>(m)] = static_cast<std::int32_t>(indices[begin + m] / columns);
        column[static_cast<std::size_t>(m)] = static_cast<std::int32_t>(indices[begin + m] % columns);
      }
      T* const to = z + begin;
      std::fill(to, to + count, T(0));
      const std::int32_t *i = row.data(), *j = column.data();
      vectorised([&]() MEFT_INLINE {
        for (Index t = 0; t < depth; ++t) {
          const T *at = a + t * rows, *bt = b + t * columns;
          for (Index m = 0; m < count; ++m) to[m] += at[i[m]] * bt[j[m]];
        }
      });
    }
  });
}

}  // namespace meft
