// expect: constraint
#include <string>

#include <meft/tensor/tensor.hpp>

#ifdef OK
using T = float;
#else
using T = std::string;
#endif

meft::Tensor<T> tensor;
