// Owns: rates in GFLOP/s: how they are taken, and the processor's name and peak in float. Must not know: tensors,
// flags, tables.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#include <meft/base/parallel.hpp>
#include <meft/base/target.hpp>

namespace bench {

inline double mib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

/// Seconds on a clock that never goes back.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

/// GFLOP/s of the fastest of `runs` calls of f, after one that is not counted.
template <class F>
double rate(double operations, int runs, const F& f) {
  f();
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < runs; ++i) {
    const double start = now();
    f();
    least = std::min(least, now() - start);
  }
  return operations / least * 1e-9;
}

namespace detail {

constexpr int chains = 12;  // enough to fill two units of latency 4, few enough for 16 registers

// float NAME(rounds, a, b): x ← a·x + b on independent vectors that never leave the registers. A macro, since a
// template's instances cannot differ in their target.
#define MEFT_BENCH_CHAINS(NAME, BYTES, TARGET)                                               \
  TARGET inline float NAME(std::int64_t rounds, float a, float b) {                          \
    typedef float Vector __attribute__((vector_size(BYTES)));                                \
    const Vector scale = Vector{} + a, shift = Vector{} + b;                                 \
    Vector x[chains];                                                                        \
    _Pragma("GCC unroll 12") for (int i = 0; i < chains; ++i) x[i] = shift * float(i);       \
    for (std::int64_t r = 0; r < rounds; ++r)                                                \
      _Pragma("GCC unroll 12") for (int i = 0; i < chains; ++i) x[i] = scale * x[i] + shift; \
    _Pragma("GCC unroll 12") for (int i = 1; i < chains; ++i) x[0] += x[i];                  \
    float sum = 0;                                                                           \
    for (unsigned i = 0; i < BYTES / sizeof(float); ++i) sum += x[0][i];                     \
    return sum;                                                                              \
  }
MEFT_BENCH_CHAINS(chains_portable, 16, )
#if MEFT_X86
MEFT_BENCH_CHAINS(chains_avx2, 32, __attribute__((target("avx2,fma"))))
MEFT_BENCH_CHAINS(chains_avx512, 64, __attribute__((target("avx512f"))))
#endif
#undef MEFT_BENCH_CHAINS

}  // namespace detail

/// What every thread together can multiply and add in registers.
struct Peak {
  double rate = 0;        // GFLOP/s, float
  const char* with = "";  // instruction set
};

inline Peak peak(int runs = 50) {
  auto chains = detail::chains_portable;
  int width = 4;
  Peak out{0, "portable"};
#if MEFT_X86
  if (__builtin_cpu_supports("avx512f")) {
    chains = detail::chains_avx512, width = 16, out.with = "AVX-512";
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    chains = detail::chains_avx2, width = 8, out.with = "AVX2";
  }
#endif
  constexpr std::int64_t rounds = 1 << 16;
  const std::int64_t tasks = 32 * meft::threads();
  std::atomic<float> sink;
  out.rate = rate(2.0 * detail::chains * width * static_cast<double>(rounds * tasks), runs,
                  [&] { meft::parallel_for(tasks, [&](std::int64_t) { sink = chains(rounds, 0.99f, 0.01f); }); });
  return out;
}

}  // namespace bench
