// Owns: a small value that the kernels of one call work out and the host then reads.
#pragma once

#include <meft/backend/cuda/tag.hpp>
#include <meft/memory/buffer.hpp>
#include <stream.cuh>
#include <type_traits>

namespace meft::cuda {

/// One T on the device, every byte of it `fill` at first.
template <class T>
requires std::is_trivially_copyable_v<T>
class Result {
 public:
  explicit Result(int fill) : buffer_(taken()) {
    check(cudaMemsetAsync(buffer_.data(), fill, sizeof(T), stream()), "cudaMemsetAsync");
  }
  T* device() const { return static_cast<T*>(buffer_.data()); }
  /// Waits for the kernels.
  T read() const {
    T out;
    Cuda::download(&out, buffer_.data(), sizeof(T));
    return out;
  }

 private:
  static Buffer taken() {
    const UseScope use(Use::workspace);
    return Buffer(Cuda::pool(), sizeof(T));
  }
  Buffer buffer_;
};

}  // namespace meft::cuda
