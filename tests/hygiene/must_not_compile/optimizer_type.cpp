// expect: over<double>\(module\), for one
#include <meft/nn/linear.hpp>
#include <meft/optim/adamw.hpp>

#ifdef OK
using T = float;
#else
using T = double;
#endif

auto optimizer(meft::nn::Linear<T>& layer) { return meft::optim::AdamW{}.over(layer); }
