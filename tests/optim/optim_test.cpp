// Owns: AdamW against torch.optim.AdamW, clipping, what decays, gradients that are not finite; descent by two losses:
// what it reads, how it steps, its log; on two levels; the schedule.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <meft/nn/batch.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/embedding.hpp>
#include <meft/ops/language.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/loss.hpp>
#include <meft/optim/schedule.hpp>
#include <meft/train/optimizers.hpp>

#include "messages.hpp"

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

// As above in float32: p = 1; for k in range(20): p.grad = .3 + .01·k.
TEST_CASE("adamw: in float a beta near 1 takes the steps of torch's") {
  const auto check = [](double beta1, double beta2, double expected) {
    CAPTURE(beta1);
    auto p = Parameter<float>::ones({1});
    nn::Named<float, Cpu> one{{"p", p}};
    auto adam = optim::AdamW{.rate = 0.01, .beta1 = beta1, .beta2 = beta2}.over<float>(one);
    for (int k = 0; k < 20; ++k) {
      p.gradient() = Tensor<float>::full({1}, 0.3f + 0.01f * static_cast<float>(k));
      adam.step();
    }
    CHECK(p.value().item() == doctest::Approx(expected).epsilon(1e-5));
  };
  check(0.9, 0.9999999, 0.7944425344467163);
  check(0.99999999, 0.999, 0.8009195923805237);
}

TEST_CASE("adamw: a parameter's factor is of its rate, in its decay too") {
  auto p = make_pair(), q = make_pair();
  p.weight.set_rate_factor(2);
  auto half = options;
  half.rate /= 2;
  auto one = half.over<double>(p), other = options.over<double>(q);
  for (int k = 0; k < 3; ++k) {
    set_gradients(p, k);
    set_gradients(q, k);
    one.step();
    other.step();
  }
  CHECK(p.weight.value().values() == q.weight.value().values());
  const auto bias = p.bias.value().values(), begin = make_pair().bias.value().values(), twice = q.bias.value().values();
  for (std::size_t i = 0; i < 2; ++i) CHECK(2 * (bias[i] - begin[i]) == doctest::Approx(twice[i] - begin[i]));
}

