// Owns: AdamW against torch.optim.AdamW, clipping, what decays, gradients that are not finite; the schedule.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <meft/optim/adamw.hpp>
#include <meft/optim/schedule.hpp>

namespace {

using namespace meft;

struct Pair {
  Parameter<double> weight, bias;
  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

Pair make_pair() {
  return {Parameter<double>(Tensor<double>::from({2, 2}, {0.5, -1.0, 2.0, 0.25})),
          Parameter<double>(Tensor<double>::from({2}, {0.1, -0.2}))};
}

void set_gradients(Pair& p, int k, double times = 1) {
  const double a = (k + 1) * times, b = times / (k + 1);
  p.weight.gradient() = Tensor<double>::from({2, 2}, {0.3 * a, -0.6 * a, 0.0, 2.0 * a});
  p.bias.gradient() = Tensor<double>::from({2}, {1e-5 * b, -0.7 * b});
}

void check_values(const Pair& p, const std::vector<double>& weight, const std::vector<double>& bias, double tolerance) {
  const auto w = p.weight.value().values(), b = p.bias.value().values();
  for (std::size_t i = 0; i < 4; ++i) CHECK(std::fabs(w[i] - weight[i]) < tolerance);
  for (std::size_t i = 0; i < 2; ++i) CHECK(std::fabs(b[i] - bias[i]) < tolerance);
}

const std::vector<double> torch_weight{0.46896955822660463, -0.9674710234393309, 1.994005998, 0.2197187501881869};
const std::vector<double> torch_bias{0.0753596922719685, -0.17229481529889523};
const optim::AdamW options{.rate = 0.01, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .decay = 0.1};

}  // namespace

// The constants, by torch 2.15:
//   import torch; torch.set_default_dtype(torch.float64)
//   w = torch.nn.Parameter(torch.tensor([[.5, -1.], [2., .25]])); b = torch.nn.Parameter(torch.tensor([.1, -.2]))
//   o = torch.optim.AdamW([{'params': [w], 'weight_decay': .1}, {'params': [b], 'weight_decay': 0.}],
//                         lr=.01, betas=(.8, .95), eps=1e-6)
//   for k in range(3):
//     w.grad = torch.tensor([[.3, -.6], [0., 2.]]) * (k + 1); b.grad = torch.tensor([1e-5, -.7]) / (k + 1); o.step()
//   print(w.tolist(), b.tolist())
TEST_CASE("adamw: three steps equal torch's; decay leaves the bias out") {
  auto p = make_pair();
  auto adam = options.over<double>(p);
  for (int k = 0; k < 3; ++k) {
    set_gradients(p, k);
    const double norm = adam.step();
    CHECK(norm ==
          doctest::Approx(std::hypot(std::sqrt(4.45) * (k + 1), std::hypot(1e-5, 0.7) / (k + 1))).epsilon(1e-14));
    for (const double g : p.weight.gradient().values()) CHECK(g == 0);
    for (const double g : p.bias.gradient().values()) CHECK(g == 0);
  }
  check_values(p, torch_weight, torch_bias, 1e-14);
  CHECK(adam.steps() == 3);
  CHECK(adam.parameters() == 6);
}

// The same with eps=1e-2 and torch.nn.utils.clip_grad_norm_([w, b], 3.0) before each step. Torch divides by the norm
// plus 1e-6, a relative 2e-7 in the gradient.
TEST_CASE("adamw: clipping by the global norm equals torch's") {
  auto p = make_pair();
  auto clipped = options;
  clipped.clip = 3;
  clipped.epsilon = 1e-2;
  auto adam = clipped.over<double>(p);
  const double norms[] = {2.222611077111783, 4.233497372152839, 6.332806995673843};
  for (int k = 0; k < 3; ++k) {
    set_gradients(p, k);
    CHECK(adam.step() == doctest::Approx(norms[k]).epsilon(1e-14));
  }
  check_values(p, {0.4693052651602124, -0.9673945111160169, 1.994005998, 0.21934659369204818},
               {0.09997917275163773, -0.17452132982323607}, 1e-8);
}

TEST_CASE("adamw: accumulated gradients are divided, and a schedule's factor scales the rate") {
  auto p = make_pair();
  auto adam = options.over<double>(p);
  for (int k = 0; k < 3; ++k) {
    set_gradients(p, k, 4);
    (void)adam.step(1.0, 4);
  }
  check_values(p, torch_weight, torch_bias, 1e-14);

  // A clip between the norm of the mean and that of the sum changes nothing; one below cuts the mean's.
  for (const double clip : {7.0, 3.0}) {
    auto mean = make_pair(), sum = make_pair();
    auto clipped = options;
    clipped.clip = clip;
    clipped.epsilon = 1e-2;
    auto one = clipped.over<double>(mean), four = clipped.over<double>(sum);
    for (int k = 0; k < 3; ++k) {
      set_gradients(mean, k);
      set_gradients(sum, k, 4);
      CHECK(four.step(1.0, 4) == doctest::Approx(one.step()).epsilon(1e-14));
    }
    check_values(sum, mean.weight.value().values(), mean.bias.value().values(), 1e-14);
  }

  auto half = make_pair(), other = make_pair();
  auto doubled = options;
  doubled.rate *= 2;
  auto a = options.over<double>(half), b = doubled.over<double>(other);
  set_gradients(half, 0);
  set_gradients(other, 0);
  (void)a.step();
  (void)b.step(0.5);
  CHECK(half.weight.value().values() == other.weight.value().values());
}

TEST_CASE("adamw: a gradient that is not finite is an error that names the parameter and changes nothing") {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto p = make_pair();
    auto adam = options.over<double>(p);
    set_gradients(p, 0);
    p.bias.gradient().data()[1] = bad;
    std::string found;
    try {
      (void)adam.step();
    } catch (const Error& error) {
      found = error.message();
    }
    CHECK(found == "adamw: a gradient is not finite: bias");
    CHECK(adam.steps() == 0);
    check_values(p, {0.5, -1.0, 2.0, 0.25}, {0.1, -0.2}, 1e-300);
    adam.for_each_state([](const std::string& name, Tensor<double>& x) {
      if (name.ends_with(".m") || name.ends_with(".v"))
        for (const double v : x.values()) CHECK(v == 0);
    });
    adam.zero_gradients();
    for (int k = 0; k < 3; ++k) {
      set_gradients(p, k);
      (void)adam.step();
    }
    check_values(p, torch_weight, torch_bias, 1e-14);
  }
}

