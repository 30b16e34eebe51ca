// Owns: the exact shear in fixed point, its undo, and the way into and out of fixed point:
// include/meft/backend/kernels/shear.hpp. A thread takes the elements whose digits share a 32-bit word, so that a word
// has one writer. Bound by memory: a division by d costs less than the element's 12 bytes.
#include <cmath>
#include <limits>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/shear.hpp>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

/// An element's share of the hash, which knows its place: the finaliser of MurmurHash3.
__device__ inline unsigned long long share(Index i, long long x) {
  auto h = static_cast<unsigned long long>(x) + 0x9e3779b97f4a7c15ull * static_cast<unsigned long long>(i + 1);
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdull;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ull;
  return h ^ (h >> 33);
}

struct Shear {
  std::int32_t n, d;
  double scale;
};

/// x = q·d + r with 0 ≤ r < d becomes n·q + round(f·2ˢ); gives r.
template <class Word>
__device__ std::int32_t sheared(const Shear& s, Word& x, double f, unsigned long long& worst) {
  Word r = x % s.d, q = x / s.d;
  if (r < 0) r += s.d, --q;  // x − r may lie below what a word holds
  const double rounded = rint(f * s.scale), scaled = static_cast<double>(q) * s.n, y = scaled + rounded;
  // Of 64 bits each term too: in double they may cancel where a word would overflow.
  constexpr double most = sizeof(Word) == 4 ? 2147483647.0 : 0.99 * 9223372036854775807.0;
  const bool terms = sizeof(Word) == 4 || (fabs(scaled) <= most && fabs(rounded) <= most);
  if (!(terms && fabs(y) <= most)) {  // nor is NaN in range
    const auto out = beyond(y);
    worst = worst < out ? out : worst;
    x = 0;
  } else x = static_cast<Word>(static_cast<long long>(q) * s.n + static_cast<long long>(rounded));
  return static_cast<std::int32_t>(r);
}

/// The way back. What is out of range, or no multiple of n, comes of another f than before.
template <class Word>
__device__ void unsheared(const Shear& s, Word& x, double f, std::int32_t r, unsigned long long& worst) {
  constexpr double most = static_cast<double>(std::numeric_limits<Word>::max());
  const double rounded = rint(f * s.scale);
  // In 32 bits n·q and round(f·2ˢ) may each go further than their sum, as `sheared` allows.
  constexpr double terms = sizeof(Word) == 4 ? 0x1p33 : most;
  bool good = fabs(rounded) < terms && fabs(static_cast<double>(x) - rounded) < terms;
  const long long whole = good ? static_cast<long long>(x) - static_cast<long long>(rounded) : 0, q = whole / s.n;
  good = good && q * s.n == whole && fabs(static_cast<double>(q) * s.d + r) <= most;
  if (!good) {
    const auto out = beyond(static_cast<double>(x) - rounded);
    worst = worst < out ? out : worst;
    x = 0;
  } else x = static_cast<Word>(q * s.d + r);
}

/// Adds a thread's share to the report: sums and maxima of integers, whose order does not matter.
__device__ inline void join(unsigned long long hash, unsigned long long worst, ShearSlot* slot) {
  hash = over_block(hash, Add{});
  worst = over_block(worst, Larger{});
  if (threadIdx.x != 0) return;
  atomicAdd(&slot->hash, hash);
  if (worst) atomicMax(&slot->worst, worst);
}

/// `count` elements from `from` on, 16 bytes at a time where `packed`.
template <int count, class T>
__device__ void load(const T* from, bool packed, int valid, T (&to)[count]) {
  constexpr int width = Pack<T>::width;
  if (packed && valid == count && count % width == 0) {
    for (int k = 0; k < count / width; ++k) {
      const auto pack = reinterpret_cast<const Pack<T>*>(from)[k];
      for (int j = 0; j < width; ++j) to[k * width + j] = pack.at[j];
    }
    return;
  }
  each<count>([&](int k) { to[k] = k < valid ? from[k] : T(0); });
}
template <int count, class T>
__device__ void store(T* to, bool packed, int valid, const T (&from)[count]) {
  constexpr int width = Pack<T>::width;
  if (packed && valid == count && count % width == 0) {
    for (int k = 0; k < count / width; ++k) {
      Pack<T> pack;
      for (int j = 0; j < width; ++j) pack.at[j] = from[k * width + j];
      reinterpret_cast<Pack<T>*>(to)[k] = pack;
    }
    return;
  }
  each<count>([&](int k) {
    if (k < valid) to[k] = from[k];
  });
}

