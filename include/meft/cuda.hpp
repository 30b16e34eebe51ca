// Owns: nothing. The Cuda backend with all its kernels, for programs that link meft::cuda; include it beside meft.hpp.
#pragma once

#include <meft/backend/cuda/attention.hpp>
#include <meft/backend/cuda/cuda.hpp>
#include <meft/backend/cuda/dropout.hpp>
#include <meft/backend/cuda/gemm.hpp>
#include <meft/backend/cuda/loss.hpp>
#include <meft/backend/cuda/map.hpp>
#include <meft/backend/cuda/optimize.hpp>
#include <meft/backend/cuda/panels.hpp>
#include <meft/backend/cuda/permute.hpp>
#include <meft/backend/cuda/random.hpp>
#include <meft/backend/cuda/reduce.hpp>
#include <meft/backend/cuda/rows.hpp>
#include <meft/backend/cuda/shear.hpp>
