// expect: has no `static void parts\(auto& self, auto&& visit\)`
#include <meft/nn/linear.hpp>

struct Block {
  meft::nn::Linear<float> up;
#ifdef OK
  static void parts(auto& self, auto&& visit) { visit("up", self.up); }
#endif
};

void frozen(Block& block) { meft::freeze(block); }
