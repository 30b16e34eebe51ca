// Owns: products with a constant right operand: include/meft/backend/cuda/panels.hpp. In bf16 the weight is kept so,
// and the left operand is rounded on the way; in double both are rounded but kept in double. Of blocks a panel of rows
// is decoded, multiplied with and overwritten by the next.
#include <algorithm>
#include <blocks.cuh>
#include <convert.cuh>
#include <fused_product.hpp>
#include <gemm.cuh>
#include <type_traits>

#include <meft/backend/cuda/panels.hpp>
#include <meft/backend/kernels/gemm.hpp>
#include <meft/backend/kernels/rows.hpp>
#include <vector>

namespace meft {

namespace cuda {

namespace {

/// What a bf16 operand is kept in.
template <class T>
using Kept = std::conditional_t<sizeof(T) == 4, bf16, T>;

/// y[m] = row numbers[m] of w, [rows, in]; a block a row.
template <class K, class T>
__global__ void read_rows(Index count, Index in, const K* w, const std::int32_t* numbers, T* y) {
  for (Index m = blockIdx.x; m < count; m += gridDim.x)
    for (Index j = threadIdx.x; j < in; j += blockDim.x) y[m * in + j] = static_cast<T>(w[numbers[m] * in + j]);
}

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
Panels<Cuda, T>::Panels(const Blocks& w, Precision precision)
    : format_(w.format), out_(w.out), in_(w.in), precision_(precision) {
  const UseScope use(Use::parameter);
  buffer_ = Buffer(Cuda::pool(), w.bytes());
  auto* const to = static_cast<std::byte*>(buffer_.data());
  if (!w.heads) {
    Cuda::upload(to, w.data, w.bytes());
    return;
  }
  const Index some = std::max<Index>(1, (Index{1} << 20) / static_cast<Index>(w.row_bytes()));
  std::vector<std::byte> rows;  // in order
  for (Index i = 0; i < out_; i += some) {
    rows.clear();
    for (Index r = i; r < std::min(i + some, out_); ++r) rows.insert(rows.end(), w.row(r), w.row(r) + w.row_bytes());
    Cuda::upload(to + static_cast<std::size_t>(i) * w.row_bytes(), rows.data(), rows.size());
  }
}

template <Real T>
template <class To>
void Panels<Cuda, T>::decode(Index first, Index count, const std::int32_t* numbers, To* to) const {
  const auto row_bytes = static_cast<Index>(format_->row_bytes(static_cast<std::size_t>(in_)));
  cuda::decode_blocks(weights::Every{}, format_->dtype, count, in_, row_bytes,
                      static_cast<const std::byte*>(buffer_.data()) + first * row_bytes, numbers, to);
}

template <Real T>
bool Panels<Cuda, T>::multiply(const Product<T>& p, bool transposed, Then f, T* before) const {
  const Index row = transposed ? in_ : 1, column = transposed ? 1 : in_;
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
  Buffer left;
  const Kept* rounded = nullptr;
  if constexpr (std::is_same_v<Kept, bf16>) rounded = p.rounded;
  if (!rounded) {
    left = Buffer(Cuda::pool(), static_cast<std::size_t>(p.rows * p.depth) * sizeof(Kept));
    auto* const to = static_cast<Kept*>(left.data());
    cuda::round_to(p.rows * p.depth, p.a.data, to);
    rounded = to;
  }
  const auto product = [&](const Product<T>& q, Strided<Kept> a, const Kept* weight, T* argument) {
    const Strided<Kept> w{weight, row, column};
    if constexpr (std::is_same_v<Kept, T>) {
      auto own = q;
      own.a = a;
      gemm(Cuda{}, own, w);
    } else if (q.rows && q.columns && q.depth)
      return cuda::multiply(cuda::Multiplication{
          CUDA_R_16BF, q.rounded_c ? CUDA_R_16BF : CUDA_R_32F, q.rows, q.columns, q.depth, cuda::bytes_of(a),
          cuda::bytes_of(w), q.rounded_c ? static_cast<void*>(q.rounded_c) : q.c, q.ldc, q.start == Start::accumulate,
          q.start == Start::bias ? q.bias : nullptr, 1, epilogue, argument});
    return !f;
  };
  const Strided<Kept> a{rounded, p.depth, 1};
  if (!format_) return product(p, a, static_cast<const Kept*>(buffer_.data()), before);

  if (p.rounded_c) {  // panels are added up in float
    const Buffer sums(Cuda::pool(), static_cast<std::size_t>(p.rows * p.columns) * sizeof(float));
    auto q = p;
    q.c = static_cast<T*>(sums.data()), q.rounded_c = nullptr;
    multiply(q, transposed);
    cuda::round_to(p.rows * p.columns, static_cast<const T*>(q.c), p.rounded_c);
    return true;
  }
  const Index each = std::min(out_, std::max<Index>(16, cuda::most_decoded / in_ / 16 * 16));
  const Buffer panel(Cuda::pool(), static_cast<std::size_t>(each * in_) * sizeof(Kept));
  auto* const decoded = static_cast<Kept*>(panel.data());
  for (Index i = 0; i < out_; i += each) {
    const Index count = std::min(each, out_ - i);
    decode(i, count, nullptr, decoded);
    auto q = p;
    if (transposed) {
      q.depth = count;
      if (i) q.start = Start::accumulate;
      product(q, a.at(0, i), decoded, nullptr);
    } else {
      q.columns = count, q.c += i;
      if (q.bias) q.bias += i;
      if (!product(q, a, decoded, before ? before + i : nullptr)) return false;
    }
  }
  return true;
}

template <Real T>
bool Panels<Cuda, T>::multiply_ended(const Product<T>& p, cuda::fused::End end, Activation f, void* before) const {
  if (sizeof(T) != 4 || precision_ != Precision::bf16 || format_ || !p.rounded || !p.rounded_c) return false;
  const bool back = end == cuda::fused::End::slope;
  if (p.ldc != p.columns || p.start == Start::accumulate) return false;
  const cuda::fused::ProductShape shape{p.rows, p.columns, p.depth, !back, p.start == Start::bias, end, f};
  const cuda::fused::ProductData data{p.rounded, static_cast<const bf16*>(buffer_.data()), p.rounded_c,
                                      reinterpret_cast<const float*>(p.bias), before};
  return cuda::fused::multiply(shape, data);
}

template <Real T>
void Panels<Cuda, T>::forward(const Product<T>& p) const {
  multiply(p, false);
}
template <Real T>
bool Panels<Cuda, T>::forward_rounded(const Product<T>& p) const {
  if (p.start == Start::bias || format_) return multiply_ended(p, cuda::fused::End::sum);
  return multiply(p, false);
}
template <Real T>
bool Panels<Cuda, T>::activated(Activation f, const Product<T>& p, T* before) const {
  return multiply_ended(p, cuda::fused::End::activation, f, before);
}
template <Real T>
bool Panels<Cuda, T>::slope(Activation f, const Product<T>& p, const void* kept) const {
  return multiply_ended(p, cuda::fused::End::slope, f, const_cast<void*>(kept));
}
template <Real T>
bool Panels<Cuda, T>::forward_activated(Activation f, const Product<T>& p, T* before) const {
  return multiply(p, false, f, before);
}
template <Real T>
void Panels<Cuda, T>::backward(const Product<T>& p) const {
  multiply(p, true);
}

template <Real T>
void Panels<Cuda, T>::unpack(T* w) const {
  const Index n = out_ * in_;
  if (n == 0) return;
  if (format_) return decode(0, out_, nullptr, w);
  if constexpr (sizeof(T) == 4)
    if (precision_ == Precision::bf16) return cuda::round_to(n, static_cast<const bf16*>(buffer_.data()), w);
  Cuda::copy(w, buffer_.data(), static_cast<std::size_t>(n) * sizeof(T));
}

template <Real T>
void Panels<Cuda, T>::rows(Index n, const std::int32_t* numbers, T* y) const {
  if (format_) return decode(0, n, numbers, y);
  if constexpr (sizeof(T) == 4)
    if (precision_ == Precision::bf16) {
      if (n)
        cuda::launch(cuda::read_rows<bf16, T>, cuda::blocks(n, 1), cuda::along(in_), 0, cuda::stream(), n, in_,
                     static_cast<const bf16*>(buffer_.data()), numbers, y);
      return;
    }
  gather_rows(Cuda{}, n, in_, static_cast<const T*>(buffer_.data()), numbers, y);
}

template <Real T>
void Panels<Cuda, T>::write(Index n, const std::int32_t* indices, const T* v) const {
  require(!format_, "a weight is written to that is kept in blocks, expected f32 or bf16, found",
          format_ ? format_->dtype : "");
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
