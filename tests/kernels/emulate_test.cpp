// The emulator of CUDA: what it runs, and the faults that it catches, which are planted here.
// Under AddressSanitizer the abandoned stacks of a kernel that faults are unpoisoned by hand, and what the kernel had
// left to destroy is not looked for; to ThreadSanitizer the threads of a block are the worker that runs them, so races
// between them are the business of shuffled schedules, and its own those between blocks.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include <cuda_bf16.h>
#include <emulate/emulate.hpp>
#include <mma.cuh>

#include "device_array.hpp"

using namespace meft;

namespace {

constexpr unsigned whole = 0xFFFFFFFFu;

/// Restores the schedule and the device after a case that changes or breaks them.
struct Fresh {
  ~Fresh() {
    emulate::set_seed(0);
    emulate::set_workers(0);
    cudaDeviceReset();
  }
};

std::string caught(const auto& body) {
  try {
    body();
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  } catch (const Error& error) {
    return error.message();
  }
  return "nothing was caught";
}

bool contains(const std::string& text, const char* part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE("`" << std::string(part) << "` is not in: " << text);
  return found;
}

std::vector<float> numbers(std::size_t n) {
  std::vector<float> out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = std::sin(static_cast<float>(i) * 0.37f) * 3.0f + 0.1f;
  return out;
}

// --- kernels ---

__global__ void add_to(int n, float a, const float* x, float* y) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] += a * x[i];
}

__device__ float warp_sum(float v) {
  for (int d = 16; d; d /= 2) v += __shfl_down_sync(whole, v, static_cast<unsigned>(d));
  return v;
}

