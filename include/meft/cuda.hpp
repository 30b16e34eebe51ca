// Owns: nothing. The Cuda backend with all its kernels, for programs that link meft::cuda; include it beside meft.hpp.
#pragma once

#include <meft/backend/cuda/kernels.hpp>
