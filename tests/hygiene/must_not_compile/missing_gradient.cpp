// expect: grads: one function for each input
#include <meft/autodiff/op.hpp>

auto backward(const meft::Needs<2>& need, const meft::Tensor<float>& dy) {
#ifdef OK
  return meft::grads(need, [&] { return dy; }, [&] { return dy; });
#else
  return meft::grads(need, [&] { return dy; });
#endif
}