TEST_CASE("adamw: frozen parameters stay, a shared one counts once, moments restore") {
  auto p = make_pair();
  p.bias.set_trainable(false);
  Pair shared{p.weight, Parameter<double>()};
  auto adam = options.over<double>(p, shared);
  CHECK(adam.parameters() == 4);
  p.weight.gradient() = Tensor<double>::full({2, 2}, 1.0);
  (void)adam.step();
  CHECK(p.bias.value().values() == std::vector<double>{0.1, -0.2});

  auto whole = make_pair(), resumed = make_pair();
  auto a = options.over<double>(whole), b = options.over<double>(resumed);
  set_gradients(whole, 0);
  (void)a.step();
  std::vector<std::vector<double>> state;
  std::vector<std::string> names;
  a.for_each_state([&](const std::string& name, const Tensor<double>& x) {
    names.push_back(name);
    state.push_back(x.values());
  });
  CHECK(names == std::vector<std::string>{"weight", "weight.m", "weight.v", "bias", "bias.m", "bias.v"});
  std::size_t i = 0;
  b.for_each_state([&](const std::string&, Tensor<double>& x) {
    for (std::size_t k = 0; k < state[i].size(); ++k) x.data()[k] = state[i][k];
    ++i;
  });
  b.set_steps(a.steps());
  for (int k = 1; k < 3; ++k) {
    set_gradients(whole, k);
    set_gradients(resumed, k);
    (void)a.step();
    (void)b.step();
  }
  CHECK(whole.weight.value().values() == resumed.weight.value().values());
  check_values(resumed, torch_weight, torch_bias, 1e-14);
}

TEST_CASE("adamw: wrong options are errors") {
  auto p = make_pair();
  for (const auto& bad :
       {optim::AdamW{.rate = -1}, optim::AdamW{.beta1 = 1}, optim::AdamW{.beta2 = -0.1}, optim::AdamW{.epsilon = 0},
        optim::AdamW{.decay = -1}, optim::AdamW{.clip = -1}, optim::AdamW{.rate = NAN}})
    CHECK_THROWS_AS((void)bad.over<double>(p), Error);
}

TEST_CASE("schedule: up from 1/warmup, down to zero") {
  using optim::linear_schedule;
  CHECK(linear_schedule(0, 4, 10) == 0.25);
  CHECK(linear_schedule(3, 4, 10) == 1);
  CHECK(linear_schedule(4, 4, 10) == 1);
  CHECK(linear_schedule(7, 4, 10) == 0.5);
  CHECK(linear_schedule(10, 4, 10) == 0);
  CHECK(linear_schedule(11, 4, 10) == 0);
  CHECK(linear_schedule(0, 0, 1) == 1);
  CHECK(linear_schedule(0, 0, 0) == 0);
}
