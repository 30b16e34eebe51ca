// Owns: the constant right operand of products on CUDA, in float or bf16: it is kept row-major, for cuBLASLt packs as
// it goes.
#pragma once

#include <cstdint>
#include <optional>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/panels.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

template <Real T>
class Panels<Cuda, T> {
 public:
  Panels() = default;
  Panels(const T* w, Index out, Index in, Precision precision);

  Precision precision() const { return precision_; }
  std::size_t bytes() const { return buffer_.capacity(); }

  void forward(const Product<T>& p) const;
  bool forward_activated(Activation f, const Product<T>& p, T* before) const;
  void backward(const Product<T>& p) const;
  void unpack(T* w) const;
  void write(Index n, const std::int32_t* indices, const T* v) const;

 private:
  using Then = std::optional<Activation>;
  bool multiply(const Product<T>& p, Index row, Index column, Then f = {}, T* before = nullptr) const;

  Buffer buffer_;
  Index out_ = 0, in_ = 0;
  Precision precision_ = Precision::f32;
};

}  // namespace meft