TEST_CASE("adamw: what has an anchor decays to it, at its own rate in the schedule; a vector too") {
  auto p = make_pair();
  p.weight.anchor() = Tensor<double>::from({2, 2}, {1, 1, -1, 0.25});
  p.bias.anchor() = Tensor<double>::from({2}, {0, 0.5});
  p.weight.set_rate_factor(2);
  auto adam = optim::AdamW{.rate = 0.1, .decay = 0.5}.over<double>(p);
  (void)adam.step(0.25);  // of no gradient
  const double by = 0.1 * 0.25 * 0.5;
  check_values(p, {0.5 + 2 * by * 0.5, -1 + 2 * by * 2, 2 - 2 * by * 3, 0.25}, {0.1 - by * 0.1, -0.2 + by * 0.7},
               1e-15);
  auto none = make_pair();
  none.weight.anchor() = Tensor<double>::zeros({2, 2});
  (void)optim::AdamW{.rate = 0.1}.over<double>(none).step();
  check_values(none, {0.5, -1.0, 2.0, 0.25}, {0.1, -0.2}, 1e-300);
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
    CHECK(test::message_of([&] { (void)adam.step(); }) == "adamw: a gradient is not finite: bias");
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

TEST_CASE(
    "adamw: one that is frozen between two steps stays, the others and their names go on; another shape is told") {
  auto p = make_pair();
  auto adam = options.over<double>(p);
  set_gradients(p, 0);
  (void)adam.step();
  const auto weight = p.weight.value().values(), bias = p.bias.value().values();
  p.weight.set_trainable(false);
  p.bias.gradient() = Tensor<double>::from({2}, {1, 1});
  (void)adam.step();
  CHECK(p.weight.value().values() == weight);
  CHECK(p.bias.value().values() != bias);
  p.bias.gradient() = Tensor<double>::from({2}, {1, std::nan("")});
  CHECK(test::message_of([&] { (void)adam.step(); }) == "adamw: a gradient is not finite: bias");
  p.bias.set_trainable(false);
  CHECK(adam.step() == 0);
  adam.zero_gradients();
  CHECK_FALSE(p.weight.gradient().defined());
  p.weight.set_trainable(true);
  set_gradients(p, 1);
  (void)adam.step();
  CHECK(p.weight.value().values() != weight);
  p.weight.value() = Tensor<double>::zeros({3, 2});
  adam.zero_gradients();
  CHECK(test::message_of([&] {
          (void)adam.step();
        }).starts_with("adamw: `weight` has another shape than its gradient and"));
}

namespace {

struct Alone {
  Parameter<float> weight;
  static void parts(auto& self, auto&& visit) { visit("weight", self.weight); }
};

}  // namespace

TEST_CASE("adamw: beside one that is frozen the others keep their own rate and their own count of steps") {
  auto p = make_pair(), q = make_pair();
  p.weight.set_rate_factor(2);
  nn::Named<double, Cpu> bias{{"bias", p.bias}}, weight{{"weight", p.weight}}, alone{{"bias", q.bias}};
  auto adam = options.over<double>(bias), other = options.over<double>(alone);
  const auto step = [&](int k) {
    set_gradients(p, k);
    set_gradients(q, k);
    (void)adam.step();
    (void)other.step();
    CHECK(p.bias.value().values() == q.bias.value().values());
  };
  step(0);
  adam.add(weight);
  step(1);
  adam.follow({{"weight", p.weight}, {"bias", p.bias}}, {});  // the one that is frozen comes first
  p.weight.set_trainable(false);
  const auto before = p.weight.value().values();
  for (int k = 2; k < 5; ++k) {
    p.bias.gradient() = Tensor<double>::from({2}, {0.5 * k, -1});
    q.bias.gradient() = p.bias.gradient().clone();
    (void)adam.step();
    (void)other.step();
    CHECK(p.bias.value().values() == q.bias.value().values());
  }
  CHECK(p.weight.value().values() == before);
}

TEST_CASE("adamw: wrong options are errors") {
  auto p = make_pair();
  for (const auto& bad :
       {optim::AdamW{.rate = -1}, optim::AdamW{.beta1 = 1}, optim::AdamW{.beta2 = -0.1}, optim::AdamW{.epsilon = 0},
        optim::AdamW{.decay = -1}, optim::AdamW{.clip = -1}, optim::AdamW{.rate = NAN}, optim::AdamW{.rate = INFINITY},
        optim::AdamW{.epsilon = INFINITY}, optim::AdamW{.decay = INFINITY}, optim::AdamW{.clip = INFINITY}})
    CHECK_THROWS_AS((void)bad.over<double>(p), Error);
  Parameter<float> narrow(Tensor<float>::zeros({2}));
  Alone alone{narrow};
  CHECK_THROWS_AS((void)(optim::AdamW{.epsilon = 1e-46}).over<float>(alone), Error);  // 0 in float
  auto still = options.over<float>(alone);
  alone.weight.set_trainable(false);
  alone.weight.zero_gradient();
  alone.weight.gradient() = Tensor<float>::full({2}, 1);
  (void)still.step();
  CHECK(alone.weight.value().values() == std::vector<float>{0, 0});
  for (const auto& bad : {optim::Spsa{.rate = INFINITY}, optim::Spsa{.epsilon = INFINITY},
                          optim::Spsa{.decay = INFINITY}, optim::Spsa{.clip = INFINITY}})
    CHECK_THROWS_AS((void)bad.over<double>(p), Error);
  for (const auto& bad :
       {optim::Bilevel{.rate = INFINITY}, optim::Bilevel{.module_rate = INFINITY}, optim::Bilevel{.lambda = INFINITY}})
    CHECK_THROWS_AS((void)bad.over<double>(p), Error);
}

TEST_CASE("optimizers: a factor or a weight that is none is an error that changes nothing") {
  const auto check = [](const auto& options) {
    auto p = make_pair();
    auto state = options.template over<double>(p);
    set_gradients(p, 0);
    const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
    for (const double factor : {nan, inf, -1.0})
      test::check_error({"step: expected a finite factor of at least 0, found"}, [&] { (void)state.step(factor); });
    for (const double weight : {nan, inf, -1.0, 0.0})
      test::check_error({"step: expected a finite weight above 0, found"}, [&] { (void)state.step(1, weight); });
    CHECK(state.steps() == 0);
    check_values(p, {0.5, -1.0, 2.0, 0.25}, {0.1, -0.2}, 1e-300);
    (void)state.step(0, 1);
    CHECK(state.steps() == 1);
  };
  check(optim::AdamW{});
  check(optim::Spsa{});
  check(optim::Bilevel{});
  check(optim::Bilevel{.inner = 0});
  CHECK_THROWS_AS(make_pair().weight.set_rate_factor(std::nan("")), Error);
}

TEST_CASE("optimizers: names differ, those that do anyway stay; what is kept follows its own parameter") {
  auto a = make_pair(), b = make_pair(), c = make_pair(), d = make_pair(), e = make_pair();
  std::vector<Pair> list{c, d};
  auto adam = options.over<double>(a, a, b, list, e);
  std::vector<std::string> names;
  adam.for_each_state([&](const std::string& name, Tensor<double>& x) {
    if (x.rank() == 2 && !name.ends_with(".m") && !name.ends_with(".v")) names.push_back(name);
  });
  CHECK(names == std::vector<std::string>{"weight", "1.weight", "0.weight", "1.1.weight", "2.weight"});

  const auto run = [](bool follow) {
    auto one = make_pair(), other = make_pair();
    auto state = options.over<double>(one, other);
    for (int k = 0; k < 6; ++k) {
      if (follow && k == 3) {
        auto all = nn::trainable<double, Cpu>(one);
        for (auto& p : nn::trainable<double, Cpu>(other)) all.push_back(p);
        state.follow(all, {});
      }
      set_gradients(one, k, 100);
      set_gradients(other, k);
      (void)state.step();
    }
    return other.weight.value().values();
  };
  CHECK(run(true) == run(false));
}

TEST_CASE("optimizers: two parameters of one tensor are told") {
  const auto shared = Tensor<double>::zeros({2});
  Parameter<double> p(shared), q(shared);
  nn::Named<double, Cpu> both{{"p", p}, {"q", q}};
  test::check_error({"expected copies of one parameter, found two of one tensor: `p` and `q`"},
                    [&] { (void)options.over<double>(both); });
}

TEST_CASE("adamw: a parameter that is added later makes its first step as one that was there first") {
  auto p = make_pair(), q = make_pair(), alone = make_pair();
  auto adam = options.over<double>(p), first = options.over<double>(alone);
  for (int k = 0; k < 9; ++k) {
    set_gradients(p, k);
    (void)adam.step();
  }
  adam.add(q);
  for (int k = 0; k < 3; ++k) {
    set_gradients(p, k);
    set_gradients(q, k);
    set_gradients(alone, k);
    (void)adam.step();
    (void)first.step();
  }
  CHECK(q.weight.value().values() == alone.weight.value().values());
}

namespace {

/// What ops read of a perturbed pair.
struct Read {
  std::vector<double> weight, bias;
  explicit Read(const Pair& p)
      : weight(p.weight.variable().value().values()), bias(p.bias.variable().value().values()) {}
};

/// A loss that bends: Σ w³ + Σ b².
double bent(const Read& at) {
  double sum = 0;
  for (const double w : at.weight) sum += w * w * w;
  for (const double b : at.bias) sum += b * b;
  return sum;
}

/// One step on it, with the noise as the parameters were read.
struct Probed {
  std::vector<double> weight, bias;
  double g = 0, norm = 0;
};
Probed probe_and_step(Pair& p, optim::SpsaState<double, Cpu>& state, double epsilon, double factor = 1) {
  const Read still(p);
  state.probe(1);
  const Read up(p);
  state.probe(-1);
  const Read down(p);
  state.probe(0);
  CHECK(p.weight.value().values() == still.weight);
  CHECK(p.bias.value().values() == still.bias);
  CHECK(Read(p).weight == still.weight);
  state.take(bent(up), bent(down), 1);
  Probed out;
  for (std::size_t i = 0; i < 4; ++i) out.weight.push_back((up.weight[i] - down.weight[i]) / (2 * epsilon));
  for (std::size_t i = 0; i < 2; ++i) out.bias.push_back((up.bias[i] - down.bias[i]) / (2 * epsilon));
  out.g = (bent(up) - bent(down)) / (2 * epsilon);
  out.norm = state.step(factor);
  return out;
}

}  // namespace

TEST_CASE("spsa: parameters are read with noise and stay; a step goes along it; the log does the steps again") {
  const optim::Spsa options{.rate = 0.01, .epsilon = 1e-4, .decay = 0.1, .seed = 5};
  auto p = make_pair();
  auto state = options.over<double>(p);
  CHECK(state.probes());
  CHECK(state.parameters() == 6);
  CHECK_FALSE(p.weight.gradient().defined());
  std::vector<double> first;
  for (int k = 0; k < 3; ++k) {
    const auto w = p.weight.value().values(), b = p.bias.value().values();
    const double factor = k == 1 ? 0.5 : 1;
    const auto done = probe_and_step(p, state, options.epsilon, factor);
    // zᵀ∇ℓ but for terms in ε².
    double slope = 0;
    for (std::size_t i = 0; i < 4; ++i) slope += done.weight[i] * 3 * w[i] * w[i];
    for (std::size_t i = 0; i < 2; ++i) slope += done.bias[i] * 2 * b[i];
    CHECK(std::fabs(done.g - slope) < 1e-6);
    CHECK(done.norm == doctest::Approx(std::fabs(done.g)).epsilon(1e-12));
    const double rate = options.rate * factor;
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(p.weight.value().values()[i] ==
            doctest::Approx(w[i] * (1 - rate * options.decay) - rate * done.g * done.weight[i]).epsilon(1e-9));
    for (std::size_t i = 0; i < 2; ++i)  // no decay of what has one axis
      CHECK(p.bias.value().values()[i] == doctest::Approx(b[i] - rate * done.g * done.bias[i]).epsilon(1e-9));
    CHECK(done.weight != first);  // drawn anew
    first = done.weight;
    CHECK(done.bias[0] != done.weight[0]);
  }
  CHECK(state.steps() == 3);

  auto again = make_pair();
  auto replayed = options.over<double>(again);
  for (const auto& done : state.log()) replayed.redo(done);
  CHECK(again.weight.value().values() == p.weight.value().values());
  CHECK(again.bias.value().values() == p.bias.value().values());

  // Restored from its tensors it goes on alike.
  std::vector<std::string> names;
  std::vector<std::vector<double>> kept;
  state.for_each_state([&](const std::string& name, Tensor<double>& x) {
    names.push_back(name);
    kept.push_back(x.values());
  });
  CHECK(names == std::vector<std::string>{"weight", "bias", "spsa.log"});
  auto other = make_pair();
  auto resumed = options.over<double>(other);
  resumed.set_steps(3);
  std::size_t i = 0;
  resumed.for_each_state([&](const std::string&, Tensor<double>& x) {
    x.fill([&](auto to) { std::copy(kept[i].begin(), kept[i].end(), to.begin()); });
    ++i;
  });
  CHECK(i == 3);
  (void)probe_and_step(p, state, options.epsilon);
  (void)probe_and_step(other, resumed, options.epsilon);
  CHECK(other.weight.value().values() == p.weight.value().values());
  REQUIRE(resumed.log().size() == 4);
  for (std::size_t k = 0; k < 4; ++k)
    CHECK((resumed.log()[k].g == state.log()[k].g && resumed.log()[k].rate == state.log()[k].rate));

  auto seeded = make_pair();
  auto strange = options;
  strange.seed = 6;
  auto elsewhere = strange.over<double>(seeded);
  CHECK(probe_and_step(seeded, elsewhere, options.epsilon).weight !=
        probe_and_step(other, resumed, options.epsilon).weight);
}

TEST_CASE("spsa: losses of several batches are weighed; a clip; what is not finite; wrong options") {
  auto p = make_pair(), q = make_pair();
  optim::Spsa options{.rate = 0.01, .epsilon = 0.5, .clip = 2};
  auto state = options.over<double>(p);
  state.take(5, 1, 3);
  state.take(1, 2, 1);
  CHECK(state.step(1, 4) == doctest::Approx(11. / 4));  // (4·3 − 1·1)/(2·½·4)
  CHECK(state.log()[0].g == doctest::Approx(2));
  state.take(5, 1, 3);
  state.zero_gradients();
  CHECK(state.step() == 0);
  const auto before = p.weight.value().values();
  state.take(NAN, 1, 1);
  CHECK_THROWS_AS((void)state.step(), NumberError);
  CHECK(p.weight.value().values() == before);
  CHECK(state.steps() == 2);
  for (const auto& bad : {optim::Spsa{.rate = -1}, optim::Spsa{.epsilon = 0}, optim::Spsa{.decay = -1},
                          optim::Spsa{.clip = -1}, optim::Spsa{.epsilon = NAN}})
    CHECK_THROWS_AS((void)bad.over<double>(q), Error);
  CHECK(train::rate_of(optim::Spsa{.rate = 0.25}) == 0.25);
  CHECK(train::state_over<double, Cpu>(options, nn::trainable<double, Cpu>(q))->parameters() == 6);
}

TEST_CASE("spsa: several samples a step, at once and alike at any thread count; their mean is the step") {
  const optim::Spsa options{.rate = 0.01, .epsilon = 1e-4, .decay = 0.1, .seed = 5, .samples = 3};
  const auto run = [&](int threads) {
    set_threads(threads);
    auto p = make_pair();
    auto state = options.over<double>(p);
    const auto loss = [&] { return bent(Read(p)); };
    const auto none = [](double) { return 0.0; };
    for (int k = 0; k < 4; ++k) {
      const auto before = p.weight.value().values();
      (void)state.measure({FunctionRef<double()>(loss), FunctionRef<double(double)>(none)}, 1, 0);
      CHECK(p.weight.value().values() == before);
      CHECK_FALSE(p.weight.perturbed());
      (void)state.step();
    }
    set_threads(1);
    std::vector<double> out = p.weight.value().values();
    for (const auto& done : state.log()) out.push_back(done.g);
    CHECK(state.steps() == 4);
    CHECK(state.log().size() == 12);
    auto again = make_pair();
    auto replayed = options.over<double>(again);
    for (const auto& done : state.log()) replayed.redo(done);
    CHECK(again.weight.value().values() == p.weight.value().values());
    CHECK(replayed.steps() == 4);
    return out;
  };
  const auto one = run(1);
  CHECK(one == run(2));
  // The first sample is what a step with one takes; the others are draws of their own.
  auto p = make_pair();
  auto single = optim::Spsa{.rate = 0.01, .epsilon = 1e-4, .decay = 0.1, .seed = 5}.over<double>(p);
  CHECK(probe_and_step(p, single, options.epsilon).g == doctest::Approx(one[4]).epsilon(1e-12));
  CHECK((one[4] != one[5] && one[5] != one[6]));
  // θ decays once, and goes along each sample's noise by a third of its g; the norm, which is clipped, is their root
  // mean square.
  for (const double clip : {0.0, 0.5}) {
    auto q = make_pair();
    auto clipped = options;
    clipped.clip = clip;
    auto state = clipped.over<double>(q);
    const std::vector<double> g{3, -1, 2}, w = q.weight.value().values();
    for (std::size_t i = 0; i < 3; ++i) state.take(g[i] * 2 * options.epsilon, 0, 1, i);
    const double norm = std::sqrt(14 / 3.0), times = clip > 0 ? clip / norm : 1;
    CHECK(state.step() == doctest::Approx(norm));
    std::vector<double> expected(4);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto zeros = Tensor<double>::zeros({4});
      Tensor<double> z(Shape{4});
      add_noise(Cpu{}, 1, 4, nullptr, 0, {optim::noise_seed(5, i), 0, 0}, 1, 1, zeros.data(), z.data());
      for (std::size_t k = 0; k < 4; ++k) expected[k] -= 0.01 * times * g[i] / 3 * z.data()[k];
    }
    for (std::size_t k = 0; k < 4; ++k)
      CHECK(q.weight.value().values()[k] == doctest::Approx(w[k] * (1 - 0.01 * 0.1) + expected[k]).epsilon(1e-9));
  }
  CHECK_THROWS_AS((void)(optim::Spsa{.samples = 0}.over<double>(p)), Error);
}