/// out[block] = the sum of x over the block's share; with `bug`, without the barrier between writing and reading.
template <bool bug>
__global__ void block_sum(int n, const float* x, float* out) {
  __shared__ float part[32];
  float v = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    v += x[i];
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  if constexpr (!bug) __syncthreads();
  if (threadIdx.x < 32) {
    v = warp_sum(threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = v;
  }
}

/// Sums neighbours in dynamic shared memory: y[i] = x[i] + x[i + 1 modulo the block].
__global__ void neighbours(const float* x, float* y) {
  float* tile = cuda::dynamic_shared<float>();
  const unsigned i = threadIdx.x;
  tile[i] = x[i];
  __syncthreads();
  y[i] = tile[i] + tile[(i + 1) % blockDim.x];
}

__global__ void exchange(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* row = out + lane;
  row[0] = __shfl_sync(whole, lane, 5);
  row[32] = __shfl_sync(whole, lane, 3, 8);
  row[64] = __shfl_up_sync(whole, lane, 2u);
  row[96] = __shfl_up_sync(whole, lane, 2u, 8);
  row[128] = __shfl_down_sync(whole, lane, 3u);
  row[160] = __shfl_down_sync(whole, lane, 3u, 16);
  row[192] = __shfl_xor_sync(whole, lane, 7);
  row[224] = __shfl_xor_sync(whole, lane, 16, 16);
  row[256] = static_cast<int>(__ballot_sync(whole, lane % 3 == 0));
  row[288] = __any_sync(whole, lane == 31) + 2 * __any_sync(whole, lane == 32) + 4 * __all_sync(whole, lane < 32) +
             8 * __all_sync(whole, lane > 0);
  // Two halves that part company.
  if (lane < 16) row[320] = __shfl_xor_sync(0x0000FFFFu, lane, 15);
  else row[320] = static_cast<int>(__ballot_sync(0xFFFF0000u, lane & 1));
  __syncwarp();
  row[352] = static_cast<int>(__shfl_sync(whole, 1.5 * lane, 3));
}

__global__ void votes(int* out) {
  const int i = static_cast<int>(threadIdx.x);
  const int count = __syncthreads_count(i % 3 == 0);
  const int all = __syncthreads_and(i >= 0), most = __syncthreads_and(i > 0);
  const int any = __syncthreads_or(i == 63), none = __syncthreads_or(i == 64);
  out[i] = count * 16 + all * 8 + most * 4 + any * 2 + none;
}

__global__ void where(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      100000 * block + 100 * threadIdx.z + 10 * threadIdx.y + threadIdx.x;
}

__global__ void count(int* total, int* last) {
  atomicAdd(total, 1);
  atomicMax(last, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

/// Blocks 0 and 1 wait for each other, for so long only where they do not run at once.
__global__ void meet(int* here, int* met) {
  if (threadIdx.x != 0 || blockIdx.x > 1) return;
  atomicAdd(here, 1);
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  while (atomicAdd(here, 0) < 2 && std::chrono::steady_clock::now() < until) {
  }
  if (atomicAdd(here, 0) == 2) atomicAdd(met, 1);
}

/// c = a·b of a warp, 16×16 both: operands in fragments by the tables of PTX, or from shared memory, b there by its
/// columns or, turned, by its rows.
enum class Way { table, columns, rows };
__global__ void one_product(Way way, const float* a, const float* b, float* c) {
  constexpr int step = 24;
  bf16 *const left = cuda::dynamic_shared<bf16>(), *const right = left + 16 * step;
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, in_group = lane & 3;
  cuda::mma::Word x[4], y[4];
  if (way == Way::table) {
    const auto at = [&](int i) { return (i & 1) + in_group * 2; };
    float of_a[8], of_b[2][4];
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = i < 4 ? at(i) : at(i) + 8;
      of_a[i] = a[16 * row + column];
    }
    for (int i = 0; i < 4; ++i)
      for (int n = 0; n < 2; ++n) of_b[n][i] = b[16 * (i < 2 ? at(i) : at(i) + 8) + 8 * n + group];
    for (int i = 0; i < 4; ++i) {
      x[i] = cuda::mma::pack(of_a[2 * i], of_a[2 * i + 1]);
      y[i] = cuda::mma::pack(of_b[i / 2][i % 2 * 2], of_b[i / 2][i % 2 * 2 + 1]);
    }
  } else {
    for (int i = lane; i < 256; i += 32) {
      left[i / 16 * step + i % 16] = bf16(a[i]);
      right[way == Way::rows ? i / 16 * step + i % 16 : i % 16 * step + i / 16] = bf16(b[i]);
    }
    __syncwarp();
    cuda::mma::load<false>(x, left + lane % 16 * step + lane / 16 * 8);
    if (way == Way::rows) cuda::mma::load<true>(y, right + lane % 16 * step + lane / 16 * 8);
    else cuda::mma::load<false>(y, right + (lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8);
  }
  for (int n = 0; n < 2; ++n) {
    float sum[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    cuda::mma::multiply(sum, x, {y[2 * n], y[2 * n + 1]});
    for (int i = 0; i < 4; ++i) c[16 * (i < 2 ? group : group + 8) + 8 * n + in_group * 2 + (i & 1)] = sum[i];
  }
}
__global__ void crooked_load(float* out) {
  cuda::mma::Word x[4];
  cuda::mma::load<false>(x, cuda::dynamic_shared<bf16>() + 4);
  *out = static_cast<float>(x[0]);
}
__global__ void mixed_instructions(float* out) {
  cuda::mma::Word x[4] = {};
  float c[4] = {};
  if (threadIdx.x < 16) cuda::mma::load<false>(x, cuda::dynamic_shared<bf16>());
  else cuda::mma::multiply(c, x, {x[0], x[1]});
  *out = c[0];
}

__constant__ float table[4];
__global__ void look_up(float* out) { out[threadIdx.x] = table[threadIdx.x]; }

__global__ void copy(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }

// --- kernels with a fault ---

__global__ void write_at(float* x, long i) { x[i] = 1; }
__global__ void read_at(const float* x, long i, float* out) { *out = x[i]; }
__global__ void shared_at(long i, float* out) {
  float* tile = cuda::dynamic_shared<float>();
  tile[i] = 1;
  *out = tile[0];
}
__global__ void leaves_early() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
__global__ void leaves_late() {
  if (threadIdx.x == 40) return;
  if (threadIdx.x < 40) __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
__global__ void absent_lane(float* out) {
  if (threadIdx.x < 16) *out = __shfl_xor_sync(whole, 1.0f, 1);
  else __syncwarp(0xFFFF0000u);
}
__global__ void stuck() {
  if (threadIdx.x < 16) __syncwarp(whole);
  else __syncthreads();
}
__global__ void lane_gone(float* out) {
  if (threadIdx.x == 0) return;
  if (threadIdx.x == 1) *out = __shfl_sync(0x3u, 1.0f, 1);
}
__global__ void outside_mask(float* out) { *out = __shfl_sync(0xFFFEu, 1.0f, 1); }
__global__ void reads_outside_mask(float* out) {
  if (threadIdx.x < 16) *out = __shfl_sync(0xFFFFu, 1.0f, 20);
}
__global__ void traps() {
  if (threadIdx.x == 3) __trap();
}
__global__ void deep(int depth, int* out) {
  volatile char frame[4096];
  frame[depth % 4096] = 1;
  if (depth > 0) deep(depth - 1, out);
  *out += frame[depth % 4096];
}

}  // namespace

// --- what runs ---

TEST_CASE("a kernel that never waits runs on one stack") {
  const int n = 1000;
  const DeviceArray<float> x(std::vector<float>(n, 1.0f)), y(std::vector<float>(n, 1.0f));
  const auto before = emulate::switches_made();
  cuda::launch(add_to, dim3(8), dim3(128), 0, nullptr, n, 2.0f, x.data(), y.data());
  CHECK(y.host() == std::vector<float>(n, 3.0f));
  CHECK(emulate::switches_made() - before == 8);
}

TEST_CASE("indices in three dimensions") {
  const DeviceArray<unsigned> out(2 * 3 * 4 * 5 * 6 * 7);
  cuda::launch(where, dim3(2, 3, 4), dim3(5, 6, 7), 0, nullptr, out.data());
  const auto got = out.host();
  unsigned wrong = 0, at = 0;
  for (unsigned block = 0; block < 24; ++block)
    for (unsigned z = 0; z < 7; ++z)
      for (unsigned y = 0; y < 6; ++y)
        for (unsigned x = 0; x < 5; ++x) wrong += got[at++] != 100000 * block + 100 * z + 10 * y + x;
  CHECK(wrong == 0);
}

TEST_CASE("a reduction: right, and the same bits for every schedule and number of workers") {
  const Fresh fresh;
  const auto host = numbers(20000);
  const DeviceArray<float> x(host);
  for (const unsigned threads : {32u, 96u, 256u, 1024u}) {
    std::vector<float> first;
    for (const unsigned workers : {1u, 2u, 3u})
      for (std::uint64_t seed = 0; seed < 9; ++seed) {
        emulate::set_workers(workers);
        emulate::set_seed(seed);
        const DeviceArray<float> out(7);
        cuda::launch(block_sum<false>, dim3(7), dim3(threads), 0, nullptr, 20000, x.data(), out.data());
        if (first.empty()) first = out.host();
        CHECK(std::memcmp(first.data(), out.host().data(), 7 * sizeof(float)) == 0);
      }
    CHECK(std::accumulate(first.begin(), first.end(), 0.0) ==
          doctest::Approx(std::accumulate(host.begin(), host.end(), 0.0)).epsilon(1e-5));
  }
}

TEST_CASE("warps: shuffles with widths, votes, halves") {
  const Fresh fresh;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    emulate::set_seed(seed);
    const DeviceArray<int> out(32 * 12);
    cuda::launch(exchange, dim3(1), dim3(32), 0, nullptr, out.data());
    const auto got = out.host();
    for (int lane = 0; lane < 32; ++lane) {
      const auto row = [&](int i) { return got[static_cast<std::size_t>(32 * i + lane)]; };
      CHECK(row(0) == 5);
      CHECK(row(1) == lane / 8 * 8 + 3);
      CHECK(row(2) == (lane >= 2 ? lane - 2 : lane));
      CHECK(row(3) == (lane % 8 >= 2 ? lane - 2 : lane));
      CHECK(row(4) == (lane + 3 < 32 ? lane + 3 : lane));
      CHECK(row(5) == (lane % 16 + 3 < 16 ? lane + 3 : lane));
      CHECK(row(6) == (lane ^ 7));
      CHECK(row(7) == (lane < 16 ? lane : lane - 16));
      CHECK(row(8) == 0x49249249);
      CHECK(row(9) == 1 + 4);
      CHECK(row(10) == (lane < 16 ? 15 - lane : static_cast<int>(0xAAAA0000u)));
      CHECK(row(11) == 4);
    }
  }
}

TEST_CASE("products of a warp: every element of the fragments in its place") {
  const Fresh fresh;
  // Distinct numbers of 8 bits; sums are exact.
  std::vector<float> a(256), b(256), expected(256, 0.5f);
  for (std::size_t i = 0; i < 256; ++i) {
    const auto scattered = static_cast<float>(i * 37 % 256);
    a[i] = static_cast<float>(i) - 127;
    b[i] = scattered < 128 ? scattered : 127 - scattered;
  }
  for (std::size_t i = 0; i < 256; ++i)
    for (std::size_t k = 0; k < 16; ++k) expected[i] += a[i / 16 * 16 + k] * b[k * 16 + i % 16];
  const DeviceArray<float> left(a), right(b);
  for (const Way way : {Way::table, Way::columns, Way::rows})
    for (const std::uint64_t seed : {0, 1}) {
      emulate::set_seed(seed);
      const DeviceArray<float> out(256);
      cuda::launch(one_product, dim3(1), dim3(32), 2 * 16 * 24 * 2, nullptr, way, left.data(), right.data(),
                   out.data());
      CHECK(out.host() == expected);
    }
}

TEST_CASE("barriers that count") {
  const DeviceArray<int> out(64);
  cuda::launch(votes, dim3(1), dim3(64), 0, nullptr, out.data());
  CHECK(out.host() == std::vector<int>(64, 22 * 16 + 8 + 2));
}

TEST_CASE("dynamic shared memory, also more than 48 KiB") {
  const auto host = numbers(256);
  const DeviceArray<float> x(host), y(256);
  for (const std::size_t bytes : {std::size_t{1024}, std::size_t{100} << 10}) {
    cuda::launch(neighbours, dim3(1), dim3(256), bytes, nullptr, x.data(), y.data());
    const auto got = y.host();
    for (std::size_t i = 0; i < 256; ++i) CHECK(got[i] == host[i] + host[(i + 1) % 256]);
  }
  CHECK(contains(caught([&] { cuda::launch(neighbours, dim3(1), dim3(256), 200 << 10, nullptr, x.data(), y.data()); }),
                 "cudaFuncSetAttribute: cudaErrorInvalidValue (1)"));
  cudaGetLastError();
}

TEST_CASE("integer atomics across blocks; blocks run at the same time") {
  const Fresh fresh;
  emulate::set_workers(2);
  const DeviceArray<int> totals(std::vector<int>(4, 0));
  cuda::launch(count, dim3(40), dim3(256), 0, nullptr, totals.data(), totals.data() + 1);
  cuda::launch(meet, dim3(4), dim3(1024), 0, nullptr, totals.data() + 2, totals.data() + 3);
  CHECK(totals.host() == std::vector<int>{10240, 10239, 2, 2});
}

TEST_CASE("constant memory") {
  const std::vector<float> values{1, 2, 3, 4};
  const DeviceArray<float> out(4);
  cuda::check(cudaMemcpyToSymbol(table, values.data(), 16), "cudaMemcpyToSymbol");
  cuda::launch(look_up, dim3(1), dim3(4), 0, nullptr, out.data());
  CHECK(out.host() == values);
  CHECK(cudaMemcpyToSymbol(table, values.data(), 16, 4) == cudaErrorInvalidValue);
  cudaGetLastError();
}

TEST_CASE("bfloat16: nearest even, infinities, NaN") {
  for (const auto& [value, bits] : {std::pair{1.0f, 0x3F80},
                                    {1.00390625f, 0x3F80},
                                    {1.01171875f, 0x3F82},
                                    {1.0040f, 0x3F81},
                                    {-0.0f, 0x8000},
                                    {3.4e38f, 0x7F80},
                                    {INFINITY, 0x7F80},
                                    {NAN, 0x7FFF}})
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(value)) == bits);
  CHECK(__bfloat162float(__ushort_as_bfloat16(0xC0A0)) == -5.0f);
}

TEST_CASE("streams, events and copies") {
  const Fresh fresh;
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr, stop = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  cuda::check(cudaEventCreate(&start), "event");
  cuda::check(cudaEventCreate(&stop), "event");
  float* pinned = nullptr;
  cuda::check(cudaMallocHost(&pinned, 400), "cudaMallocHost");
  for (int i = 0; i < 100; ++i) pinned[i] = static_cast<float>(i);
  float* x = nullptr;
  cuda::check(cudaMallocAsync(&x, 400, stream), "cudaMallocAsync");
  cuda::check(cudaEventRecord(start, stream), "record");
  cuda::check(cudaMemcpyAsync(x, pinned, 400, cudaMemcpyHostToDevice, stream), "copy");
  cuda::launch(add_to, dim3(1), dim3(128), 0, stream, 100, 1.0f, x, x);
  cuda::check(cudaMemsetAsync(x + 50, 0, 200, stream), "memset");
  cuda::check(cudaMemcpyAsync(pinned, x, 400, cudaMemcpyDeviceToHost, stream), "copy");
  cuda::check(cudaEventRecord(stop, stream), "record");
  cuda::check(cudaStreamWaitEvent(nullptr, stop), "wait");
  cuda::check(cudaFreeAsync(x, stream), "free");
  cuda::check(cudaStreamSynchronize(stream), "synchronize");
  for (int i = 0; i < 100; ++i) CHECK(pinned[i] == (i < 50 ? 2.0f * static_cast<float>(i) : 0.0f));
  float milliseconds = -1;
  cuda::check(cudaEventElapsedTime(&milliseconds, start, stop), "elapsed");
  CHECK(milliseconds >= 0);
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
  CHECK(cudaEventDestroy(start) == cudaSuccess);
  CHECK(cudaEventDestroy(stop) == cudaSuccess);
  CHECK(cudaEventDestroy(stop) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
}

namespace {
struct Stream {
  cudaStream_t stream = nullptr;
  Stream() { cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~Stream() { cudaStreamDestroy(stream); }
};
struct Event {
  cudaEvent_t event = nullptr;
  Event() { cuda::check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  ~Event() { cudaEventDestroy(event); }
};
}  // namespace

TEST_CASE("shuffled schedules show what nobody waited for") {
  const Fresh fresh;
  const auto chain = [](bool waits) {
    int right = 0;
    for (std::uint64_t seed = 0; seed < 9; ++seed) {
      emulate::set_seed(seed);
      const DeviceArray<float> x(std::vector<float>(64, 1.0f)), y(std::vector<float>(64, 1.0f));
      const Stream first, second;
      const Event event;
      cuda::launch(add_to, dim3(1), dim3(64), 0, first.stream, 64, 1.0f, x.data(), x.data());
      cuda::check(cudaEventRecord(event.event, first.stream), "cudaEventRecord");
      if (waits) cuda::check(cudaStreamWaitEvent(second.stream, event.event), "cudaStreamWaitEvent");
      cuda::launch(add_to, dim3(1), dim3(64), 0, second.stream, 64, 1.0f, x.data(), y.data());
      cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      right += y.host() == std::vector<float>(64, 3.0f);
    }
    return right;
  };
  CHECK(chain(true) == 9);
  CHECK(chain(false) < 9);
  CHECK(chain(false) > 0);

  // Pinned memory is read when the copy runs, not when it is enqueued.
  emulate::set_seed(1);
  float* pinned = nullptr;
  cuda::check(cudaMallocHost(&pinned, 4), "cudaMallocHost");
  const DeviceArray<float> x(1);
  const Stream stream;
  *pinned = 1;
  cuda::check(cudaMemcpyAsync(x.data(), pinned, 4, cudaMemcpyHostToDevice, stream.stream), "cudaMemcpyAsync");
  CHECK(cudaStreamQuery(stream.stream) == cudaSuccess);
  cuda::check(cudaMemcpyAsync(x.data(), pinned, 4, cudaMemcpyHostToDevice, stream.stream), "cudaMemcpyAsync");
  *pinned = 2;
  cuda::check(cudaStreamSynchronize(stream.stream), "cudaStreamSynchronize");
  CHECK(x.host()[0] == 2);
  cuda::check(cudaFreeHost(pinned), "cudaFreeHost");
}

TEST_CASE("graphs: captured, not run; then run as often as launched") {
  const Fresh fresh;
  for (const std::uint64_t seed : {0, 1, 2}) {
    emulate::set_seed(seed);
    const DeviceArray<float> x(std::vector<float>(64, 1.0f)), y(std::vector<float>(64, 0.0f));
    const Stream main, side;
    const Event fork_off, joined;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    cuda::check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal), "begin");
    cuda::launch(add_to, dim3(1), dim3(64), 0, main.stream, 64, 1.0f, x.data(), x.data());
    cuda::check(cudaEventRecord(fork_off.event, main.stream), "record");
    cuda::check(cudaStreamWaitEvent(side.stream, fork_off.event), "wait");
    cuda::launch(add_to, dim3(1), dim3(64), 0, side.stream, 64, 1.0f, x.data(), y.data());
    cuda::check(cudaEventRecord(joined.event, side.stream), "record");
    cuda::check(cudaStreamWaitEvent(main.stream, joined.event), "wait");
    cudaStreamCaptureStatus status{};
    cuda::check(cudaStreamIsCapturing(side.stream, &status), "status");
    CHECK(status == cudaStreamCaptureStatusActive);
    cuda::check(cudaStreamEndCapture(main.stream, &graph), "end");
    cuda::check(cudaGraphInstantiate(&exec, graph), "instantiate");
    cuda::check(cudaGraphDestroy(graph), "destroy");
    CHECK(y.host() == std::vector<float>(64, 0.0f));
    for (int i = 0; i < 3; ++i) cuda::check(cudaGraphLaunch(exec, main.stream), "launch");
    cuda::check(cudaStreamSynchronize(main.stream), "synchronize");
    CHECK(x.host() == std::vector<float>(64, 8.0f));
    CHECK(y.host() == std::vector<float>(64, 14.0f));
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
    // What a capture refuses, and a stream that was not joined.
    cuda::check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal), "begin");
    CHECK(cudaStreamSynchronize(main.stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(main.stream, &graph) == cudaErrorStreamCaptureInvalidated);
    cuda::check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal), "begin");
    float* p = nullptr;
    CHECK(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(main.stream, &graph) == cudaErrorStreamCaptureInvalidated);
    cuda::check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal), "begin");
    cuda::check(cudaEventRecord(fork_off.event, main.stream), "record");
    cuda::check(cudaStreamWaitEvent(side.stream, fork_off.event), "wait");
    CHECK(cudaStreamEndCapture(main.stream, &graph) == cudaErrorStreamCaptureUnjoined);
    // While memory is being freed none begins.
    void* freed = nullptr;
    cuda::check(cudaMallocAsync(&freed, 64, main.stream), "allocate");
    cuda::check(cudaFreeAsync(freed, main.stream), "free");
    CHECK(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal) == cudaErrorIllegalState);
    cuda::check(cudaStreamSynchronize(main.stream), "synchronize");
    cuda::check(cudaStreamBeginCapture(main.stream, cudaStreamCaptureModeGlobal), "begin");
    cuda::check(cudaStreamEndCapture(main.stream, &graph), "end");
    cuda::check(cudaGraphDestroy(graph), "destroy");
    cudaGetLastError();
  }
}

