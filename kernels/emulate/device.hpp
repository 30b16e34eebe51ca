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

enum class Meeting : unsigned char {
  barrier,
  barrier_count,
  barrier_and,
  barrier_or,
  warp,
  shuffle,
  vote,
  multiply,
  load
};

/// Waits for all threads of the block; for the counting ones, combines `predicate` over them.
int meet_block(Meeting kind, int predicate, Place place);
/// Waits for the lanes of the mask. For a shuffle: the value of lane `source`; for a vote: the lanes with value != 0;
/// for matrices, done of all lanes by the last that comes: what `value` points to, a Multiply or a Load.
std::uint64_t meet_warp(Meeting kind, unsigned mask, std::uint64_t value, int source, Place place);
/// The lane that a thread has in its warp.
unsigned lane();
void* dynamic_shared();

/// A lane's part of mma.m16n8k16 of bf16, which adds a·b to c, and of ldmatrix.x4: its place in one of four 8×8
/// matrices.
struct Multiply {
  float* c;                    // 4
  const std::uint32_t *a, *b;  // 4, 2
};
struct Load {
  const void* row;    // of matrix lane / 8, row lane % 8
  std::uint32_t* to;  // 4
  bool turned;        // .trans
};
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

// Matrices in the registers of a warp.
namespace emulate {
inline void multiply(Multiply part, EMULATE_PLACE) {
  meet_warp(Meeting::multiply, 0xFFFFFFFFu, reinterpret_cast<std::uintptr_t>(&part), 0, {file, line});
}
inline void load(Load part, EMULATE_PLACE) {
  meet_warp(Meeting::load, 0xFFFFFFFFu, reinterpret_cast<std::uintptr_t>(&part), 0, {file, line});
}
}  // namespace emulate

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

// Atomics on integers. Those on floats depend on the order and so are absent.
template <emulate::Counted T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <emulate::Counted T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return emulate::replace_if(at, value, [](T old, T x) { return old < x; });
}
template <emulate::Counted T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return emulate::replace_if(at, value, [](T old, T x) { return x < old; });
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
