// Owns: what a method adds to a linear layer y = x·Wᵀ + b: nothing, or one of the updates here.
// Must not know: the methods, how the weight is kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include <meft/nn/module.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/linear.hpp>
#include <meft/tensor/random.hpp>

namespace meft::nn {

/// ΔW = (α/r)·B·A. Hu et al., "LoRA", arXiv 2106.09685, equation 3.
template <Real T, Backend B = Cpu>
struct Lora {
  Parameter<T, B> a, b;  // [r, in] normal, [out, r] zero
  double scale = 1;

  static Lora make(Index in, Index out, Index rank, double alpha, Key key) {
    Lora lora{Parameter<T, B>::empty({rank, in}), Parameter<T, B>::zeros({out, rank}),
              alpha / static_cast<double>(rank)};
    fill_normal(lora.a.value(), key, 1.0 / std::sqrt(static_cast<double>(in)));
    return lora;
  }

  /// y + ΔW·x.
  Var<T, B> operator()(const Var<T, B>& x, const Var<T, B>& y) const {
    const auto more = linear(linear(x, a), b) * T(scale);  // what it was made from is freed by now
    return y + more;
  }

  /// W [out, in] and b, or an empty one, as they are with the update.
  void merge(std::vector<double>& w, std::vector<T>& /*bias*/) const {
    const auto as = a.value().values(), bs = b.value().values();
    const auto rank = static_cast<std::size_t>(a.shape()[0]), columns = static_cast<std::size_t>(a.shape()[1]),
               rows = w.size() / columns;
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < rank; ++k)
        for (std::size_t j = 0; j < columns; ++j)
          w[i * columns + j] +=
              scale * static_cast<double>(bs[i * rank + k]) * static_cast<double>(as[k * columns + j]);
  }

  static void parts(auto& self, auto&& visit) {
    visit("lora_A.weight", self.a);
    visit("lora_B.weight", self.b);
  }
};

/// l ⊙ y: a factor for each feature of the output.
template <Real T, Backend B = Cpu>
struct Scale {
  Parameter<T, B> factors;  // l [out]

  static Scale ones(Index out) { return {Parameter<T, B>::ones({out})}; }

  Var<T, B> operator()(const Var<T, B>& /*x*/, const Var<T, B>& y) const { return y * factors; }

  void merge(std::vector<double>& w, std::vector<T>& bias) const {
    const auto l = factors.value().values();
    const std::size_t columns = w.size() / l.size();
    for (std::size_t i = 0; i < w.size(); ++i) w[i] *= static_cast<double>(l[i / columns]);
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] *= l[i];
  }

  static void parts(auto& self, auto&& visit) { visit("scale", self.factors); }
};

/// Chosen elements of a packed weight, which train. They stand in the weight itself, where `Linear::fold` writes them,
/// so that y is what it is without. A handle: copies have the same elements.
template <Real T, Backend B = Cpu>
struct Sparse {
  Parameter<T, B> values;  // [k], or none
  std::shared_ptr<Tensor<std::int32_t, B>> indices = std::make_shared<Tensor<std::int32_t, B>>();
  // [k] ascending: i·in + j of W[i, j]; empty with values: all elements, in order

  bool trains() const { return values.defined(); }

  /// From now on `chosen` elements train, with their values in w, [out·in] row-major; {}: none does.
  void choose(const std::vector<std::int32_t>& chosen, const std::vector<T>& w) {
    values.gradient() = values.value() = {};
    *indices = {};
    if (chosen.empty()) return;
    std::vector<T> from;
    for (const auto at : chosen) from.push_back(w[static_cast<std::size_t>(at)]);
    const UseScope use(Use::parameter);
    const Shape shape{static_cast<Index>(chosen.size())};
    *indices = Tensor<std::int32_t, B>::from(shape, chosen);
    values.value() = Tensor<T, B>::from(shape, from);
  }
  /// All of them do.
  void choose_all(const std::vector<T>& w) {
    choose({}, w);
    const UseScope use(Use::parameter);
    values.value() = Tensor<T, B>::from({static_cast<Index>(w.size())}, w);
  }

  Var<T, B> operator()(const Var<T, B>& /*x*/, const Var<T, B>& y) const { return y; }

  /// Where the weight is kept in bf16 the values are not: they are taken as they are.
  void merge(std::vector<double>& w, std::vector<T>& /*bias*/) const {
    if (!trains()) return;
    const auto v = values.value().values();
    if (!indices->defined()) return void(std::copy(v.begin(), v.end(), w.begin()));
    const auto at = indices->values();
    for (std::size_t m = 0; m < v.size(); ++m) w[static_cast<std::size_t>(at[m])] = static_cast<double>(v[m]);
  }

  static void parts(auto& self, auto&& visit) {
    visit("sparse.indices", *self.indices);
    visit("sparse.values", self.values);
  }
};

/// Each is called with a layer's x and y and gives what takes the place of y; `merge` takes it into the weight.
template <Real T, Backend B = Cpu>
using Update = std::variant<std::monostate, Lora<T, B>, Scale<T, B>, Sparse<T, B>>;

}  // namespace meft::nn
