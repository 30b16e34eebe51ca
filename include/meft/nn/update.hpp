// Owns: what a method adds to a linear layer y = x·Wᵀ + b: nothing, or one of the updates here.
// Must not know: the methods, how the weight is kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <variant>
#include <vector>

#include <meft/nn/module.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/sparse_linear.hpp>
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

/// W = W_0 + V_o·S·V_iᵀ: a weight of whose change elements in a basis train, those of S [r, c]. A handle's.
template <Real T, Backend B = Cpu>
struct Turned {
  std::shared_ptr<Basis<T, B>> basis;  // of several weights of a shape; empty until it is found
  bool first = true;                   // of these weights
  Tensor<T, B> start{};                // W_0
  std::vector<T> seen{};               // the values that W was made of, where they are the host's

  /// In U on the host, or in T where the values are.
  template <Real U, Backend D>
  static Tensor<U, D> changed(const Tensor<U, D>& w, const Basis<U, D>& v, const Tensor<std::int32_t, D>& at,
                              const Tensor<U, D>& values) {
    auto s = values.reshape({values.size()});
    const Index out = w.dim(0), in = w.dim(1), r = v.out.dim(1), c = v.in.dim(1);
    if (at.defined()) {
      s = Tensor<U, D>::zeros({v.elements()});
      scatter_rows(D{}, at.size(), 1, values.data(), at.data(), s.data());
    }
    s = s.reshape({r, c});
    const bool out_first = out * c * (r + in) <= r * in * (c + out);
    return map(Add{}, w, out_first ? gemm(gemm(v.out, s), t(v.in)) : gemm(v.out, gemm(s, t(v.in))));
  }
};

/// What is known of the chosen elements of a weight beside their values, where others may be chosen in their place. A
/// handle's.
template <Real T, Backend B = Cpu>
struct Chosen {
  bool decays = false;              // to where they started
  Tensor<T, B> start{};             // the values that they started with, where they are of the weight itself
  Tensor<std::int32_t, B> held{};   // elements that trained before and changed: numbers, ascending,
  Tensor<T, B> held_values{};       // what they are,
  std::vector<T> held_originals{};  // and what they were
};

/// Chosen elements of a packed weight, which train. They stand in the weight itself, where `Linear::fold` writes them,
/// so that y is what it is without. Or elements of its change in a basis. A handle: copies have the same elements.
template <Real T, Backend B = Cpu>
struct Sparse {
  Parameter<T, B> values{};  // [k], or none
  std::shared_ptr<Tensor<std::int32_t, B>> indices = std::make_shared<Tensor<std::int32_t, B>>();
  // [k] ascending: i·in + j of W[i, j], or i·c + j of S; empty with values: all elements, in order
  std::shared_ptr<Turned<T, B>> turned{};  // none: elements of W itself
  std::shared_ptr<Chosen<T, B>> chosen = std::make_shared<Chosen<T, B>>();

  const Basis<T, B>& basis() const {
    static const Basis<T, B> none;
    return turned ? *turned->basis : none;
  }
  bool trains() const { return values.defined(); }

  /// From now on `elements` train, numbers ascending, with their values in w, [out·in] row-major; {}: none does.
  void choose(const std::vector<std::int32_t>& elements, const std::vector<T>& w) {
    values.gradient() = values.value() = {};
    values.anchor() = chosen->start = {};
    *indices = {};
    if (elements.empty()) return;
    std::vector<T> from;
    for (const auto at : elements) from.push_back(w[static_cast<std::size_t>(at)]);
    const UseScope use(Use::parameter);
    *indices = Tensor<std::int32_t, B>::from({static_cast<Index>(elements.size())}, elements);
    start_from(std::move(from), w);
  }
  /// All of them do.
  void choose_all(const std::vector<T>& w) {
    choose({}, w);
    start_from(w, w);
  }
  /// All of them have gradients for a while, and are then what they are in w: see detail::Probe.
  void probe_all(const std::vector<T>& w) {
    choose({}, w);
    const UseScope use(Use::parameter);
    begin(w, w);
  }

  /// What trains stays as it is from now on, and nothing trains.
  void hold(const PackedWeight<T, B>& w) {
    if (!trains() || !chosen->start.defined()) return;
    write(w);
    const auto at = numbers(static_cast<std::size_t>(values.size()));
    const auto now = values.value().values(), start = chosen->start.values();
    std::vector<Held> all, old;
    for (std::size_t i = 0; i < at.size(); ++i) all.push_back({at[i], now[i], start[i]});
    for (const auto& one : held()) {
      const auto same = std::lower_bound(all.begin(), all.end(), one);
      if (same != all.end() && same->at == one.at) same->original = one.original;
      else old.push_back(one);
    }
    all.insert(all.end(), old.begin(), old.end());
    std::sort(all.begin(), all.end());
    std::erase_if(all, [](const Held& one) { return one.value == one.original; });
    set_held(all);
    choose({}, {});
  }
  /// Has elements of the weight that nothing trains of be these from now on.
  void hold(const PackedWeight<T, B>& w, const std::vector<std::int32_t>& at, const std::vector<T>& to) {
    const auto was = w.unpack().values();
    std::vector<Held> all;
    for (std::size_t i = 0; i < at.size(); ++i) all.push_back({at[i], to[i], was[static_cast<std::size_t>(at[i])]});
    set_held(all);
    if (!all.empty()) w.write(chosen->held, chosen->held_values);
  }
  /// Has the weight be what it was before anything trained, and nothing trains.
  void restore(const PackedWeight<T, B>& w) {
    if (turned && turned->start.defined()) {
      w.write({}, std::exchange(turned->start, {}));
      choose({}, {});
    }
    hold(w);
    if (!chosen->held.defined()) return;
    w.write(chosen->held, Tensor<T, B>::from(chosen->held.shape(), chosen->held_originals));
    set_held({});
  }

