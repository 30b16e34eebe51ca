// Owns: strided copies on the CPU.
#pragma once

#include <cstring>

#include <meft/backend/cpu/cpu.hpp>
#include <meft/base/shape.hpp>

namespace meft {

/// Copies a [rows, columns] block between row strides.
template <class T>
void copy_columns(Cpu, Index rows, Index columns, const T* from, Index from_row, T* to, Index to_row) {
  for (Index i = 0; i < rows; ++i)
    Cpu::copy(to + i * to_row, from + i * from_row, static_cast<std::size_t>(columns) * sizeof(T));
}

}  // namespace meft
