// A reversible scheme of one's own: the momentum residual network (Sander, Ablin, Blondel, Peyré, arXiv 2102.07870,
// equation 3), v ← γ·v + (1 − γ)·f(x), x ← x + v, as two shears. Its gradients with exact streams against those with
// every activation stored.
#include <cmath>
#include <cstdio>
#include <meft/meft.hpp>
using namespace meft;

/// Stream 0 is x, stream 1 is v.
template <Real T, Backend B>
ReversibleLayer<T, B> momentum(Function<T, B> f, Lambda gamma) {
  const T rest = static_cast<T>(1 - gamma.value());
  return {shear<T, B>(1, 0, gamma, [=](const Var<T, B>& x, const Context<T, B>& c) { return f(x, c) * rest; }),
          shear<T, B>(0, 1, {1, 1}, [](const Var<T, B>& v, const Context<T, B>&) { return v; })};
}

/// Gradients of a stack of `depth` layers whose streams come back in this way, and the activations' MiB.
std::pair<std::vector<float>, double> step(int depth, Streams streams) {
  const Index width = 32;
  std::vector<nn::Linear<float>> weights;
  ReversibleStack<float>::Layers layers;
  for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(depth); ++i) {
    weights.push_back(nn::Linear<float>::normal(width, width, {7, i, 0}, 0.2));
    const Function<float> f = [w = weights.back()](const Var<float>& x, const Context<float>&) { return tanh(w(x)); };
    layers.push_back(momentum<float, Cpu>(f, {9, 10}));
  }
  const ReversibleStack<float> stack(layers, {.streams = streams, .readout = readout_from("plm"), .carrier = 0});
  nn::for_each_parameter(weights, [](const std::string&, auto& p) { p.zero_gradient(); });
  Tensor<float> x({512, width}), v = Tensor<float>::zeros({512, width});
  fill_normal(x, {7, 1000, 0}, 1);
  Cpu::pool().reset_peak();
  const auto before = Cpu::pool().read().total;
  {
    Tape tape;
    tape.backward(mean(square(stack(x, v, {.offsets = Offsets({0, 200, 512})}))));
  }
  std::vector<float> gradients;
  nn::for_each_parameter(weights, [&](const std::string&, auto& p) {
    for (const float g : p.gradient().values()) gradients.push_back(g);
  });
  return {gradients, static_cast<double>(Cpu::pool().read().peak - before) / 1048576};
}

int main() {
  bool good = true;
  std::printf("layers  activations stored, exact  gradient error: exact, undone in floating point\n");
  for (const int depth : {8, 32, 128}) {
    const auto [stored, stored_memory] = step(depth, Streams::stored);
    const auto [exact, exact_memory] = step(depth, Streams::exact);
    const auto rounded = step(depth, Streams::rounded).first;
    double apart = 0, whole = 0;
    for (std::size_t i = 0; i < stored.size(); ++i)
      apart += std::pow(rounded[i] - stored[i], 2), whole += std::pow(stored[i], 2);
    std::printf("%6d  %6.2f MiB, %.2f MiB        %s, %.0e\n", depth, stored_memory, exact_memory,
                exact == stored ? "0: every bit equal" : "NOT EQUAL", std::sqrt(apart / whole));
    good = good && exact == stored && exact_memory < stored_memory / 2;
  }
  return good ? 0 : 1;
}
