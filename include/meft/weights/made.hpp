// Owns: the formats that weights can be brought into, a row each. Apart from formats.hpp, which is of what files have:
// every program with frozen weights compiles these.
#pragma once

#include <meft/weights/nf4.hpp>
#include <meft/weights/precision.hpp>
#include <meft/weights/small.hpp>

namespace meft::weights {

struct Made {
  Precision precision;
  Format format;
};
inline constexpr Made made[] = {
    {Precision::q8, format_of<Q8_0>()}, {Precision::q4, format_of<Q4_0>()}, {Precision::nf4, format_of<Nf4>()}};

/// Null for what is no such format.
inline const Format* made_in(Precision precision) {
  for (const auto& m : made)
    if (m.precision == precision) return &m.format;
  return nullptr;
}

}  // namespace meft::weights
