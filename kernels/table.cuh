// Owns: the declaration of tables: numbers that the host works out and kernels read.
#pragma once

#include <cstddef>

#include <meft/memory/buffer.hpp>

namespace meft::cuda {

/// The bytes on the device. A small table that was asked for lately is there already: the layers of a step ask for the
/// same ones. Nobody may write to it.
Buffer table(const void* data, std::size_t bytes);

}  // namespace meft::cuda