// --- errors of calls ---

TEST_CASE("calls are refused with CUDA's codes") {
  const Fresh fresh;
  const DeviceArray<float> x(100);
  std::vector<float> host(100);
  const auto launched = [&](dim3 grid, dim3 block, std::size_t shared) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    const cudaError_t code = cudaLaunchKernelEx(&config, copy, x.data(), x.data());
    CHECK(cudaGetLastError() == code);
    return code;
  };
  CHECK(launched(dim3(1), dim3(100), 0) == cudaSuccess);
  CHECK(launched(dim3(0), dim3(1), 0) == cudaErrorInvalidConfiguration);
  CHECK(launched(dim3(1), dim3(1, 0), 0) == cudaErrorInvalidConfiguration);
  CHECK(launched(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration);
  CHECK(launched(dim3(1), dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration);
  CHECK(launched(dim3(1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration);
  CHECK(launched(dim3(1), dim3(1), (48 << 10) + 1) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.data(), host.data(), 404, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.data(), host.data(), 400, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), x.data(), 400, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemset(host.data(), 0, 400) == cudaErrorInvalidValue);
  CHECK(cudaFree(x.data() + 1) == cudaErrorInvalidValue);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(std::string(cudaGetErrorName(cudaErrorInvalidDevice)) == "cudaErrorInvalidDevice");
  cudaGetLastError();
  CHECK(cudaDeviceSynchronize() == cudaSuccess);  // none of them sticks
}

TEST_CASE("the device's memory ends") {
  const Fresh fresh;
  const std::size_t before = emulate::device_bytes_in_use();
  emulate::set_device_capacity(before + (1 << 20));
  void *x = nullptr, *y = nullptr;
  CHECK(cudaMalloc(&x, 600 << 10) == cudaSuccess);
  CHECK(cudaMalloc(&y, 600 << 10) == cudaErrorMemoryAllocation);
  CHECK(y == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaFree(x) == cudaSuccess);
  CHECK(cudaMalloc(&y, 600 << 10) == cudaSuccess);
  CHECK(cudaFree(y) == cudaSuccess);
  emulate::set_device_capacity(std::size_t{8} << 30);
}

// --- faults ---

TEST_CASE("memory that was not written is NaN") {
  const DeviceArray<float> x(64), y(std::vector<float>(64, 0.0f));
  cuda::launch(copy, dim3(1), dim3(64), 0, nullptr, x.data(), y.data());
  for (const float value : y.host()) CHECK(std::isnan(value));
}

TEST_CASE("a missing barrier shows under shuffled schedules") {
  const Fresh fresh;
  const auto host = numbers(2000);
  const DeviceArray<float> x(host);
  int differing = 0;
  std::vector<float> first;
  for (std::uint64_t seed = 0; seed < 9; ++seed) {
    emulate::set_seed(seed);
    const DeviceArray<float> out(1);
    cuda::launch(block_sum<true>, dim3(1), dim3(256), 0, nullptr, 2000, x.data(), out.data());
    if (first.empty()) first = out.host();
    differing += std::memcmp(first.data(), out.host().data(), sizeof(float)) != 0;
  }
  CHECK(differing > 0);
}

TEST_CASE("out of bounds") {
  const auto fault = [](long at, bool reads) {
    const Fresh fresh;
    const DeviceArray<float> x(1000), out(1);  // 96 bytes of alignment, then a page that nobody may touch
    return caught([&] {
      if (reads) cuda::launch(read_at, dim3(1), dim3(1), 0, nullptr, x.data(), at, out.data());
      else cuda::launch(write_at, dim3(1), dim3(1), 0, nullptr, x.data(), at);
    });
  };
  CHECK(fault(999, false) == "nothing was caught");
  std::string text = fault(1030, false);
  CHECK(contains(text, "cudaErrorIllegalAddress (700)"));
  CHECK(contains(text, "write_at(float*, long), block (0, 0, 0), thread (0, 0, 0)"));
  CHECK(contains(text, "120 bytes past the end"));
  CHECK(contains(text, "of 4000 bytes"));
  text = fault(1030, true);
  CHECK(contains(text, "120 bytes past the end"));
  text = fault(1000, false);  // within the alignment: found when the kernel has ended
  CHECK(contains(text, "write_at"));
  CHECK(contains(text, "a write 0 bytes past the end"));
  text = fault(-1, false);
  CHECK(contains(text, "before the start"));
  text = fault(-30, true);
  CHECK(contains(text, "before the start"));
  text = fault(1 << 28, true);
  CHECK(contains(text, "out of bounds"));
}

TEST_CASE("other addresses that a kernel must not touch") {
  const Fresh fresh;
  {
    const DeviceArray<float> out(1);
    CHECK(contains(
        caught([&] { cuda::launch(write_at, dim3(1), dim3(1), 0, nullptr, reinterpret_cast<float*>(64), 0L); }),
        "is not device memory"));
    // From now on every call gives the error, as on a device.
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    void* p = nullptr;
    CHECK(cudaMalloc(&p, 4) == cudaErrorIllegalAddress);
  }
  cudaDeviceReset();
  float* gone = DeviceArray<float>(1000).data();
  CHECK(contains(caught([&] { cuda::launch(write_at, dim3(1), dim3(1), 0, nullptr, gone, 7L); }),
                 "of the freed allocation"));
  cudaDeviceReset();
  const DeviceArray<float> out(1);
  CHECK(contains(caught([&] { cuda::launch(shared_at, dim3(1), dim3(1), 64, nullptr, 16L, out.data()); }),
                 "dynamic shared memory at offset 64 of 64 bytes"));
  cudaDeviceReset();
  const DeviceArray<int> depth(1);
  CHECK(contains(caught([&] { cuda::launch(deep, dim3(1), dim3(1), 0, nullptr, 10000, depth.data()); }),
                 "its stack of 256 KiB is used up"));
}

TEST_CASE("barriers and shuffles that not all threads reach") {
  const auto fault = [](const auto& kernel, auto... args) {
    std::string first;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      const Fresh fresh;
      emulate::set_seed(seed);
      const std::string text = caught([&] { cuda::launch(kernel, dim3(1), dim3(64), 0, nullptr, args...); });
      CHECK(contains(text, "cudaErrorLaunchFailure (719)"));
      if (seed == 0) first = text;
    }
    return first;
  };
  std::string text = fault(leaves_early);
  CHECK(contains(
      text,
      "leaves_early(), block (0, 0, 0), thread (40, 0, 0): it ends while others wait for it: 40 at __syncthreads"));
  text = fault(leaves_late);
  CHECK(contains(text, "it ends while others wait"));
  text = fault(two_barriers);
  CHECK(contains(text,
                 "thread (32, 0, 0): it waits at another barrier than others: 32 at __syncthreads (emulate_test.cpp"));
  text = fault(stuck);
  CHECK(contains(text, "deadlock"));
  CHECK(contains(text, "16 at __syncwarp (emulate_test.cpp"));
  text = fault(traps);
  CHECK(contains(text, "thread (3, 0, 0): __trap() (emulate_test.cpp"));
  const auto with_memory = [](const auto& kernel, unsigned threads) {
    const Fresh fresh;
    const DeviceArray<float> to(1);
    return caught([&] { cuda::launch(kernel, dim3(1), dim3(threads), 0, nullptr, to.data()); });
  };
  text = with_memory(absent_lane, 32);
  CHECK(contains(text, "it ends while others wait for it: 16 at a shuffle (emulate_test.cpp"));
  CHECK(contains(text, "with mask 0xffffffff, thread 0 to 15"));
  text = with_memory(absent_lane, 8);
  CHECK(contains(text, "for lane 8, which the block does not have"));
  text = with_memory(lane_gone, 32);
  CHECK(contains(text, "it waits in a shuffle with mask 0x00000003 for lane 0, which has ended"));
  text = with_memory(outside_mask, 32);
  CHECK(contains(text, "leaves out its own lane 0"));
  text = with_memory(reads_outside_mask, 32);
  CHECK(contains(text, "reads lane 20"));
  const auto with_shared = [](const auto& kernel, unsigned threads) {
    const Fresh fresh;
    const DeviceArray<float> to(1);
    return caught([&] { cuda::launch(kernel, dim3(1), dim3(threads), 1024, nullptr, to.data()); });
  };
  CHECK(contains(with_shared(crooked_load, 32), "ldmatrix reads a row that is not aligned to 16 bytes"));
  CHECK(contains(with_shared(crooked_load, 16), "for lane 16, which the block does not have"));
  CHECK(contains(with_shared(mixed_instructions, 32), "it is in mma while lanes that it names are elsewhere"));
}

TEST_CASE("the host touches device memory") {
  const DeviceArray<float> x(1000);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(ends[1], 1);  // where the test framework's own handler reports
    dup2(ends[1], 2);
    volatile float* p = x.data();
    p[3] = 1;
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[256];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(contains(text, "device memory outside of kernels and copies: at offset 12 of the allocation"));
  CHECK(contains(text, "of 4000 bytes"));
}
