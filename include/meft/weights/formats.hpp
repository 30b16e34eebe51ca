// Owns: every format as a row.
#pragma once

#include <array>

#include <meft/weights/list.hpp>

namespace meft::weights {

template <class... F>
constexpr std::array<Format, sizeof...(F)> rows_of(List<F...>) {
  return {format_of<F>()...};
}
inline constexpr auto formats = rows_of(Every{});

/// The format of that name in files, or null.
inline const Format* format_named(std::string_view dtype) {
  for (const auto& f : formats)
    if (f.dtype == dtype) return &f;
  return nullptr;
}
/// The same where several numbers share something, as a scale.
inline const Format* block_format(std::string_view dtype) {
  const auto* f = format_named(dtype);
  return f && f->numbers > part ? f : nullptr;
}

}  // namespace meft::weights