namespace {

struct Small {
  Parameter<float> weight{Tensor<float>::from({2, 2}, {0.5f, -1, 2, 0.25f})}, bias{Tensor<float>::from({2}, {0, 1})};
  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("bias", self.bias);
  }
};

}  // namespace

TEST_CASE("spsa: the log of 20,000 steps makes the parameters again, bit for bit") {
  const optim::Spsa options{.rate = 1e-3, .epsilon = 1e-3, .decay = 0.01, .seed = 9, .log_alone = true};
  const auto values = [](const Small& m) {
    auto out = m.weight.value().values();
    for (const float b : m.bias.value().values()) out.push_back(b);
    return out;
  };
  Small m;
  auto state = options.over<float>(m);
  const auto loss = [&] {
    double sum = 0;
    for (const float w : m.weight.variable().value().values()) sum += w * w;
    for (const float b : m.bias.variable().value().values()) sum += (b - 3) * (b - 3);
    return sum;
  };
  const auto none = [](double) { return 0.0; };
  const optim::Pass pass{FunctionRef<double()>(loss), FunctionRef<double(double)>(none)};
  for (int k = 0; k < 20000; ++k) {
    (void)state.measure(pass, 1, 0);
    (void)state.step(k < 10000 ? 1 : 0.5);
  }
  CHECK(std::fabs(values(m)[4] - 3) < 0.1);  // it learned
  // A state has the log alone; a run that is resumed from it goes on with the same bits.
  std::vector<float> log;
  state.for_each_state([&](const std::string& name, Tensor<float>& x) {
    CHECK(name == "spsa.log");
    log = x.values();
  });
  REQUIRE(log.size() == 40000);
  Small other;
  auto resumed = options.over<float>(other);
  resumed.set_steps(20000);
  resumed.for_each_state([&](const std::string&, Tensor<float>& x) {
    x.fill([&](auto to) { std::copy(log.begin(), log.end(), to.begin()); });
  });
  CHECK(values(other) == values(Small()));
  resumed.restored();
  CHECK(values(other) == values(m));
  resumed.restored();
  CHECK(values(other) == values(m));
}

