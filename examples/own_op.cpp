// An op of one's own: Snake, y = x + sin² x (Ziyin, Hartwig, Ueda, arXiv 2006.08195), whose networks go on periodically
// where they have seen no data. Its gradient is checked, its memory counted, and it learns a sine beside tanh.
#include <cmath>
#include <cstdio>
#include <meft/autodiff/gradcheck.hpp>
#include <meft/meft.hpp>
using namespace meft;

/// y = x + sin² x,  dx = (1 + sin 2x)·dy.
struct Snake {
  static constexpr const char* name = "snake";
  template <Scalar T, Backend B>
  struct Saved {  // all that it costs in activation memory
    Tensor<T, B> x;
  };
  static auto forward(auto& saved, Needs<1> need, const auto& x) {
    if (need[0]) saved.x = x;
    return map([](auto v) { return v + std::sin(v) * std::sin(v); }, x);
  }
  static auto backward(const auto& saved, Needs<1> need, const auto& dy) {
    return grads(need, [&] { return map([](auto d, auto v) { return d * (1 + std::sin(2 * v)); }, dy, saved.x); });
  }
};

template <Operand X>
VarOf<X> snake(const X& x, Where where = Where::current()) {
  return apply(where, Snake{}, x);
}

/// Fits y = sin 2x + x/2 on [-4, 4] and gives the mean squared error there and on [4, 6].
std::pair<float, float> fit(Var<float> (*activation)(const Var<float>&)) {
  auto in = nn::Linear<float>::normal(1, 64, {1, 0, 0}, 1), out = nn::Linear<float>::normal(64, 1, {1, 1, 0}, 0.1);
  auto adam = optim::AdamW{.rate = 1e-2}.over(in, out);
  const auto error = [&](float from, float to) {
    Tensor<float> x({256, 1}), y({256, 1});
    for (int i = 0; i < 256; ++i) {
      const float v = from + (to - from) * static_cast<float>(i) / 255;
      x.data()[i] = v, y.data()[i] = std::sin(2 * v) + v / 2;
    }
    return mse(out(activation(in(x))), y);
  };
  for (int step = 0; step < 1500; ++step) {
    Tape tape;
    tape.backward(error(-4, 4));
    adam.step();
  }
  return {error(-4, 4).value().item(), error(4, 6).value().item()};
}

int main() {
  const auto x = Tensor<double>::from({2, 3}, {-2, -0.5, 0, 0.3, 1, 7});
  const double wrong = gradcheck([](const auto& in) { return sum(square(snake(in[0]))); }, {x});
  std::printf("snake: gradient's relative error %.1e\n", wrong);
  const auto ours = fit([](const Var<float>& v) { return snake(v); });
  const auto other = fit([](const Var<float>& v) { return tanh(v); });
  std::printf(
      "snake: error %.4f where it was trained, %.3f beyond\n tanh: error %.4f where it was trained, %.3f beyond\n",
      ours.first, ours.second, other.first, other.second);
  return wrong < 1e-8 && ours.first < 0.02f && ours.second < other.second / 2 ? 0 : 1;
}
