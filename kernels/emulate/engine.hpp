// Owns: running a grid. Threads of a block are fibres on one OS thread, of which each has its own stack only if it
// blocks; blocks are shared among OS threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "device.hpp"

namespace emulate {

struct Grid {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  const void* kernel = nullptr;
  const std::function<void()>* body = nullptr;
};

enum class Fault { none, address, synchronisation, trap };

/// Runs all blocks; at the first fault, stops and writes the message into `text`.
Fault run_grid(const Grid& grid, char* text, std::size_t size);

/// work(i) for each i < count, shared among the OS threads that run blocks where that is worth it, in any order.
void share(std::uint64_t count, bool worth, const std::function<void(std::uint64_t)>& work);

/// "name<…>(…)" of a function of this process, from the symbol table of its file, or its address.
void describe_function(const void* function, char* text, std::size_t size);

}  // namespace emulate
