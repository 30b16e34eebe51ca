// expect: an op's inputs differ in element type or device
#include <meft/ops/matmul.hpp>

struct OtherDevice : meft::Cpu {};
#ifdef OK
using Device = meft::Cpu;
#else
using Device = OtherDevice;
#endif

auto product(const meft::Tensor<float>& x, const meft::Tensor<float, Device>& w) { return meft::matmul(x, w); }
