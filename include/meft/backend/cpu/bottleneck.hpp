// Owns: a bottleneck of two narrow products on the CPU, by products.
#pragma once

#include <meft/backend/cpu/gemm.hpp>
#include <meft/backend/cpu/map.hpp>
#include <meft/backend/cpu/reduce.hpp>
#include <meft/backend/kernels/bottleneck.hpp>
#include <meft/base/compose.hpp>
#include <meft/memory/buffer.hpp>

namespace meft {

template <Real T>
void bottleneck(Cpu, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, T* z, T* y) {
  const UseScope use(Use::workspace);
  const Buffer active(Cpu::pool(), static_cast<std::size_t>(rows * w.inner) * sizeof(T));
  auto* const a = static_cast<T*>(active.data());
  gemm(Cpu{}, Product<T>{rows, w.inner, w.width, {x, w.width, 1}, z, w.inner, Start::bias, w.down_bias},
       Strided<T>{w.down, 1, w.width});
  visit(f, [&](auto g) { map(Cpu{}, g, rows * w.inner, a, static_cast<const T*>(z)); });
  gemm(Cpu{}, Product<T>{rows, w.width, w.inner, {a, w.inner, 1}, y, w.width, Start::bias, w.up_bias},
       Strided<T>{w.up, 1, w.inner});
}

template <Real T>
void bottleneck_backward(Cpu, Activation f, Index rows, const BottleneckWeights<T>& w, const T* x, const T* z,
                         const T* dy, const T* from, T* dx, const BottleneckGradients<T>& to) {
  const UseScope use(Use::workspace);
  const Index n = rows * w.inner;
  const Buffer inner(Cpu::pool(), static_cast<std::size_t>(n) * sizeof(T));
  auto* const a = static_cast<T*>(inner.data());
  if (to.up) {
    visit(f, [&](auto g) { map(Cpu{}, g, n, a, z); });
    gemm(Cpu{}, Product<T>{w.width, w.inner, rows, {dy, 1, w.width}, to.up, w.inner}, Strided<T>{a, w.inner, 1});
  }
  if (to.up_bias) sum(Cpu{}, 1, rows, w.width, dy, to.up_bias);
  gemm(Cpu{}, Product<T>{rows, w.inner, w.width, {dy, w.width, 1}, a, w.inner}, Strided<T>{w.up, w.inner, 1});
  visit(f, [&](auto g) { map(Cpu{}, SlopeAt<decltype(g)>{}, n, a, static_cast<const T*>(a), z); });
  if (to.down)
    gemm(Cpu{}, Product<T>{w.inner, w.width, rows, {a, 1, w.inner}, to.down, w.width}, Strided<T>{x, w.width, 1});
  if (to.down_bias) sum(Cpu{}, 1, rows, w.inner, static_cast<const T*>(a), to.down_bias);
  if (!dx) return;
  if (from && from != dx) Cpu::copy(dx, from, static_cast<std::size_t>(rows * w.width) * sizeof(T));
  gemm(Cpu{}, Product<T>{rows, w.width, w.inner, {a, w.inner, 1}, dx, w.width, from ? Start::accumulate : Start::zero},
       Strided<T>{w.down, w.width, 1});
}

}  // namespace meft
