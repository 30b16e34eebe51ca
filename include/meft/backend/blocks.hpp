// Owns: a frozen matrix that stays in the blocks of its format, in memory of its own or in a mapped file.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>

#include <meft/base/parallel.hpp>
#include <meft/base/shape.hpp>
#include <meft/memory/buffer.hpp>
#include <meft/weights/format.hpp>

namespace meft {

/// W[out, in], its rows one after the other, each in whole blocks. Copies share the bytes.
struct Blocks {
  const weights::Format* format = nullptr;  // null: no matrix
  Index out = 0, in = 0;
  const std::byte* data = nullptr;
  Index heads = 0;                     // as many of whose rows i and i + half lie beside each other; 0: in order
  std::shared_ptr<const void> file{};  // that the bytes are mapped from
  Buffer buffer{};                     // or that has them

  explicit operator bool() const { return format != nullptr; }
  std::size_t row_bytes() const { return format->row_bytes(static_cast<std::size_t>(in)); }
  std::size_t bytes() const { return format ? static_cast<std::size_t>(out) * row_bytes() : 0; }
  bool mapped() const { return file != nullptr; }

  /// Where row i begins.
  const std::byte* row(Index i) const {
    if (heads) {
      const Index head = out / heads, at = i % head, half = head / 2;
      i += (at < half ? 2 * at : 2 * (at - half) + 1) - at;
    }
    return data + static_cast<std::size_t>(i) * row_bytes();
  }

  /// Where rows from i on begin, at most 16, or `most`: a format's tile is of them. Those beyond the last are none.
  struct Rows {
    const std::byte* at[weights::part] = {};
    std::size_t count = 0;
  };
  Rows rows(Index i, Index most = static_cast<Index>(weights::part)) const {
    Rows found;
    const Index count = std::min(most, out - i);
    for (Index r = 0; r < count; ++r) found.at[found.count++] = row(i + r);
    return found;
  }
  /// to[16, 16] ← numbers [k, k + 16) of the rows as they are multiplied with, rounded to bf16; zeros for those that
  /// are none. k is a multiple of 16.
  void tile(const Rows& rows, Index k, float* to) const {
    format->tile(rows.at, static_cast<std::size_t>(k), rows.count, to);
  }

  /// to[count, in] ← rows i to i + count, as they are multiplied with.
  template <class T>
  void decode(Index i, Index count, T* to) const {
    alignas(32) float room[weights::part * weights::part];
    constexpr Index side = static_cast<Index>(weights::part);
    for (Index begin = 0; begin < count; begin += side) {
      const Index some = std::min(side, count - begin);
      const Rows from = rows(i + begin, some);
      for (Index k = 0; k < in; k += side) {
        tile(from, k, room);
        for (Index r = 0; r < some; ++r)
          std::copy_n(room + r * side, std::min(side, in - k), to + (begin + r) * in + k);
      }
    }
  }

  /// The nearest matrix in the format. Errors: a number that is not finite, which blocks do not have.
  template <class T>
  static Blocks of(const weights::Format& format, const T* w, Index out, Index in, Pool& pool) {
    const UseScope use(Use::parameter);
    Blocks made{.format = &format, .out = out, .in = in};
    made.buffer = Buffer(pool, made.bytes());
    auto* const to = static_cast<std::byte*>(made.buffer.data());
    made.data = to;
    parallel_for(out, [&](Index i) {
      float block[weights::most_block];
      const auto each = static_cast<Index>(format.numbers);
      for (Index k = 0; k < in; k += each) {
        for (Index j = 0; j < each; ++j) {
          block[j] = k + j < in ? static_cast<float>(w[i * in + k + j]) : 0.0f;
          if (!std::isfinite(block[j]))
            fail("pack: expected finite weights for " + std::string(format.dtype) + ", found", block[j],
                 "row " + std::to_string(i), "column " + std::to_string(k + j));
        }
        format.encode(block, to + static_cast<std::size_t>(i) * made.row_bytes() +
                                 static_cast<std::size_t>(k / each) * format.bytes);
      }
    });
    return made;
  }
};

}  // namespace meft