/// bits: of a digit, 0 where there are none. A thread takes `count` elements.
template <int bits>
constexpr int count_of = bits ? 32 / bits : 4;

template <int bits, class Word, class F>
__global__ void shear_words(Index n, Word* x, const F* f, Shear s, bool packed, std::uint32_t* words, ShearSlot* slot) {
  constexpr int count = count_of<bits>;
  unsigned long long hash = 0, worst = 0;
  for (Index w = first(); w * count < n; w += stride()) {
    const Index i = w * count;
    const int valid = static_cast<int>(n - i < count ? n - i : count);
    Word mine[count];
    F add[count];
    load<count>(x + i, packed, valid, mine);
    load<count>(f + i, packed, valid, add);
    std::uint32_t word = 0;
    each<count>([&](int k) {
      if (k >= valid) return;
      hash += share(i + k, static_cast<long long>(mine[k]));
      const auto r = sheared(s, mine[k], static_cast<double>(add[k]), worst);
      if constexpr (bits > 0) word |= static_cast<std::uint32_t>(r) << (k * bits);
    });
    if constexpr (bits > 0) words[w] = word;
    store<count>(x + i, packed, valid, mine);
  }
  join(hash, worst, slot);
}

template <int bits, class Word, class F>
__global__ void unshear_words(Index n, Word* x, const F* f, Shear s, bool packed, const std::uint32_t* words,
                              ShearSlot* slot) {
  constexpr int count = count_of<bits>;
  unsigned long long hash = 0, worst = 0;
  for (Index w = first(); w * count < n; w += stride()) {
    const Index i = w * count;
    const int valid = static_cast<int>(n - i < count ? n - i : count);
    Word mine[count];
    F add[count];
    load<count>(x + i, packed, valid, mine);
    load<count>(f + i, packed, valid, add);
    std::uint32_t word = 0;
    if constexpr (bits > 0) word = words[w];
    each<count>([&](int k) {
      if (k >= valid) return;
      std::int32_t r = 0;
      if constexpr (bits > 0) r = static_cast<std::int32_t>(word >> (k * bits) & ((1u << bits) - 1));
      unsheared(s, mine[k], static_cast<double>(add[k]), r, worst);
      hash += share(i + k, static_cast<long long>(mine[k]));
    });
    store<count>(x + i, packed, valid, mine);
  }
  join(hash, worst, slot);
}

template <class Word, class F>
__global__ void widen(Index n, bool packed, const Word* x, F unit, F* v, bf16* rounded) {
  for (Index i = 4 * first(); i < n; i += 4 * stride()) {
    const int valid = static_cast<int>(n - i < 4 ? n - i : 4);
    Word from[4];
    F to[4];
    load<4>(x + i, packed, valid, from);
    for (int k = 0; k < 4; ++k) to[k] = static_cast<F>(from[k]) * unit;
    store<4>(v + i, packed, valid, to);
    if (!rounded) continue;
    Some<bf16, 4> narrow;
    for (int k = 0; k < 4; ++k) narrow.at[k] = bf16(static_cast<float>(to[k]));
    if (packed && valid == 4) *reinterpret_cast<Some<bf16, 4>*>(rounded + i) = narrow;
    else
      each<4>([&](int k) {
        if (k < valid) rounded[i + k] = narrow.at[k];
      });
  }
}

template <class F>
__global__ void shear_floats(Index n, F* x, const F* f, F by) {
  for (Index i = first(); i < n; i += stride()) x[i] = by * x[i] + f[i];
}
template <class F>
__global__ void unshear_floats(Index n, F* x, const F* f, F by) {
  for (Index i = first(); i < n; i += stride()) x[i] = (x[i] - f[i]) / by;
}

int digit_bits(Lambda lambda) { return lambda.d == 1 ? 0 : lambda.d <= 16 ? 4 : lambda.d <= 256 ? 8 : 16; }

