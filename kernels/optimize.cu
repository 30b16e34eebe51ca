// Owns: AdamW's pass over all parameters and the sum of squares of their gradients:
// include/meft/backend/kernels/optimize.hpp. Both go over pieces of a fixed length; a table on the device says of which
// slot and where.
#include <cmath>
#include <vector>

#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/optimize.hpp>
#include <result.cuh>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

constexpr Index piece = 1 << 14;

/// Elements of one slot that a block works on.
template <class T>
struct Piece {
  T *gradient, *value, *first, *second;
  Index count;
  bool decays, packed;
};

/// The pieces of all slots, on the device.
template <class T>
class Pieces {
 public:
  Pieces(Index slots, const AdamWSlot<T>* slot) {
    std::vector<Piece<T>> list;
    for (Index i = 0; i < slots; ++i) {
      const auto& s = slot[i];
      const bool packed = aligned(s.gradient, s.value, s.first, s.second);  // a piece's bytes are a multiple of 16
      for (Index at = 0; at < s.n; at += piece)
        list.push_back({s.gradient + at, s.value + at, s.first + at, s.second + at, s.n - at < piece ? s.n - at : piece,
                        s.decays, packed});
    }
    count_ = static_cast<Index>(list.size());
    if (!count_) return;
    const UseScope use(Use::workspace);
    buffer_ = Buffer(Cuda::pool(), list.size() * sizeof(Piece<T>));
    Cuda::upload(buffer_.data(), list.data(), list.size() * sizeof(Piece<T>));
  }
  Index count() const { return count_; }
  const Piece<T>* device() const { return static_cast<const Piece<T>*>(buffer_.data()); }

 private:
  Buffer buffer_;
  Index count_ = 0;
};

template <class T>
struct Adam {
  T beta1, beta2, rest1, rest2, scale, size, root, keep, epsilon;  // rest: 1 − β
  __device__ void operator()(T& g, T& p, T& m, T& v, bool decays) const {
    const T x = g * scale;
    m = beta1 * m + rest1 * x;
    v = beta2 * v + rest2 * x * x;
    p = p * (decays ? keep : T(1)) - size * m / (sqrt(v) * root + epsilon);
    g = 0;
  }
};

template <class T>
__global__ void adam(Index pieces, const Piece<T>* piece, Adam<T> a) {
  for (Index b = blockIdx.x; b < pieces; b += gridDim.x) {
    const Piece<T> s = piece[b];
    const Index packs = s.packed ? s.count / Pack<T>::width : 0;
    auto* const gs = reinterpret_cast<Pack<T>*>(s.gradient);
    auto* const ps = reinterpret_cast<Pack<T>*>(s.value);
    auto* const ms = reinterpret_cast<Pack<T>*>(s.first);
    auto* const vs = reinterpret_cast<Pack<T>*>(s.second);
    for (Index i = threadIdx.x; i < packs; i += blockDim.x) {
      Pack<T> g = gs[i], p = ps[i], m = ms[i], v = vs[i];
      for (int k = 0; k < Pack<T>::width; ++k) a(g.at[k], p.at[k], m.at[k], v.at[k], s.decays);
      gs[i] = g, ps[i] = p, ms[i] = m, vs[i] = v;
    }
    for (Index i = packs * Pack<T>::width + threadIdx.x; i < s.count; i += blockDim.x)
      a(s.gradient[i], s.value[i], s.first[i], s.second[i], s.decays);
  }
}

/// parts[b] = Σ g² of piece b, in double.
template <class T>
__global__ void square_pieces(Index pieces, const Piece<T>* piece, double* parts) {
  for (Index b = blockIdx.x; b < pieces; b += gridDim.x) {
    const T* in = piece[b].gradient;
    const double sum = sum_over_row<double>(piece[b].count, [in](Index i) {
      const double value = static_cast<double>(in[i]);
      return value * value;
    });
    if (threadIdx.x == 0) parts[b] = sum;
  }
}

__global__ void add_parts(Index n, const double* parts, double* total) {
  const double sum = sum_over_row<double>(n, [parts](Index i) { return parts[i]; });
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

}  // namespace cuda

template <Backend B, Real T>
void adamw(B, Index slots, const AdamWSlot<T>* slot, const AdamWStep& step) {
  const cuda::Pieces<T> pieces(slots, slot);
  if (!pieces.count()) return;
  const cuda::Adam<T> a{static_cast<T>(step.beta1),
                        static_cast<T>(step.beta2),
                        static_cast<T>(1 - step.beta1),
                        static_cast<T>(1 - step.beta2),
                        static_cast<T>(step.scale),
                        static_cast<T>(step.rate / step.correction1),
                        static_cast<T>(1 / std::sqrt(step.correction2)),
                        static_cast<T>(1 - step.rate * step.decay),
                        static_cast<T>(step.epsilon)};
  cuda::launch(cuda::adam<T>, cuda::blocks(pieces.count(), 1), cuda::threads, 0, cuda::stream(), pieces.count(),
               pieces.device(), a);
}

template <Backend B, Real T>
double sum_squares(B, Index slots, const AdamWSlot<T>* slot) {
  const cuda::Pieces<T> pieces(slots, slot);
  if (!pieces.count()) return 0;
  const UseScope use(Use::workspace);
  const Buffer parts(Cuda::pool(), static_cast<std::size_t>(pieces.count()) * sizeof(double));
  const cuda::Result<double> total(0);
  cuda::launch(cuda::square_pieces<T>, cuda::blocks(pieces.count(), 1), cuda::threads, 0, cuda::stream(),
               pieces.count(), pieces.device(), static_cast<double*>(parts.data()));
  cuda::launch(cuda::add_parts, 1u, cuda::threads, 0, cuda::stream(), pieces.count(),
               static_cast<const double*>(parts.data()), total.device());
  return total.read();
}

template void adamw(Cuda, Index, const AdamWSlot<float>*, const AdamWStep&);
template void adamw(Cuda, Index, const AdamWSlot<double>*, const AdamWStep&);
template double sum_squares(Cuda, Index, const AdamWSlot<float>*);
template double sum_squares(Cuda, Index, const AdamWSlot<double>*);

}  // namespace meft