namespace {

/// θ, which losses move, and a module of two.
struct TwoLevels {
  Pair theta = make_pair();
  Parameter<double> module{Tensor<double>::from({2}, {0.3, -0.4})};
  TwoLevels() {
    theta.weight.set_probed(true);
    theta.bias.set_probed(true);
  }
  static void parts(auto& self, auto&& visit) {
    visit("theta", self.theta);
    visit("module", self.module);
  }
  /// Σ (w·m − t)³ over θ's weight, t the batch's; its gradient of the module is added.
  double loss(double t, double weight = 0) {
    const auto w = theta.weight.variable().value().values(), b = theta.bias.variable().value().values(),
               m = module.value().values();
    double sum = 0, g[2] = {};
    for (std::size_t i = 0; i < 4; ++i) {
      const double e = w[i] * m[i % 2] + b[i % 2] - t;
      sum += e * e * e;
      g[i % 2] += 3 * e * e * w[i];
    }
    for (std::size_t i = 0; weight != 0 && i < 2; ++i) module.gradient().data()[i] += weight * g[i];
    return sum;
  }
};

/// Steps `count` of a run from what it is: batch k of the lower set is k/8, of the upper one 1 + k/8.
void two_level_steps(TwoLevels& x, optim::BilevelState<double, Cpu>& state, std::int64_t inner, int count,
                     double factor = 1) {
  for (int k = 0; k < count; ++k) {
    const auto step = state.steps();
    const auto part = [&](double t, int which) {
      const auto loss = [&] { return x.loss(t); };
      const auto gradients = [&](double weight) { return x.loss(t, weight); };
      (void)state.measure({FunctionRef<double()>(loss), FunctionRef<double(double)>(gradients)}, 1, which);
    };
    part(static_cast<double>(step) / 8, 0);
    if (step % (inner + 1) == inner) part(1 + static_cast<double>(step) / 8, 1);
    (void)state.step(factor);
  }
}

}  // namespace

