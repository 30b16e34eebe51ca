// Owns: a tensor of an open file as a frozen matrix that stays in its blocks. Must not know: file formats, models.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include <meft/backend/blocks.hpp>
#include <meft/io/entry.hpp>
#include <meft/weights/formats.hpp>

namespace meft::io {

/// The matrix [out, in] of an entry as it lies in `file`; none where no product reads it: a type that has no format,
/// rows that are no whole blocks.
inline Blocks stored_blocks(const Entry& entry, Index out, Index in, const std::shared_ptr<const void>& file) {
  const auto* format = weights::format_named(entry.dtype);
  if (!format || entry.less != 0 || in % static_cast<Index>(format->numbers)) return {};
  if (entry.paired && out % (2 * entry.paired)) return {};
  const Blocks blocks{
      .format = format, .out = out, .in = in, .data = entry.bytes.data(), .heads = entry.paired, .file = file};
  return blocks.bytes() == entry.bytes.size() ? blocks : Blocks{};
}

/// Throws as copy_finite_to, where a number is NaN or infinite.
inline void check_finite(const Blocks& blocks, const Entry& entry, Where where) {
  std::atomic<bool> finite{true};
  const auto& format = *blocks.format;
  parallel_chunks(blocks.out, 16, [&](Index begin, Index end) {
    float block[weights::most_block];
    const auto* at = blocks.data + static_cast<std::size_t>(begin) * blocks.row_bytes();
    const auto* const last = blocks.data + static_cast<std::size_t>(end) * blocks.row_bytes();
    for (; at != last; at += format.bytes) {
      format.decode(at, block);
      if (!detail::all_finite(std::span<const float>(block, format.numbers))) return void(finite = false);
    }
  });
  if (finite) return;
  std::vector<float> values(static_cast<std::size_t>(blocks.out * blocks.in));  // the error says which
  copy_finite_to(entry, std::span(values), where);
}

}  // namespace meft::io
