// Owns: the one gradient test: a scalar function's gradients against central differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <meft/autodiff/op.hpp>

namespace meft {

/// The largest difference between the tape's gradients of f(inputs) and central differences, relative to the largest
/// gradient of that input (at least 1e-3); infinite where either is not finite. `f` takes a span of variables and gives
/// a scalar variable. Meant for double (difference error about 1e-9 at the default step).
template <class F>
double gradcheck(const F& f, const std::vector<Tensor<double, Cpu>>& inputs, double step = 1e-5) {
  std::vector<Tensor<double, Cpu>> analytic;
  {
    Tape tape;
    tape.collect();  // parameters that f uses get nothing
    std::vector<Var<double, Cpu>> watched;
    for (const auto& x : inputs) watched.push_back(tape.watch(x.clone()));
    tape.backward(f(watched));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      auto g = tape.gradient(watched[i]);
      analytic.push_back(g.defined() ? g : Tensor<double, Cpu>::zeros(inputs[i].shape()));
    }
  }
  double worst = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    double scale = 1e-3, difference = 0;
    for (Index e = 0; e < inputs[i].size(); ++e) {
      const auto shifted = [&](double by) {
        std::vector<Var<double, Cpu>> x;
        for (const auto& input : inputs) x.push_back(input.clone());
        Tensor<double, Cpu> moved = inputs[i].clone();
        moved.data()[e] += by;
        x[i] = moved;
        return f(x).value().item();
      };
      const double numeric = (shifted(step) - shifted(-step)) / (2 * step), exact = analytic[i].data()[e];
      scale = std::max(scale, std::abs(exact));
      difference = std::max(difference, std::abs(numeric - exact));
      if (!std::isfinite(numeric) || !std::isfinite(exact)) return std::numeric_limits<double>::infinity();
    }
    worst = std::max(worst, difference / scale);
  }
  return worst;
}

}  // namespace meft
