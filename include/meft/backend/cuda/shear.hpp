// Owns: the declarations of the exact shear on CUDA. Digits are nibbles for d ≤ 16, bytes for d ≤ 256, else 16 bits.
#pragma once

#include <cstdint>

#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/report.hpp>
#include <meft/base/lambda.hpp>
#include <meft/base/scalar.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// 32-bit words that the digits of a shear of n elements take; none for λ = ±1.
template <class Word>
Index digit_words(Cuda, Index n, Lambda lambda);
/// x ← λ·x + f·2ˢ for one slice of n elements; the digits go to `words`, the report to `slot`, which is zero before.
template <class Word, Real F>
void shear(Cuda, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot);
/// The inverse of `shear`, with the same f and words; its hash is that of the restored elements.
template <class Word, Real F>
void unshear(Cuda, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words,
             ShearSlot* slot);
/// x ← round(v·2ˢ).
template <class Word, Real F>
void to_fixed(Cuda, Index n, const F* v, Word* x, int fraction_bits, ShearSlot* slot);
/// v ← X·2⁻ˢ.
template <class Word, Real F>
void from_fixed(Cuda, Index n, const Word* x, F* v, int fraction_bits);
/// x ← λ·x + f and x ← (x − f)/λ in floating point.
template <Real F>
void shear_rounded(Cuda, Index n, F* x, const F* f, Lambda lambda);
template <Real F>
void unshear_rounded(Cuda, Index n, F* x, const F* f, Lambda lambda);

}  // namespace meft
