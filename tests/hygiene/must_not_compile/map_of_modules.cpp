// expect: is no list with places
#include <map>

#include <meft/nn/linear.hpp>

#ifdef OK
using Layers = std::vector<meft::nn::Linear<float>>;
#else
using Layers = std::map<int, meft::nn::Linear<float>>;
#endif

void frozen(Layers& layers) { meft::freeze(layers); }
