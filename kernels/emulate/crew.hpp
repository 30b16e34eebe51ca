// Owns: the OS threads that share a kernel's blocks. Not base/parallel.hpp's, which do not survive a fork: tests of
// faults fork.
#pragma once

#include <functional>

namespace emulate {

/// Runs `job` on the caller and on every other worker at once; on the caller alone where there is one (see
/// set_workers).
void on_each_worker(const std::function<void()>& job);

}  // namespace emulate
