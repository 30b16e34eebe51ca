// Owns: nothing. Every kernel of the CPU: what backend/kernels/ declares.
#pragma once

#include <meft/backend/cpu/attention.hpp>
#include <meft/backend/cpu/bf16.hpp>
#include <meft/backend/cpu/bottleneck.hpp>
#include <meft/backend/cpu/dropout.hpp>
#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/loss.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/norm.hpp>
#include <meft/backend/cpu/optimize.hpp>
#include <meft/backend/cpu/panels.hpp>
#include <meft/backend/cpu/permute.hpp>
#include <meft/backend/cpu/random.hpp>
#include <meft/backend/cpu/reduce.hpp>
#include <meft/backend/cpu/relu_attention.hpp>
#include <meft/backend/cpu/rotary.hpp>
#include <meft/backend/cpu/rows.hpp>
#include <meft/backend/cpu/sampled.hpp>
#include <meft/backend/cpu/shear.hpp>
#include <meft/backend/cpu/softmax.hpp>
