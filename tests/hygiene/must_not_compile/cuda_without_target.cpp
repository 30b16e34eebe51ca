// expect: needs the target meft::cuda
#ifdef OK
#define MEFT_CUDA  // which the target defines
#endif
#include <meft/cuda.hpp>

meft::Pool& pool() { return meft::Cuda::pool(); }
