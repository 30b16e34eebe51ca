// expect: constraint
#include <meft/ops/matmul.hpp>

#ifdef OK
using T = float;
#else
using T = int;
#endif

auto product(const meft::Tensor<T>& x, const meft::Tensor<T>& w) { return meft::matmul(x, w); }
