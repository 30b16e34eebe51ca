// The emulator of CUDA: what it runs, and the faults that it catches.
#include <doctest/doctest.h>

#include <launch.cuh>
#include <vector>

using namespace meft;

namespace {
__global__ void add_to(int n, float a, const float* x, float* y) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] += a * x[i];
}
}  // namespace

TEST_CASE("a kernel without barriers") {
  const int n = 1000;
  float *x = nullptr, *y = nullptr;
  cuda::check(cudaMalloc(&x, n * sizeof(float)), "cudaMalloc");
  cuda::check(cudaMalloc(&y, n * sizeof(float)), "cudaMalloc");
  std::vector<float> ones(n, 1.0f), out(n);
  cuda::check(cudaMemcpy(x, ones.data(), n * sizeof(float), cudaMemcpyHostToDevice), "cudaMemcpy");
  cuda::check(cudaMemcpy(y, ones.data(), n * sizeof(float), cudaMemcpyHostToDevice), "cudaMemcpy");
  cuda::launch(add_to, dim3(8), dim3(128), 0, nullptr, n, 2.0f, x, y);
  cuda::check(cudaMemcpy(out.data(), y, n * sizeof(float), cudaMemcpyDeviceToHost), "cudaMemcpy");
  CHECK(out == std::vector<float>(n, 3.0f));
  cudaFree(x);
  cudaFree(y);
}