TEST_CASE("bilevel: inner steps move s alone; p = s steps θ as losses of the upper set alone do; resumed in a cycle") {
  const optim::Bilevel options{.rate = 1e-3, .module_rate = 0.05, .epsilon = 1e-3, .lambda = 7, .inner = 3, .seed = 5};
  TwoLevels x;
  auto state = options.over<double>(x);
  CHECK(state.parameters() == 8);
  CHECK_FALSE(x.theta.weight.gradient().defined());
  const auto theta = x.theta.weight.value().values(), p = x.module.value().values();
  two_level_steps(x, state, 3, 3);
  CHECK(x.theta.weight.value().values() == theta);
  CHECK(x.module.value().values() == p);
  std::vector<double> lower;
  state.for_each_state([&](const std::string& name, Tensor<double>& t) {
    if (name == "module.lower") lower = t.values();
  });
  CHECK(lower != p);
  two_level_steps(x, state, 3, 1);
  CHECK(x.theta.weight.value().values() != theta);
  CHECK(x.module.value().values() != p);
  CHECK(state.log().size() == 1);
  two_level_steps(x, state, 3, 2);

  // Saved within a cycle.
  std::vector<std::pair<std::string, std::vector<double>>> kept;
  state.for_each_state([&](const std::string& name, Tensor<double>& t) { kept.push_back({name, t.values()}); });
  TwoLevels other;
  auto resumed = options.over<double>(other);
  resumed.set_steps(6);
  std::size_t i = 0;
  resumed.for_each_state([&](const std::string& name, Tensor<double>& t) {
    REQUIRE(i < kept.size());
    CHECK(name == kept[i].first);
    t.fill([&](auto to) { std::copy(kept[i].second.begin(), kept[i].second.end(), to.begin()); });
    ++i;
  });
  CHECK(i == kept.size());
  two_level_steps(x, state, 3, 7);
  two_level_steps(other, resumed, 3, 7);
  CHECK(other.theta.weight.value().values() == x.theta.weight.value().values());
  CHECK(other.module.value().values() == x.module.value().values());

  // No inner steps: s stays p where p does not move, and g is that of the upper set's losses, whatever λ is.
  for (const double lambda : {0.0, 1e6}) {
    auto alone = options;
    alone.inner = 0;
    alone.module_rate = 0;
    alone.lambda = lambda;
    TwoLevels a, b;
    auto bilevel = alone.over<double>(a);
    nn::Named<double, Cpu> moved{{"weight", b.theta.weight}, {"bias", b.theta.bias}};
    auto mezo = optim::Spsa{.rate = 1e-3, .epsilon = 1e-3, .seed = 5}.over<double>(moved);
    for (int k = 0; k < 5; ++k) {
      two_level_steps(a, bilevel, 0, 1);
      const auto loss = [&] { return b.loss(1 + k / 8.0); };
      const auto none = [](double) { return 0.0; };
      (void)mezo.measure({FunctionRef<double()>(loss), FunctionRef<double(double)>(none)}, 1, 0);
      (void)mezo.step();
      CHECK(bilevel.log()[static_cast<std::size_t>(k)].g == mezo.log()[static_cast<std::size_t>(k)].g);
    }
    CHECK(a.theta.weight.value().values() == b.theta.weight.value().values());
    CHECK(a.module.value().values() == TwoLevels().module.value().values());
  }
  // λ = 0: the module follows Adam on the upper set.
  auto first = options;
  first.inner = 0;
  first.lambda = 0;
  first.rate = 0;
  TwoLevels a, b;
  auto bilevel = first.over<double>(a);
  auto adam = optim::AdamW{.rate = 0.05}.over<double>(b.module);
  for (int k = 0; k < 4; ++k) {
    two_level_steps(a, bilevel, 0, 1);
    (void)b.loss(1 + k / 8.0, 1);
    (void)adam.step();
    CHECK(a.module.value().values() == b.module.value().values());
  }
  auto further = make_pair();
  test::check_error({"bilevel: expected every parameter before the first step"}, [&] { bilevel.add(further); });
  CHECK_THROWS_AS((void)(optim::Bilevel{.lambda = -1}.over<double>(a)), Error);
  CHECK_THROWS_AS((void)(optim::Bilevel{.inner = -1}.over<double>(a)), Error);
}

