// Owns: cross entropy and squared differences: include/meft/backend/kernels/loss.hpp. A block takes a row of logits.
#include <meft/backend/cuda/tag.hpp>
#include <meft/backend/kernels/loss.hpp>
#include <meft/base/functor.hpp>
#include <recorder.cuh>
#include <result.cuh>
#include <row.cuh>

namespace meft {

namespace cuda {

namespace {

/// Both start with all bits set: −1 counted, no place outside.
struct Found {
  unsigned long long counted, outside;
};

__global__ void look_at_labels(Index n, const std::int32_t* labels, Index classes, std::int32_t ignore, Found* found) {
  unsigned long long counted = 0;
  for (Index i = first(); i < n; i += stride()) {
    if (labels[i] == ignore) continue;
    ++counted;
    if (labels[i] < 0 || labels[i] >= classes) atomicMin(&found->outside, static_cast<unsigned long long>(i));
  }
  counted = over_block(counted, Add{});
  if (threadIdx.x == 0) atomicAdd(&found->counted, counted);
}

/// How many labels count. All threads of the block call it.
__device__ Index count_all(Index n, const std::int32_t* labels, std::int32_t ignore) {
  return sum_over_row<Index>(n, [&](Index i) { return labels[i] == ignore ? 0 : 1; });
}
template <class T>
__global__ void count_for(Index n, const std::int32_t* labels, std::int32_t ignore, T* counted) {
  const Index count = count_all(n, labels, ignore);
  if (threadIdx.x == 0) *counted = static_cast<T>(count);
}

/// One block goes along the labels; the place of one that counts is the number of those before it.
__global__ void number_counted(Index n, const std::int32_t* labels, std::int32_t ignore, Index most, std::int32_t* rows,
                               std::int32_t* chosen) {
  __shared__ int in_warp[32];
  const Index all = count_all(n, labels, ignore);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  Index before = 0;
  for (Index start = 0; start < n; start += blockDim.x) {
    const Index i = start + threadIdx.x;
    const std::int32_t label = i < n ? labels[i] : ignore;
    const unsigned counts = __ballot_sync(0xffffffffu, label != ignore);
    if (lane == 0) in_warp[warp] = __popc(counts);
    __syncthreads();
    Index place = before + __popc(counts & ((1u << lane) - 1));
    for (unsigned w = 0; w < warps; ++w) {
      if (w < warp) place += in_warp[w];
      before += in_warp[w];
    }
    if (label == ignore) place = all + i - place;
    if (i < n && place < most) {
      rows[place] = static_cast<std::int32_t>(i);
      chosen[place] = label;
    }
    __syncthreads();
  }
}

template <class T>
__global__ void entropy_rows(Index rows, Line line, const T* x, const std::int32_t* labels, std::int32_t ignore,
                             T* loss, T* sums) {
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* in = x + r * line.n;
    const T top = line.max(in);
    const T total = line.template sum<T>([top](T v) { return Exp{}(v - top); }, in);
    if (threadIdx.x != 0) continue;
    sums[r] = top, sums[rows + r] = total;
    loss[r] = labels[r] == ignore ? T(0) : top - in[labels[r]] + Log{}(total);
  }
}

template <class T>
__global__ void entropy_rows_back(Index rows, Line line, const T* x, const std::int32_t* labels, std::int32_t ignore,
                                  const T* sums, const T* dy, T* dx) {
  const T scale = *dy;
  for (Index r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *in = x + r * line.n, top = sums[r], by = scale / sums[rows + r];
    T* const out = dx + r * line.n;
    const std::int32_t label = labels[r];
    line.template each<T>([&](Index i) {
      Pack<T> v = line.read(in, i);
      for (int k = 0; k < Pack<T>::width; ++k)
        v.at[k] = label == ignore ? T(0) : Exp{}(v.at[k] - top) * by - (i + k == label ? scale : T(0));
      line.write(out, i, v);
    });
  }
}

template <class T>
__global__ void difference(Index n, const T* x, const T* target, const T* dy, T factor, T* dx) {
  const T by = factor * *dy;
  for (Index i = first(); i < n; i += stride()) dx[i] = (x[i] - target[i]) * by;
}

}  // namespace

}  // namespace cuda

template <Backend B>
LabelCheck check_labels(B, Index n, const std::int32_t* labels, Index classes, std::int32_t ignore) {
  if (n == 0) return {};
  const auto look = [=] {
    const cuda::Result<cuda::Found> result(0xff);
    cuda::launch(cuda::look_at_labels, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, labels, classes, ignore,
                 result.device());
    const auto found = result.read();
    return LabelCheck{static_cast<Index>(found.counted + 1), static_cast<Index>(found.outside)};
  };
  if (cuda::Recorder* const r = cuda::recorder(); r && !r->is_input(labels)) r->refuse("check_labels");
  // Of how many count recorded work takes the number of rows that it goes through.
  const auto alike = [n](const LabelCheck& a, const LabelCheck& b) {
    return a.outside == b.outside && label_rows<B>(n, a.counted) == label_rows<B>(n, b.counted);
  };
  return cuda::look_at(labels, look, LabelCheck{}, alike);
}

template <Backend B, Real T>
void count_labels(B, Index n, const std::int32_t* labels, std::int32_t ignore, T* counted) {
  cuda::launch(cuda::count_for<T>, 1, cuda::along(n, 1024), 0, cuda::stream(), n, labels, ignore, counted);
}
template <Backend B>
void counted_rows(B, Index n, const std::int32_t* labels, std::int32_t ignore, Index most, std::int32_t* rows,
                  std::int32_t* chosen) {
  if (n)
    cuda::launch(cuda::number_counted, 1, cuda::along(n, 1024), 0, cuda::stream(), n, labels, ignore, most, rows,
                 chosen);
}

template <Backend B, Real T>
void cross_entropy(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore, T* loss,
                   T* sums) {
  cuda::launch_lines<T>(cuda::entropy_rows<T>, rows, n, std::tuple(x), x, labels, ignore, loss, sums);
}
template <Backend B, Real T>
void cross_entropy_backward(B, Index rows, Index n, const T* x, const std::int32_t* labels, std::int32_t ignore,
                            const T* sums, const T* dy, T* dx) {
  cuda::launch_lines<T>(cuda::entropy_rows_back<T>, rows, n, std::tuple(x, dx), x, labels, ignore, sums, dy, dx);
}
template <Backend B, Real T>
void scaled_difference(B, Index n, const T* x, const T* target, const T* dy, T factor, T* dx) {
  if (n)
    cuda::launch(cuda::difference<T>, cuda::blocks(n), cuda::threads, 0, cuda::stream(), n, x, target, dy, factor, dx);
}

#define EVERY(T)                                                                                                  \
  template void cross_entropy(Cuda, Index, Index, const T*, const std::int32_t*, std::int32_t, T*, T*);           \
  template void cross_entropy_backward(Cuda, Index, Index, const T*, const std::int32_t*, std::int32_t, const T*, \
                                       const T*, T*);                                                             \
  template void count_labels(Cuda, Index, const std::int32_t*, std::int32_t, T*);                                 \
  template void scaled_difference(Cuda, Index, const T*, const T*, const T*, T, T*);
EVERY(float)
EVERY(double)
#undef EVERY
template LabelCheck check_labels(Cuda, Index, const std::int32_t*, Index, std::int32_t);
template void counted_rows(Cuda, Index, const std::int32_t*, std::int32_t, Index, std::int32_t*, std::int32_t*);

}  // namespace meft
