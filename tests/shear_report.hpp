// Owns: shears on any backend with what they report.
#pragma once

#include <cstdint>

#include <meft/base/lambda.hpp>
#include <meft/reversible/reports.hpp>

namespace meft::test {

/// A shear, its undo or an encoding, and what it reports.
template <Backend B, class F>
ShearReport reported(int fraction_bits, const F& f) {
  const meft::detail::ShearReports<B> reports(1);
  f(reports.at(0));
  ShearReport out;
  reports.read([&](const auto& slots) { out = report_of(slots.front(), fraction_bits); });
  return out;
}
template <Backend B, class Word, class F>
ShearReport shear_on(Index n, Word* x, const F* f, Lambda lambda, int bits, std::uint32_t* words) {
  return reported<B>(bits, [&](ShearSlot* slot) { shear(B{}, n, x, f, lambda, bits, words, slot); });
}
template <Backend B, class Word, class F>
ShearReport unshear_on(Index n, Word* x, const F* f, Lambda lambda, int bits, std::uint32_t* words) {
  return reported<B>(bits, [&](ShearSlot* slot) { unshear(B{}, n, x, f, lambda, bits, words, slot); });
}
template <Backend B, class Word, class F>
ShearReport to_fixed_on(Index n, const F* v, Word* x, int bits) {
  return reported<B>(bits, [&](ShearSlot* slot) { to_fixed(B{}, n, v, x, bits, slot); });
}

}  // namespace meft::test
