// Owns: the umbrella: tensors, tape, ops, reversible stacks, layers, methods, optimizers. Models, tokenizers, data and the
// trainer are included by name: <meft/model/bert.hpp>, <meft/checkpoints/hf.hpp>, <meft/optim/spsa.hpp> … Never included
// inside the library.
#pragma once

#include <meft/base/random.hpp>
#include <meft/method/registry.hpp>
#include <meft/nn/classifier.hpp>
#include <meft/ops/loss.hpp>
#include <meft/ops/matmul.hpp>
#include <meft/ops/reduce.hpp>
#include <meft/ops/shape.hpp>
#include <meft/ops/softmax.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/optim/schedule.hpp>