TEST_CASE("bilevel: a difference that is not finite is an error that changes nothing") {
  TwoLevels x;
  auto state = optim::Bilevel{.module_rate = 0.05, .inner = 0}.over<double>(x);
  const auto theta = x.theta.weight.value().values(), module = x.module.value().values();
  const auto loss = [] { return std::nan(""); };
  const auto gradients = [&](double weight) { return x.loss(1, weight); };
  (void)state.measure({FunctionRef<double()>(loss), FunctionRef<double(double)>(gradients)}, 1, 0);
  CHECK_THROWS_AS((void)state.step(), NumberError);
  CHECK(x.theta.weight.value().values() == theta);
  CHECK(x.module.value().values() == module);
  CHECK(state.steps() == 0);
  state.zero_gradients();
  two_level_steps(x, state, 0, 1);
  CHECK(x.module.value().values() != module);
}

TEST_CASE("bilevel: a parameter that was frozen since stays, and so does its copy") {
  for (const std::int64_t inner : {0, 1}) {
    CAPTURE(inner);
    auto a = Parameter<double>::ones({2, 2}), b = Parameter<double>::ones({3});
    nn::Named<double, Cpu> both{{"a", a}, {"b", b}};
    auto state = optim::Bilevel{.module_rate = 0.05, .inner = inner}.over<double>(both);
    b.set_trainable(false);
    a.gradient() = Tensor<double>::full({2, 2}, 3);
    CHECK(state.step() == doctest::Approx(6));
    state.for_each_state([&](const std::string& name, const Tensor<double>& t) {
      CAPTURE(name);
      if (name == "b" || name == "b.lower") CHECK(t.values() == std::vector<double>(3, 1));
      if (name == (inner == 0 ? "a" : "a.lower")) CHECK(t.values()[0] == doctest::Approx(0.95).epsilon(1e-6));
    });
  }
}

TEST_CASE("bilevel: what a step that was not done had added is gone, in an inner step and in an outer one") {
  const optim::Bilevel options{.rate = 1e-3, .module_rate = 0.02, .inner = 1, .seed = 5};
  for (const int done : {0, 1}) {
    CAPTURE(done);
    TwoLevels x, other;
    auto failed = options.over<double>(x), right = options.over<double>(other);
    two_level_steps(x, failed, 1, done);
    const auto loss = [&] { return x.loss(0.5); };
    const auto gradients = [&](double weight) { return x.loss(0.5, weight); };
    (void)failed.measure({FunctionRef<double()>(loss), FunctionRef<double(double)>(gradients)}, 1, 0);
    failed.zero_gradients();
    two_level_steps(x, failed, 1, 4 - done);
    two_level_steps(other, right, 1, 4);
    CHECK(x.theta.weight.value().values() == other.theta.weight.value().values());
    CHECK(x.module.value().values() == other.module.value().values());
  }
}

TEST_CASE("bilevel: its equations, step by step: both copies' Adam, what weighs how much, a schedule's factor of all") {
  const optim::Bilevel options{.rate = 1e-3, .module_rate = 0.02, .epsilon = 1e-3, .lambda = 7, .inner = 2, .seed = 5};
  TwoLevels x, p, s;
  s.theta = p.theta;
  auto state = options.over<double>(x);
  nn::Named<double, Cpu> moved{{"weight", p.theta.weight}, {"bias", p.theta.bias}};
  auto theta = optim::Spsa{.rate = 1e-3, .epsilon = 1e-3, .seed = 5}.over<double>(moved);
  auto upper = optim::AdamW{.rate = 0.02}.over<double>(p.module),
       lower = optim::AdamW{.rate = 0.02}.over<double>(s.module);
  for (int k = 0; k < 9; ++k) {
    CAPTURE(k);
    const double factor = 1 - k / 16.0, t = k / 8.0, u = 1 + t;
    two_level_steps(x, state, 2, 1, factor);
    if (k % 3 < 2) {
      (void)s.loss(t, 1);
      (void)lower.step(factor);
    } else {
      (void)p.loss(t, 7);
      (void)p.loss(u, 1);
      double phi[2];
      for (const int sign : {1, -1}) {
        theta.probe(sign);
        phi[sign < 0] = p.loss(u) + 7 * (p.loss(t) - s.loss(t));
      }
      theta.probe(0);
      theta.take(phi[0], phi[1], 1);
      (void)theta.step(factor);
      (void)upper.step(factor);
    }
    const auto near = [](const std::vector<double>& found, const std::vector<double>& expected) {
      for (std::size_t i = 0; i < expected.size(); ++i) CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-9));
    };
    near(x.theta.weight.value().values(), p.theta.weight.value().values());
    near(x.theta.bias.value().values(), p.theta.bias.value().values());
    near(x.module.value().values(), p.module.value().values());
    state.for_each_state([&](const std::string& name, Tensor<double>& found) {
      if (name == "module.lower") near(found.values(), s.module.value().values());
    });
  }
  CHECK(theta.log().size() == 3);
}

