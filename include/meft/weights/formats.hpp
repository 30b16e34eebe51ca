// Owns: the list of formats, a row each.
#pragma once

#include <meft/weights/groups.hpp>
#include <meft/weights/nf4.hpp>
#include <meft/weights/plain.hpp>
#include <meft/weights/small.hpp>

namespace meft::weights {

inline constexpr Format formats[] = {format_of<Q4_0>(), format_of<Q4_1>(), format_of<Q5_0>(), format_of<Q5_1>(),
                                     format_of<Q8_0>(), format_of<Q4_K>(), format_of<Q5_K>(), format_of<Q6_K>(),
                                     format_of<Nf4>(),  format_of<F32>(),  format_of<F16>(),  format_of<Bf16>()};

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
