// Owns: nothing. The declarations of every kernel of the Cuda backend.
#pragma once

#include <meft/backend/cuda/ahead.hpp>
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
#include <meft/backend/cuda/recording.hpp>
#include <meft/backend/cuda/reduce.hpp>
#include <meft/backend/cuda/relu_attention.hpp>
#include <meft/backend/cuda/residual.hpp>
#include <meft/backend/cuda/rotary.hpp>
#include <meft/backend/cuda/rows.hpp>
#include <meft/backend/cuda/shear.hpp>
