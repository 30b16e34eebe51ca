// Owns: the interface of the exact shear: x ← λ·x + f in fixed point, its inverse, and the digits that make λ
// invertible. A stream element X (int32 or int64) stands for X·2⁻ˢ.
#pragma once

#include <cstdint>

#include <meft/backend/backend.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/lambda.hpp>
#include <meft/base/scalar.hpp>

namespace meft {

/// 32-bit words that the digits of a shear of n elements take; none for λ = ±1.
template <class Word, Backend B>
Index digit_words(B, Index n, Lambda lambda);

/// x ← λ·x + f·2ˢ for one slice of n elements; the digits go to `words`, the report to `slot`, which is zero before.
template <Backend B, class Word, Real F>
void shear(B, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot);
/// The inverse of `shear`, with the same f and words; its hash is that of the restored elements.
template <Backend B, class Word, Real F>
void unshear(B, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot);

/// x ← round(v·2ˢ).
template <Backend B, class Word, Real F>
void to_fixed(B, Index n, const F* v, Word* x, int fraction_bits, ShearSlot* slot);
/// v ← X·2⁻ˢ. A device also writes v to `rounded`, rounded to bf16, where that is not null.
template <Backend B, class Word, Real F>
void from_fixed(B, Index n, const Word* x, F* v, int fraction_bits, bf16* rounded = nullptr);

/// The paper's reversal, kept to show what it does: x ← λ·x + f and x ← (x − f)/λ in floating point.
template <Backend B, Real F>
void shear_rounded(B, Index n, F* x, const F* f, Lambda lambda);
template <Backend B, Real F>
void unshear_rounded(B, Index n, F* x, const F* f, Lambda lambda);

}  // namespace meft