TEST_CASE("optimizers: a recipe's numbers reach the one that it asks for") {
  Recipe r{.rate = 0.5, .decay = 0.25, .clip = 3};
  const auto adam = std::get<optim::AdamW>(train::optimizer_of(r, 9));
  CHECK((adam.rate == 0.5 && adam.decay == 0.25 && adam.clip == 3));
  r.epsilon = 0.125, r.samples = 4, r.log_alone = true;
  const auto spsa = std::get<optim::Spsa>(train::optimizer_of(r, 9));
  CHECK((spsa.rate == 0.5 && spsa.decay == 0.25 && spsa.clip == 3 && spsa.epsilon == 0.125));
  CHECK((spsa.seed == 9 && spsa.samples == 4 && spsa.log_alone));
  CHECK_FALSE(train::inner_of(train::optimizer_of(r, 9)));
  r.inner = 6, r.lambda = 11, r.module_rate = 0.75;
  const auto refused = doctest::Contains("expected no decay and no clipped norm, found");
  CHECK_THROWS_WITH_AS(train::optimizer_of(r, 9), refused, Error);
  r.clip = 0;
  CHECK_THROWS_WITH_AS(train::optimizer_of(r, 9), refused, Error);
  r.decay = 0, r.clip = 3;
  CHECK_THROWS_WITH_AS(train::optimizer_of(r, 9), refused, Error);
  r.clip = 0;
  const auto two = std::get<optim::Bilevel>(train::optimizer_of(r, 9));
  CHECK((two.rate == 0.5 && two.module_rate == 0.75 && two.epsilon == 0.125 && two.lambda == 11));
  CHECK((two.inner == 6 && two.seed == 9 && train::inner_of(two) == 6));
}

namespace {

/// Three layers and a classifier of three, of the same float values in every T.
template <Real T>
struct Layers {
  static constexpr Index rows = 16, width = 64, classes = 3;
  std::vector<Parameter<T>> weights;
  nn::Named<T, Cpu> named;
  Tensor<T> x = random({rows, width}, 9, 1);

  Layers() {
    for (std::uint32_t i = 0; i < 4; ++i) {
      weights.push_back(Parameter<T>(random({i < 3 ? width : classes, width}, i, 0.15)));
      named.push_back({std::to_string(i), weights.back()});
    }
  }
  static Tensor<T> random(const Shape& shape, std::uint32_t site, double deviation) {
    Tensor<float> drawn(shape);
    fill_normal(drawn, {29, site, 0}, deviation);
    return nn::cast<T>(drawn);
  }
  Tensor<T> logits() const {
    Var<T> h(x);
    for (int i = 0; i < 3; ++i) h = gelu(linear(h, weights[static_cast<std::size_t>(i)]));
    return linear(h, weights[3]).value();
  }
};

/// Of logits: their mean cross entropy as the op has it, and summed in double.
template <Real T>
std::pair<double, double> loss_of(const Tensor<T>& logits) {
  std::vector<std::int32_t> labels;
  for (int i = 0; i < 16; ++i) labels.push_back(i % 3);
  const double rounded =
      static_cast<double>(cross_entropy(Var<T>(logits), Tensor<std::int32_t>::from({16}, labels)).value().item());
  const auto y = logits.values();
  double sum = 0;
  for (std::size_t i = 0; i < 16; ++i) {
    double exps = 0;
    for (std::size_t j = 0; j < 3; ++j) exps += std::exp(static_cast<double>(y[3 * i + j]));
    sum += std::log(exps) - static_cast<double>(y[3 * i + i % 3]);
  }
  return {rounded, sum / 16};
}

}  // namespace

TEST_CASE(
    "spsa: g in float is off by the rounding of two losses; losses summed in double would leave about half of it") {
  const double epsilon = 1e-3;
  Layers<float> narrow;
  Layers<double> wide;
  const optim::Spsa options{.epsilon = epsilon, .seed = 3};
  auto narrow_state = options.over<float>(narrow.named);
  auto wide_state = options.over<double>(wide.named);
  double as_it_is = 0, in_double = 0, loss = 0;
  const int draws = 64;
  for (int draw = 0; draw < draws; ++draw) {
    double g = 0, g_double = 0, exact = 0;
    for (const int sign : {1, -1}) {
      narrow_state.probe(sign);
      wide_state.probe(sign);
      const auto [rounded, summed] = loss_of(narrow.logits());
      g += sign * rounded / (2 * epsilon);
      g_double += sign * summed / (2 * epsilon);
      exact += sign * loss_of(wide.logits()).second / (2 * epsilon);
      loss = rounded;
    }
    narrow_state.probe(0);
    wide_state.probe(0);
    (void)narrow_state.step();  // of nothing: on to the next draw
    (void)wide_state.step();
    as_it_is += (g - exact) * (g - exact) / draws;
    in_double += (g_double - exact) * (g_double - exact) / draws;
  }
  // Two means, each rounded to the nearest float: uniform within half a unit of their last place.
  const double unit = std::ldexp(1.0, std::ilogb(loss) - 23), estimate = std::sqrt(2 / 12.0) * unit / (2 * epsilon);
  CAPTURE(estimate);
  CAPTURE(std::sqrt(as_it_is));
  CAPTURE(std::sqrt(in_double));
  CHECK(std::sqrt(as_it_is) < 3 * estimate);
  CHECK(std::sqrt(as_it_is) > estimate / 2);
  CHECK(in_double < as_it_is);
  CHECK(std::sqrt(in_double) > std::sqrt(as_it_is) / 4);
}

