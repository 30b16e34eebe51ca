// Owns: how a frozen weight can be kept, by name: a row each.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include <meft/base/error.hpp>

namespace meft {

/// In what a frozen weight is kept and multiplied. All but f32: both operands are rounded to bf16, sums are in T.
/// q8, q4 and nf4 are blocks of a format (weights/made.hpp); as_stored is whatever its file has, where it lies
/// there.
enum class Precision { f32, bf16, q8, q4, nf4, as_stored };

namespace weights {

struct Kept {
  std::string_view name;
  Precision precision;
};
/// A row for each Precision, in its order: its name behind --weights.
inline constexpr Kept kept[] = {{"f32", Precision::f32}, {"bf16", Precision::bf16},
                                {"q8", Precision::q8},   {"q4", Precision::q4},
                                {"nf4", Precision::nf4}, {"as-stored", Precision::as_stored}};
constexpr const Kept& kept_in(Precision p) { return kept[static_cast<int>(p)]; }
static_assert(std::ranges::all_of(kept, [](const Kept& k) { return &kept_in(k.precision) == &k; }));

}  // namespace weights

/// By its name in weights::kept.
inline Precision precision_from(std::string_view name, Where where = Where::current()) {
  std::string known;
  for (const auto& k : weights::kept) {
    if (k.name == name) return k.precision;
    known += (known.empty() ? "" : ", ") + std::string(k.name);
  }
  fail({"precision: expected one of " + known + ", found", where}, name);
}
constexpr std::string_view name_of(Precision p) { return weights::kept_in(p).name; }
/// What it is multiplied in: f32 or bf16.
constexpr Precision arithmetic(Precision p) { return p == Precision::f32 ? p : Precision::bf16; }

}  // namespace meft
