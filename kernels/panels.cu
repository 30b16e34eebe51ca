// Owns: products with a constant right operand: include/meft/backend/cuda/panels.hpp. In bf16 the weight is kept so,
// and the left operand is rounded on the way; in double both are rounded but kept in double.
#include <convert.cuh>
#include <gemm.cuh>
#include <type_traits>

#include <meft/backend/cuda/panels.hpp>
#include <meft/backend/kernels/gemm.hpp>

namespace meft {

namespace cuda {

namespace {

/// What a bf16 operand is kept in.
template <class T>
using Kept = std::conditional_t<sizeof(T) == 4, bf16, T>;

template <class T>
__global__ void write_at(Index n, const std::int32_t* indices, const T* v, T* w) {
  for (Index m = first(); m < n; m += stride()) w[indices ? indices[m] : m] = v[m];
}
/// The same, rounded to bf16.
template <class K, class T>
__global__ void write_rounded(Index n, const std::int32_t* indices, const T* v, K* w) {
  for (Index m = first(); m < n; m += stride())
    w[indices ? indices[m] : m] = static_cast<K>(static_cast<float>(bf16(static_cast<float>(v[m]))));
}

}  // namespace

}  // namespace cuda

template <Real T>
Panels<Cuda, T>::Panels(const T* w, Index out, Index in, Precision precision)
    : out_(out), in_(in), precision_(precision) {
  const UseScope use(Use::parameter);
  const bool narrow = precision == Precision::bf16;
  buffer_ = Buffer(Cuda::pool(), static_cast<std::size_t>(out * in) * (narrow ? sizeof(cuda::Kept<T>) : sizeof(T)));
  if (narrow) cuda::round_to(out * in, w, static_cast<cuda::Kept<T>*>(buffer_.data()));
  else Cuda::copy(buffer_.data(), w, static_cast<std::size_t>(out * in) * sizeof(T));
}

template <Real T>
bool Panels<Cuda, T>::multiply(const Product<T>& p, Index row, Index column, Then f, T* before) const {
  if (precision_ == Precision::f32) {
    const Strided<T> w{static_cast<const T*>(buffer_.data()), row, column};
    if (f) return gemm_activated(Cuda{}, *f, p, w, before);
    gemm(Cuda{}, p, w);
    return true;
  }
  const auto epilogue = f ? cuda::epilogue_for(*f) : cuda::Epilogue::none;
  if (f && (epilogue == cuda::Epilogue::none || sizeof(T) == 8)) return false;
  using Kept = cuda::Kept<T>;
  require(p.a.column == 1 && p.a.row == p.depth, "packed product: the left operand's rows do not follow each other",
          p.a.row, p.a.column);
  const UseScope use(Use::workspace);
  const Buffer left(Cuda::pool(), static_cast<std::size_t>(p.rows * p.depth) * sizeof(Kept));
  auto* const rounded = static_cast<Kept*>(left.data());
  cuda::round_to(p.rows * p.depth, p.a.data, rounded);
  const Strided<Kept> a{rounded, p.depth, 1}, w{static_cast<const Kept*>(buffer_.data()), row, column};
  if constexpr (std::is_same_v<Kept, T>) {
    auto q = p;
    q.a = a;
    gemm(Cuda{}, q, w);
  } else if (p.rows && p.columns && p.depth)
    return cuda::multiply(cuda::Multiplication{CUDA_R_16BF, CUDA_R_32F, p.rows, p.columns, p.depth, cuda::bytes_of(a),
                                               cuda::bytes_of(w), p.c, p.ldc, p.start == Start::accumulate,
                                               p.start == Start::bias ? p.bias : nullptr, 1, epilogue, before});
  return !f;
}

template <Real T>
void Panels<Cuda, T>::forward(const Product<T>& p) const {
  multiply(p, 1, in_);
}
template <Real T>
bool Panels<Cuda, T>::forward_activated(Activation f, const Product<T>& p, T* before) const {
  return multiply(p, 1, in_, f, before);
}
template <Real T>
void Panels<Cuda, T>::backward(const Product<T>& p) const {
  multiply(p, in_, 1);
}

template <Real T>
void Panels<Cuda, T>::unpack(T* w) const {
  const Index n = out_ * in_;
  if (n == 0) return;
  if constexpr (sizeof(T) == 4)
    if (precision_ == Precision::bf16) return cuda::round_to(n, static_cast<const bf16*>(buffer_.data()), w);
  Cuda::copy(w, buffer_.data(), static_cast<std::size_t>(n) * sizeof(T));
}

template <Real T>
void Panels<Cuda, T>::write(Index n, const std::int32_t* indices, const T* v) const {
  if (n == 0) return;
  using Kept = cuda::Kept<T>;
  const unsigned grid = cuda::blocks(n);
  if (precision_ == Precision::bf16)
    cuda::launch(cuda::write_rounded<Kept, T>, grid, cuda::threads, 0, cuda::stream(), n, indices, v,
                 static_cast<Kept*>(buffer_.data()));
  else
    cuda::launch(cuda::write_at<T>, grid, cuda::threads, 0, cuda::stream(), n, indices, v,
                 static_cast<T*>(buffer_.data()));
}

template class Panels<Cuda, float>;
template class Panels<Cuda, double>;

}  // namespace meft
