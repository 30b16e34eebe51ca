// Owns: the constant right operand of products on CUDA: in float or bf16 row-major, for cuBLASLt packs as it goes; or
// in blocks, of which a panel of rows is decoded to bf16 at a time.
#pragma once

#include <cstdint>
#include <optional>

#include <meft/backend/blocks.hpp>
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/panels.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

namespace cuda {

/// Numbers of a matrix in blocks that are decoded for a product at a time: 16 MiB of bf16. Tests have fewer.
inline Index most_decoded = Index{8} << 20;
/// Products that end in more than a sum are planned for numbers of rows that are multiples of this alone, so that
/// ragged batches do not wait for a new plan at each step. Tests have fewer.
inline Index rows_together = 512;

namespace fused {
enum class End;
}

}  // namespace cuda

template <Real T>
class Panels<Cuda, T> {
 public:
  Panels() = default;
  Panels(const T* w, Index out, Index in, Precision precision);
  /// W in its blocks, which are copied.
  Panels(const Blocks& blocks, Precision precision);

  Precision precision() const { return precision_; }
  std::size_t bytes() const { return buffer_.capacity(); }

  void forward(const Product<T>& p) const;
  bool forward_activated(Activation f, const Product<T>& p, T* before) const;
  void backward(const Product<T>& p) const;
  bool forward_rounded(const Product<T>& p) const;
  bool activated(Activation f, const Product<T>& p, T* before) const;
  bool slope(Activation f, const Product<T>& p, const void* kept) const;
  void unpack(T* w) const;
  void rows(Index n, const std::int32_t* numbers, T* y) const;
  void write(Index n, const std::int32_t* indices, const T* v) const;

 private:
  using Then = std::optional<Activation>;
  bool multiply(const Product<T>& p, bool transposed, Then f = {}, T* before = nullptr) const;
  /// To a rounded C, by kernels that do what follows the product; false, with nothing done, where there is none.
  bool multiply_ended(const Product<T>& p, cuda::fused::End end, Activation f = {}, void* before = nullptr) const;
  /// to[count, in] ← rows of W by their numbers, or from `first` on, as they are multiplied with.
  template <class To>
  void decode(Index first, Index count, const std::int32_t* numbers, To* to) const;

  Buffer buffer_;
  const weights::Format* format_ = nullptr;  // of the blocks, where W is in such
  Index out_ = 0, in_ = 0;
  Precision precision_ = Precision::f32;
};

}  // namespace meft
