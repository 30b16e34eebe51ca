// Owns: the umbrella: tensors, tape, ops, reversible stacks, layers, AdamW. Models, methods, tokenizers, data and the
// trainer are included by name: <meft/model/bert.hpp>, <meft/method/registry.hpp>, <meft/checkpoints/hf.hpp> … Never
// included inside the library.
#pragma once

#include <meft/base/random.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/nn/transformer.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/attention.hpp>
#include <meft/ops/bottleneck.hpp>
#include <meft/ops/checkpoint.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/feed_forward.hpp>
#include <meft/ops/gated.hpp>
#include <meft/ops/host_feed_forward.hpp>
#include <meft/ops/host_gated.hpp>
#include <meft/ops/language.hpp>
#include <meft/ops/linear.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/narrow_linear.hpp>
#include <meft/ops/norm.hpp>
#include <meft/ops/pooling.hpp>
#include <meft/ops/prefix_attention.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/relu_attention.hpp>
#include <meft/ops/residual.hpp>
#include <meft/ops/rotary.hpp>
#include <meft/ops/scaled_activation.hpp>
#include <meft/ops/shape.hpp>
#include <meft/ops/softmax.hpp>
#include <meft/ops/sparse_linear.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/optim/schedule.hpp>
#include <meft/reversible/scheme.hpp>
#include <meft/reversible/stack.hpp>
