// Owns: nothing. The Cuda backend with what its kernels offer, for programs that link meft::cuda; include it beside
// meft.hpp.
#pragma once

#include <meft/backend/cuda/ahead.hpp>
#include <meft/backend/cuda/panels.hpp>
#include <meft/backend/cuda/recording.hpp>
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/attention.hpp>
#include <meft/backend/kernels/bf16.hpp>
#include <meft/backend/kernels/bottleneck.hpp>
#include <meft/backend/kernels/dropout.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/backend/kernels/loss.hpp>
#include <meft/backend/kernels/map.hpp>
#include <meft/backend/kernels/norm.hpp>
#include <meft/backend/kernels/optimize.hpp>
#include <meft/backend/kernels/panels.hpp>
#include <meft/backend/kernels/permute.hpp>
#include <meft/backend/kernels/random.hpp>
#include <meft/backend/kernels/reduce.hpp>
#include <meft/backend/kernels/relu_attention.hpp>
#include <meft/backend/kernels/rotary.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <meft/backend/kernels/sampled.hpp>
#include <meft/backend/kernels/shear.hpp>
#include <meft/backend/kernels/softmax.hpp>