/// Runs pass.operator()<bits>() for the width of the digits.
template <class Pass>
void with_digit_bits(Lambda lambda, const Pass& pass) {
  switch (digit_bits(lambda)) {
    case 0: return pass.template operator()<0>();
    case 4: return pass.template operator()<4>();
    case 8: return pass.template operator()<8>();
    default: return pass.template operator()<16>();
  }
}

}  // namespace

}  // namespace cuda

template <class Word, Backend B>
Index digit_words(B, Index n, Lambda lambda) {
  const int bits = cuda::digit_bits(lambda);
  if (bits == 0) return 0;
  const Index count = 32 / bits;
  return (n + count - 1) / count;
}

template <Backend B, class Word, Real F>
void shear(B, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot) {
  if (n == 0) return;
  const double scale = std::ldexp(1.0, fraction_bits);
  cuda::with_digit_bits(lambda, [&]<int bits>() {
    cuda::launch(cuda::shear_words<bits, Word, F>, cuda::blocks(n, cuda::threads * cuda::count_of<bits>), cuda::threads,
                 0, cuda::stream(), n, x, f, cuda::Shear{lambda.n, lambda.d, scale}, cuda::aligned(x, f), words, slot);
  });
}

template <Backend B, class Word, Real F>
void unshear(B, Index n, Word* x, const F* f, Lambda lambda, int fraction_bits, std::uint32_t* words, ShearSlot* slot) {
  if (n == 0) return;
  const double scale = std::ldexp(1.0, fraction_bits);
  cuda::with_digit_bits(lambda, [&]<int bits>() {
    cuda::launch(cuda::unshear_words<bits, Word, F>, cuda::blocks(n, cuda::threads * cuda::count_of<bits>),
                 cuda::threads, 0, cuda::stream(), n, x, f, cuda::Shear{lambda.n, lambda.d, scale}, cuda::aligned(x, f),
                 static_cast<const std::uint32_t*>(words), slot);
  });
}

template <Backend B, class Word, Real F>
void to_fixed(B, Index n, const F* v, Word* x, int fraction_bits, ShearSlot* slot) {
  Cuda::zero(x, static_cast<std::size_t>(n) * sizeof(Word));
  shear(Cuda{}, n, x, v, Lambda{1, 1}, fraction_bits, nullptr, slot);
}

template <Backend B, class Word, Real F>
void from_fixed(B, Index n, const Word* x, F* v, int fraction_bits, bf16* rounded) {
  const F unit = static_cast<F>(std::ldexp(1.0, -fraction_bits));
  if (n)
    cuda::launch(cuda::widen<Word, F>, cuda::blocks(n, 4 * cuda::threads), cuda::threads, 0, cuda::stream(), n,
                 cuda::aligned(x, v, rounded), x, unit, v, rounded);
}

template <Backend B, Real F>
void shear_rounded(B, Index n, F* x, const F* f, Lambda lambda) {
  if (n)
    cuda::launch(cuda::shear_floats<F>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, x, f,
                 static_cast<F>(lambda.value()));
}
template <Backend B, Real F>
void unshear_rounded(B, Index n, F* x, const F* f, Lambda lambda) {
  if (n)
    cuda::launch(cuda::unshear_floats<F>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, x, f,
                 static_cast<F>(lambda.value()));
}

#define EVERY(Word, F)                                                                          \
  template void shear(Cuda, Index, Word*, const F*, Lambda, int, std::uint32_t*, ShearSlot*);   \
  template void unshear(Cuda, Index, Word*, const F*, Lambda, int, std::uint32_t*, ShearSlot*); \
  template void to_fixed(Cuda, Index, const F*, Word*, int, ShearSlot*);                        \
  template void from_fixed(Cuda, Index, const Word*, F*, int, bf16*);
EVERY(std::int32_t, float)
EVERY(std::int32_t, double)
EVERY(std::int64_t, float)
EVERY(std::int64_t, double)
#undef EVERY
template Index digit_words<std::int32_t>(Cuda, Index, Lambda);
template Index digit_words<std::int64_t>(Cuda, Index, Lambda);
template void shear_rounded(Cuda, Index, float*, const float*, Lambda);
template void shear_rounded(Cuda, Index, double*, const double*, Lambda);
template void unshear_rounded(Cuda, Index, float*, const float*, Lambda);
template void unshear_rounded(Cuda, Index, double*, const double*, Lambda);

}  // namespace meft
