// Owns: choosing an instruction set at run time. A loop body written once is compiled for the base target and again
// for AVX2+FMA (x86-64); the processor decides. A binary built without -march=native is as fast.
#pragma once

#include <cstdlib>
#include <cstring>

#include <meft/base/error.hpp>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__)
#define MEFT_X86 1
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#else
#define MEFT_X86 0
#endif

namespace meft {

/// Instruction sets with code of their own, each includes the ones before it. avx2 comes with FMA, avx512 with F, BW,
/// DQ and VL, amx is AMX-BF16.
enum class Isa { portable, avx2, avx512, avx512_bf16, amx };

#if MEFT_X86
namespace detail {
/// True where the processor has AMX-BF16 and Linux lends this process the tile registers, for which it must be asked
/// (Documentation/arch/x86/xstate.rst).
inline bool amx_granted() {
#ifdef SYS_arch_prctl
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;     // of EDX in leaf 7
  constexpr long request_permission = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & bf16) && (d & tile) &&
         syscall(SYS_arch_prctl, request_permission, tiles) == 0;
#else
  return false;
#endif
}
}  // namespace detail
#endif

/// The names of instruction sets, by their numbers.
inline constexpr const char* isa_names[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

/// The best that the processor has, or less where the environment variable MEFT_ISA names less. Throws when it names
/// none.
[[gnu::noinline]] inline Isa isa() {
  static const Isa value = [] {
    const char* name = std::getenv("MEFT_ISA");
    int most = static_cast<int>(Isa::amx);
    if (name && *name) {
      while (most >= 0 && std::strcmp(name, isa_names[most])) --most;
      require(most >= 0, "MEFT_ISA: expected portable, avx2, avx512, avx512_bf16 or amx, found", name);
    }
#if MEFT_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool dot = avx512 && __builtin_cpu_supports("avx512bf16");
    const Isa best = dot && detail::amx_granted() ? Isa::amx
                     : dot                        ? Isa::avx512_bf16
                     : avx512                     ? Isa::avx512
                     : avx2                       ? Isa::avx2
                                                  : Isa::portable;
    return static_cast<Isa>(most) < best ? static_cast<Isa>(most) : best;
#else
    return Isa::portable;
#endif
  }();
  return value;
}
/// As MEFT_ISA calls it. Results have the same bits on machines that use the same one.
inline const char* name_of(Isa isa) { return isa_names[static_cast<int>(isa)]; }
inline bool has_avx2() { return isa() >= Isa::avx2; }

#if MEFT_X86
namespace detail {
template <class Body>
__attribute__((target("avx2,fma"), noinline)) void run_avx2(const Body& body) {
  body();
}
template <class Body>
#ifdef __clang__
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"), noinline))
#else  // which would halve vectors of 64 bytes
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"), noinline))
#endif
void run_avx512(const Body& body) {
  body();
}
/// For x86-64 processors older than 2013: compiled for size, to compile fast.
template <class Body>
[[gnu::cold, gnu::noinline]] void run_portable(const Body& body) {
  body();
}
}  // namespace detail
#else
namespace detail {
template <class Body>
void run_portable(const Body& body) {
  body();
}
}  // namespace detail
#endif

/// Runs `body`, a lambda declared `[&]() MEFT_INLINE { … }`, compiled for the best target the processor has, up to
/// `Most`: avx512 pays where a loop has long arithmetic, of which the processor then has more in flight.
template <Isa Most = Isa::avx2, class Body>
void vectorised(const Body& body) {
#if MEFT_X86
  if constexpr (Most >= Isa::avx512)
    if (isa() >= Isa::avx512) return detail::run_avx512(body);
  if (has_avx2()) return detail::run_avx2(body);
#endif
  detail::run_portable(body);
}

}  // namespace meft

#if defined(__GNUC__) || defined(__clang__)
#define MEFT_INLINE __attribute__((always_inline))
#else
#define MEFT_INLINE
#endif

/// for (int j = 0; j < width; ++j), a loop of a fixed width that is to become vectors: g++ would unroll it before it
/// looks for them.
#if defined(__GNUC__) && !defined(__clang__)
#define MEFT_LANES(j, width) _Pragma("GCC unroll 1") for (int j = 0; j < (width); ++j)
#else
#define MEFT_LANES(j, width) for (int j = 0; j < (width); ++j)
#endif
