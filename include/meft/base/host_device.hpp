// Owns: the mark of small functions that CPU loops inline and kernels of a device call.
#pragma once

#if defined(__CUDACC__)
#define MEFT_HD __host__ __device__ inline
#elif defined(__GNUC__) || defined(__clang__)
#define MEFT_HD [[gnu::always_inline]] inline
#else
#define MEFT_HD inline
#endif