TEST_CASE("perturbed parameters: ops read them alike, whole, by rows and gathered; a tape refuses") {
  const auto random = [](const Shape& shape, std::uint32_t site) {
    Tensor<double> out(shape);
    fill_normal(out, {23, site, 0}, 1.0);
    return out;
  };
  for (const Index in : {3, 40, 700}) {
    const Index out = 391;  // several chunks of the widest
    Parameter<double> w(random({out, in}, 1)), b(random({out}, 2));
    const auto x = random({6, in}, 3);
    const auto ids = Tensor<std::int32_t>::from({5}, {7, 0, 390, 7, 33});
    const auto labels = Tensor<std::int32_t>::from({6}, {5, -100, 390, 0, 8, 100});
    w.perturb({4, 5, 6}, 0.25);
    b.perturb({4, 7, 6}, -0.25);
    const Parameter<double> whole(w.variable().value()), bias(b.variable().value());
    CHECK(whole.value().values() != w.value().values());
    const auto same = [](const Var<double>& a, const Var<double>& c) {
      const auto p = a.value().values(), q = c.value().values();
      REQUIRE(p.size() == q.size());
      for (std::size_t i = 0; i < p.size(); ++i) CHECK(p[i] == doctest::Approx(q[i]).epsilon(1e-12).scale(1));
    };
    same(linear(x, w, b), linear(x, whole, bias));
    same(linear(x, w), linear(x, whole));
    same(linear_activation(x, w, b, Activation::gelu), linear_activation(x, whole, bias, Activation::gelu));
    same(linear_cross_entropy(x, w, b, labels), linear_cross_entropy(x, whole, bias, labels));
    CHECK(embedding(w, ids).value().values() == embedding(whole, ids).value().values());
    const auto rows = w.read_rows(100, 103).values(), all = whole.value().values();
    CHECK(std::equal(rows.begin(), rows.end(), all.begin() + 100 * in));
    {
      Tape tape;
      CHECK_THROWS_AS((void)linear(x, w, b), Error);
    }
    const auto none = Tensor<std::int32_t>::full({6}, -100);
    CHECK(test::message_of([&] {
            (void)linear_cross_entropy(x, w, b, none);
          }).starts_with("linear_cross_entropy: no row"));
    w.perturb({}, 0);
    CHECK_FALSE(w.perturbed());
  }
  Parameter<double> scalar(Tensor<double>::full({}, 2));
  scalar.perturb({4, 5, 6}, 0.25);
  CHECK(scalar.variable().shape() == Shape{});
  CHECK(scalar.variable().value().item() != 2);
}

TEST_CASE("noise: moments of a normal distribution, the same bits from anywhere, in float the formula's") {
  const Key key{3, 5, 7};
  constexpr Index n = 1 << 16;
  const auto zeros = Tensor<float>::zeros({n});
  Tensor<float> z(Shape{n});
  add_noise(Cpu{}, 1, n, nullptr, 0, key, 1, 1, zeros.data(), z.data());
  double moments[5] = {}, neighbours = 0, half = 0;
  const auto v = z.values();
  for (std::size_t i = 0; i < v.size(); ++i) {
    double power = 1;
    for (double& m : moments) m += power / n, power *= static_cast<double>(v[i]);
    if (i) neighbours += static_cast<double>(v[i] * v[i - 1]) / n;
    if (i >= 16) half += static_cast<double>(v[i] * v[i - 16]) / n;
  }
  CHECK(std::fabs(moments[1]) < 0.016);  // four deviations of the mean
  CHECK(std::fabs(moments[2] - 1) < 0.022);
  CHECK(std::fabs(moments[3]) < 0.06);
  CHECK(std::fabs(moments[4] - 3) < 0.16);
  CHECK(std::fabs(neighbours) < 0.016);
  CHECK(std::fabs(half) < 0.016);
  for (const Index width : {1, 7, 32, 77}) {
    Tensor<float> rows(Shape{3 * width});
    const std::int32_t numbers[] = {5, 0, 21};
    add_noise(Cpu{}, 3, width, numbers, 0, key, 1, 1, zeros.data(), rows.data());
    for (Index i = 0; i < 3; ++i)
      for (Index j = 0; j < width; ++j) CHECK(rows.data()[i * width + j] == v[numbers[i] * width + j]);
    add_noise(Cpu{}, 2, width, nullptr, 9, key, 1, 1, zeros.data(), rows.data());
    for (Index i = 0; i < 2 * width; ++i) CHECK(rows.data()[i] == v[9 * width + i]);
  }
  for (std::uint64_t e = 0; e < 4096; ++e) {
    CHECK(normal_float(key, e) == doctest::Approx(v[e]).epsilon(1e-5));
    const double u = (static_cast<double>(random_bits(key, e & ~std::uint64_t{16}) >> 1) + 0.5) * 0x1p-31,
                 turn = 6.283185307179586 * random_bits(key, e | 16) * 0x1p-32, r = std::sqrt(-2 * std::log(u));
    CHECK(std::fabs(r * (e & 16 ? std::sin(turn) : std::cos(turn)) - static_cast<double>(v[e])) < 2e-5);
  }
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
