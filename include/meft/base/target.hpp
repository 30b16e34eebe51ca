// Owns: choosing an instruction set at run time. A loop body written once is compiled for the base target and again
// for AVX2+FMA (x86-64); the processor decides. A binary built without -march=native is as fast.
#pragma once

#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__)
#define MEFT_X86 1
#else
#define MEFT_X86 0
#endif

namespace meft {

#if MEFT_X86
/// True when the processor has AVX2 and FMA, and the environment variable MEFT_ISA does not say `portable`.
inline bool has_avx2() {
  static const bool value = [] {
    const char* isa = std::getenv("MEFT_ISA");
    return !(isa && std::strcmp(isa, "portable") == 0) && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma");
  }();
  return value;
}

namespace detail {
template <class Body>
__attribute__((target("avx2,fma"), noinline)) void run_avx2(const Body& body) {
  body();
}
/// For x86-64 processors older than 2013: compiled for size, to compile fast.
template <class Body>
[[gnu::cold, gnu::noinline]] void run_portable(const Body& body) {
  body();
}
}  // namespace detail
#else
inline bool has_avx2() { return false; }
namespace detail {
template <class Body>
void run_portable(const Body& body) {
  body();
}
}  // namespace detail
#endif

/// Runs `body`, a lambda declared `[&]() MEFT_INLINE { … }`, compiled for the best target the processor has.
template <class Body>
void vectorised(const Body& body) {
#if MEFT_X86
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
