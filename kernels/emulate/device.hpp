// Owns: what a kernel's body sees under emulation: CUDA's keywords, indices, barriers, warp exchanges, atomics and
// arithmetic. Stricter than a device: every thread of a block meets at each barrier, every lane that a mask names
// arrives, and there are no float atomics. Wrong use ends the kernel with a message.
#pragma once

#include <math.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "include/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// Threads of a block are fibres of one OS thread, and these follow each switch.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
inline constexpr int warpSize = 32;

namespace emulate {

struct Place {
  const char* file;
  unsigned line;
};

enum class Meeting : unsigned char { barrier, barrier_count, barrier_and, barrier_or, warp, shuffle, vote };

/// Waits for all threads of the block; for the counting ones, combines `predicate` over them.
int meet_block(Meeting kind, int predicate, Place place);
/// Waits for the lanes of the mask. For a shuffle: the value of lane `source`; for a vote: the lanes with value != 0.
std::uint64_t meet_warp(Meeting kind, unsigned mask, std::uint64_t value, int source, Place place);
/// The lane that a thread has in its warp.
unsigned lane();
void* dynamic_shared();
[[noreturn]] void trap(const char* what, Place place);

template <class T>
concept Exchanged = std::is_trivially_copyable_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <Exchanged T>
T shuffle(unsigned mask, T value, int source, Place place) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet_warp(Meeting::shuffle, mask, bits, source, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
concept Counted = std::is_integral_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

/// Stores `value` if wants(old, value); gives what was there.
template <Counted T, class Wants>
T replace_if(T* at, T value, const Wants& wants) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (wants(old, value) &&
         !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace emulate

// The place of the call, for messages: the last two parameters of each function that waits.
#define EMULATE_PLACE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()

inline void __syncthreads(EMULATE_PLACE) { emulate::meet_block(emulate::Meeting::barrier, 0, {file, line}); }
inline int __syncthreads_count(int predicate, EMULATE_PLACE) {
  return emulate::meet_block(emulate::Meeting::barrier_count, predicate, {file, line});
}
inline int __syncthreads_and(int predicate, EMULATE_PLACE) {
  return emulate::meet_block(emulate::Meeting::barrier_and, predicate, {file, line});
}
inline int __syncthreads_or(int predicate, EMULATE_PLACE) {
  return emulate::meet_block(emulate::Meeting::barrier_or, predicate, {file, line});
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMULATE_PLACE) {
  emulate::meet_warp(emulate::Meeting::warp, mask, 0, 0, {file, line});
}

// Shuffles. A lane whose source falls outside its segment of `width` lanes gets its own value.
template <emulate::Exchanged T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, EMULATE_PLACE) {
  const int first = static_cast<int>(emulate::lane()) & ~(width - 1);
  return emulate::shuffle(mask, value, first | (source & (width - 1)), {file, line});
}
template <emulate::Exchanged T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATE_PLACE) {
  const int own = static_cast<int>(emulate::lane()), first = own & ~(width - 1), from = own - static_cast<int>(delta);
  return emulate::shuffle(mask, value, from >= first ? from : own, {file, line});
}
template <emulate::Exchanged T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATE_PLACE) {
  const int own = static_cast<int>(emulate::lane()), last = own | (width - 1), from = own + static_cast<int>(delta);
  return emulate::shuffle(mask, value, from <= last ? from : own, {file, line});
}
template <emulate::Exchanged T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, EMULATE_PLACE) {
  const int own = static_cast<int>(emulate::lane()), last = own | (width - 1), from = own ^ bits;
  return emulate::shuffle(mask, value, from <= last ? from : own, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATE_PLACE) {
  return static_cast<unsigned>(emulate::meet_warp(emulate::Meeting::vote, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, EMULATE_PLACE) {
  return emulate::meet_warp(emulate::Meeting::vote, mask, predicate != 0, 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATE_PLACE) {
  return emulate::meet_warp(emulate::Meeting::vote, mask, predicate != 0, 0, {file, line}) == mask;
}

[[noreturn]] inline void __trap(EMULATE_PLACE) { emulate::trap("__trap()", {file, line}); }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Atomics on integers. Those on floats depend on the order and so are absent.
template <emulate::Counted T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicAnd(T* at, std::type_identity_t<T> value) {
  return __atomic_fetch_and(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicXor(T* at, std::type_identity_t<T> value) {
  return __atomic_fetch_xor(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <emulate::Counted T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return emulate::replace_if(at, value, [](T old, T x) { return old < x; });
}
template <emulate::Counted T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return emulate::replace_if(at, value, [](T old, T x) { return x < old; });
}

// Loads and stores with a cache hint.
template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, T value) {
  *at = value;
}

// Bits.
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(std::uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(std::int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// Arithmetic that the compiler must not contract.
inline float __fmul_rn(float a, float b) {
  volatile float c = a * b;
  return c;
}
inline float __fadd_rn(float a, float b) {
  volatile float c = a + b;
  return c;
}
inline float __fsub_rn(float a, float b) {
  volatile float c = a - b;
  return c;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dmul_rn(double a, double b) {
  volatile double c = a * b;
  return c;
}
inline double __dadd_rn(double a, double b) {
  volatile double c = a + b;
  return c;
}
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline long long __float2ll_rn(float x) { return static_cast<long long>(nearbyintf(x)); }
inline long long __double2ll_rn(double x) { return static_cast<long long>(nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

constexpr int min(int a, int b) { return b < a ? b : a; }
constexpr int max(int a, int b) { return a < b ? b : a; }
constexpr unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
constexpr unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
constexpr long min(long a, long b) { return b < a ? b : a; }
constexpr long max(long a, long b) { return a < b ? b : a; }
constexpr unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
constexpr unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
constexpr long long min(long long a, long long b) { return b < a ? b : a; }
constexpr long long max(long long a, long long b) { return a < b ? b : a; }
constexpr unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
constexpr unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
