// Owns: the key of random bits as kernels take it: a recording that is run at a later step draws that step's bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include <meft/base/random.hpp>

namespace meft::cuda {

/// A number on the device: how many steps later than recorded the work that runs is. 0 but while a recording runs.
std::uint32_t* steps_later();

struct MovingKey {
  explicit MovingKey(const Key& of) : key(of), later(steps_later()) {}
  __device__ Key now() const { return {key.seed, key.site, key.step + *later}; }

  Key key;
  const std::uint32_t* later;
};

}  // namespace meft::cuda
