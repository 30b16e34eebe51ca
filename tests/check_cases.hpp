// Owns: what is checked of every line of cases.hpp.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include <meft/autodiff/gradcheck.hpp>

#include "cases.hpp"

namespace meft::test {

template <class T>
std::vector<Tensor<T>> inputs_of(const Case& c, const Shapes& shapes) {
  std::vector<Tensor<T>> out;
  for (std::size_t i = 0; i < shapes.size(); ++i) out.push_back(random_tensor<T>(shapes[i], 11 + i, c.low, c.high));
  return out;
}
template <class T>
std::vector<Var<T>> constants(const std::vector<Tensor<T>>& x) {
  return {x.begin(), x.end()};
}

/// The result and the gradients of its weighted sum, as bits to compare.
inline std::vector<std::vector<float>> results(const Case& c, int threads) {
  set_threads(threads);
  Tape tape;
  std::vector<Var<float>> x;
  for (const auto& value : inputs_of<float>(c, c.big)) x.push_back(tape.watch(value));
  const auto y = c.run(x);
  std::vector<std::vector<float>> out{y.value().values()};
  tape.backward(y, random_tensor<float>(y.shape(), 99));
  for (const auto& v : x) out.push_back(tape.gradient(v).values());
  return out;
}

/// Gradients in double agree with central differences.
inline void check_gradients(const std::vector<Case>& list) {
  for (const Case& c : list) {
    CAPTURE(c.name);
    const auto loss = [&](const std::vector<Var<double>>& x) {
      const auto y = c.run(x);
      return sum(y * random_tensor<double>(y.shape(), 99));
    };
    CHECK(gradcheck(loss, inputs_of<double>(c, c.shapes)) < 1e-7);
  }
}

/// Float agrees with double.
inline void check_precision(const std::vector<Case>& list) {
  for (const Case& c : list) {
    CAPTURE(c.name);
    const auto in = inputs_of<float>(c, c.shapes);
    std::vector<Var<double>> wide;
    for (const auto& x : in) {
      Tensor<double> copy(x.shape());
      for (Index i = 0; i < x.size(); ++i) copy.data()[i] = x.data()[i];
      wide.push_back(copy);
    }
    const auto y = c.run(constants(in)).value();
    const auto expected = c.run(wide).value();
    REQUIRE(y.shape() == expected.shape());
    double scale = 1, worst = 0;
    for (Index i = 0; i < y.size(); ++i) {
      scale = std::max(scale, std::abs(expected.data()[i]));
      worst = std::max(worst, std::abs(y.data()[i] - expected.data()[i]));
    }
    CHECK(worst < 2e-6 * scale);
  }
}

/// The tape holds exactly the bytes that the line states.
inline void check_saved(const std::vector<Case>& list) {
  Cpu::pool().set_caching(false);
  for (const Case& c : list) {
    CAPTURE(c.name);
    const auto in = inputs_of<float>(c, c.shapes);
    c.run(constants(in));  // what a case makes once and keeps
    Tape tape;
    const std::size_t before = Cpu::pool().read().total;
    {
      std::vector<Var<float>> x;
      for (const auto& value : in) x.push_back(tape.watch(value.clone()));
      CHECK(c.run(x).recorded());
    }
    std::size_t expected = 0;
    for (Index elements : c.saved) expected += block(elements);
    CHECK(Cpu::pool().read().total - before == expected);
  }
  Cpu::pool().set_caching(true);
}

/// The same bits with and without a tape, on one and on two threads.
inline void check_bits(const std::vector<Case>& list) {
  const int before = threads();
  for (const Case& c : list) {
    CAPTURE(c.name);
    const auto one = results(c, 1), two = results(c, 2);
    const auto untaped = c.run(constants(inputs_of<float>(c, c.big))).value().values();
    REQUIRE(one.size() == two.size());
    for (std::size_t i = 0; i < one.size(); ++i) {
      CAPTURE(i);
      CHECK(std::memcmp(one[i].data(), two[i].data(), one[i].size() * sizeof(float)) == 0);
    }
    CHECK(std::memcmp(one[0].data(), untaped.data(), untaped.size() * sizeof(float)) == 0);
  }
  set_threads(before);
}

}  // namespace meft::test
