// Prints the gradient of the sum of x² at x = 1, 2, 3, 4.
#include <cstdio>

#include <meft/meft.hpp>

int main() {
  meft::Tape tape;
  auto x = tape.watch(meft::Tensor<float, meft::Cpu>::from({2, 2}, {1, 2, 3, 4}));
  auto y = meft::sum(meft::square(x));
  tape.backward(y);
  auto gradient = tape.gradient(x);
  for (int i = 0; i < 4; ++i) std::printf("%g%c", gradient.data()[i], i == 3 ? '\n' : ' ');
}
