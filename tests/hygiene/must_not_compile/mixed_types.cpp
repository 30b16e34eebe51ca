// expect: an op's inputs differ in element type or device
#include <meft/ops/matmul.hpp>

#ifdef OK
using T = float;
#else
using T = double;
#endif

auto product(const meft::Tensor<float>& x, const meft::Tensor<T>& w) { return meft::matmul(x, w); }