  /// Has the weight be what the values say. Errors: several draws of noise on them at once, which would take as many
  /// weights; noise in a basis.
  void write(const PackedWeight<T, B>& w) const {
    require(!values.perturbed() || (!basis().defined() && !SampleScope::active()),
            "sparse: noise on chosen elements takes one sample a step, and no basis", values.shape());
    if (!basis().defined()) return w.write(*indices, values.read_rows(0, values.size()));
    const auto& v = values.value();
    if constexpr (B::on_host) {  // elsewhere a recorded step makes it anew whenever it is run
      if (std::equal(turned->seen.begin(), turned->seen.end(), v.data(), v.data() + v.size())) return;
      turned->seen = v.values();
    }
    const UseScope use(Use::workspace);
    w.write({}, Turned<T, B>::changed(turned->start, basis(), *indices, v));
  }

  Var<T, B> operator()(const Var<T, B>& /*x*/, const Var<T, B>& y) const { return y; }

  /// Where the weight is kept in bf16 the values are not: they are taken as they are.
  void merge(std::vector<double>& w, std::vector<T>& /*bias*/) const {
    for (const auto& one : held()) w[static_cast<std::size_t>(one.at)] = static_cast<double>(one.value);
    if (!trains()) return;
    if (basis().defined()) {
      const auto wide = [](const Tensor<T, B>& x) {
        const auto host = x.values();
        return Tensor<double>::from(x.shape(), std::vector<double>(host.begin(), host.end()));
      };
      const auto at = indices->defined() ? indices->host() : Tensor<std::int32_t>();
      w = Turned<double>::changed(wide(turned->start), Basis<double>{wide(basis().out), wide(basis().in)}, at,
                                  wide(values.value()))
              .values();
      return;
    }
    const auto v = values.value().values();
    if (!indices->defined()) return void(std::copy(v.begin(), v.end(), w.begin()));
    const auto at = indices->values();
    for (std::size_t m = 0; m < v.size(); ++m) w[static_cast<std::size_t>(at[m])] = static_cast<double>(v[m]);
  }

  static void parts(auto& self, auto&& visit) {
    visit("sparse.indices", *self.indices);
    visit("sparse.values", self.values);
    visit("sparse.held_indices", self.chosen->held);
    visit("sparse.held_values", self.chosen->held_values);
    if (!self.turned || !self.turned->first) return;
    visit("sparse.basis_out", self.turned->basis->out);
    visit("sparse.basis_in", self.turned->basis->in);
  }

 private:
  struct Held {
    std::int32_t at;
    T value, original;
    bool operator<(const Held& other) const { return at < other.at; }
  };
  std::vector<Held> held() const {
    std::vector<Held> out;
    if (!chosen->held.defined()) return out;
    const auto at = chosen->held.values();
    const auto to = chosen->held_values.values();
    for (std::size_t i = 0; i < at.size(); ++i) out.push_back({at[i], to[i], chosen->held_originals[i]});
    return out;
  }
  void set_held(const std::vector<Held>& all) {
    std::vector<std::int32_t> at;
    std::vector<T> to;
    chosen->held_originals.clear();
    for (const auto& one : all) {
      at.push_back(one.at);
      to.push_back(one.value);
      chosen->held_originals.push_back(one.original);
    }
    chosen->held = {}, chosen->held_values = {};
    if (all.empty()) return;
    const UseScope use(Use::parameter);
    const Shape shape{static_cast<Index>(all.size())};
    chosen->held = Tensor<std::int32_t, B>::from(shape, at);
    chosen->held_values = Tensor<T, B>::from(shape, to);
  }
  /// Which elements of the weight the `count` that train are.
  std::vector<std::int32_t> numbers(std::size_t count) const {
    if (indices->defined()) return indices->values();
    std::vector<std::int32_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  /// They start `from` their values in the weight, those that are held from these: the weight may have them rounded.
  void start_from(std::vector<T> from, const std::vector<T>& w) {
    const auto at = numbers(from.size());
    for (const auto& one : held())
      if (const auto same = std::lower_bound(at.begin(), at.end(), one.at); same != at.end() && *same == one.at)
        from[static_cast<std::size_t>(same - at.begin())] = one.value;
    const UseScope use(Use::parameter);
    begin(from, w);
    if (!turned) chosen->start = Tensor<T, B>::from(values.shape(), from);
    if (chosen->decays) values.anchor() = chosen->start;
  }
  void begin(const std::vector<T>& elements, const std::vector<T>& w) {
    const Shape shape{static_cast<Index>(elements.size())};
    const auto& v = basis();
    values.value() = v.defined() ? Tensor<T, B>::zeros(shape) : Tensor<T, B>::from(shape, elements);
    if (!v.defined()) return;
    turned->start = Tensor<T, B>::from({v.out.dim(0), v.in.dim(0)}, w);
    turned->seen.clear();
  }
};

/// Each is called with a layer's x and y and gives what takes the place of y; `merge` takes it into the weight.
template <Real T, Backend B = Cpu>
using Update = std::variant<std::monostate, Lora<T, B>, Scale<T, B>, Sparse<T, B>>;

}  // namespace meft::nn
