// Owns: the linear layer: trained, or frozen and packed, with what a method adds to it.
#pragma once

#include <concepts>
#include <memory>
#include <variant>

#include <meft/nn/update.hpp>
#include <meft/ops/dropout.hpp>
#include <meft/ops/linear_activation.hpp>
#include <meft/ops/narrow_linear.hpp>
#include <meft/ops/sparse_linear.hpp>
#include <meft/reversible/context.hpp>

namespace meft::nn {

/// y = x·Wᵀ + b, x [.., in] → [.., out], or what the update makes of it.
template <Real T, Backend B = Cpu>
struct Linear {
  Parameter<T, B> weight, bias;  // [out, in], [out] or empty
  PackedWeight<T, B> packed{};   // in place of the weight, once packed
  Update<T, B> update{};
  Precision precision = Precision::f32;        // in which a frozen weight is packed; one that trains: multiplied
  std::shared_ptr<Narrowed<T, B>> narrowed{};  // of one that trains, where that is bf16, once packed

  static Linear empty(Index in, Index out, bool with_bias = true) {
    Linear l{Parameter<T, B>::empty({out, in}), {}};
    if (with_bias) l.bias = Parameter<T, B>::empty({out});
    return l;
  }
  /// N(0, deviation²) weights, zero bias.
  static Linear normal(Index in, Index out, Key key, double deviation = 0.02) {
    Linear l{Parameter<T, B>::empty({out, in}), Parameter<T, B>::zeros({out})};
    fill_normal(l.weight.value(), key, deviation);
    return l;
  }

  /// The gradient of x and the result are handed on as said where nothing updates the layer.
  Var<T, B> operator()(const Var<T, B>& x, Hand gradient = Hand::in_full, Hand hand = Hand::in_full) const {
    if (const auto* s = chosen()) return sparse_linear(x, packed, *s->indices, s->values, bias, s->basis());
    if (update.index()) gradient = hand = Hand::in_full;
    auto y = packed.defined() ? linear(x, packed, bias, gradient, hand) : trained(x);
    return std::visit(
        [&](const auto& u) {
          if constexpr (std::same_as<decltype(u), const std::monostate&>) return y;
          else return u(x, y);
        },
        update);
  }

  /// activate_dropout((*this)(x), f, p, key, first_element), as one op where nothing is dropped.
  Var<T, B> activated(const Var<T, B>& x, Activation f, double p = 0, Key key = {},
                      std::uint64_t first_element = 0) const {
    const auto* s = chosen();
    if (p != 0 || changes_output()) return activate_dropout((*this)(x), f, p, key, first_element);
    if (s) return sparse_linear_activation(x, packed, *s->indices, s->values, bias, f, s->basis());
    if (packed.defined()) return linear_activation(x, packed, bias, f);
    if constexpr (B::on_host)
      if (const auto* panels = narrow()) return narrow_linear_activation(x, *panels, weight, bias, f);
    return linear_activation(x, weight, bias, f);
  }

  /// How a result that this alone reads is to be handed on, and the gradient of one that this alone makes: rounded
  /// where nothing but a product reads it, which would round it.
  Hand reads() const { return rounds() && !(bias.defined() && bias.trainable()) ? Hand::rounded : Hand::in_full; }
  /// Whether it is a packed product in bf16 and nothing else.
  bool rounds() const { return plain() && packed.rounds(); }
  /// Whether such a product, of a frozen weight or, on a host, of one that trains, reads and makes what is rounded.
  bool fuses() const {
    if constexpr (B::on_host)
      if (const auto* panels = update.index() ? nullptr : narrow()) return panels->fuses();
    return rounds() || (plain() && packed.fuses());
  }
  /// The same of one that others read too.
  Hand reads_too() const { return packed.defined() && packed.rounds() ? Hand::both : Hand::in_full; }

  Index in() const { return packed.defined() ? packed.shape()[1] : weight.shape()[1]; }
  Index out() const { return packed.defined() ? packed.shape()[0] : weight.shape()[0]; }

  /// Lays a frozen weight out for multiplication and lets the original go. One that trains stays as it is; on a host it
  /// is multiplied in bf16 from now on, where its precision is that.
  void pack() {
    if (packed.defined() || !weight.defined()) return;
    if (weight.trainable()) {
      if constexpr (B::on_host)
        if (precision == Precision::bf16 && !narrowed)
          narrowed = std::make_shared<Narrowed<T, B>>(std::as_const(weight).value());
      return;
    }
    packed = PackedWeight<T, B>(weight.value(), precision);
    weight.value() = {};
  }

  /// Writes what is chosen of the weight into it, as it is now; lays one that trains in bf16 out anew.
  void fold() const {
    if (const auto* s = chosen()) s->write(packed);
    if constexpr (B::on_host) narrow();
  }
  /// The elements of the weight that train, where such are chosen.
  const Sparse<T, B>* chosen() const {
    const auto* s = std::get_if<Sparse<T, B>>(&update);
    if (!s || !s->trains()) return nullptr;
    require(packed.defined(), "linear: elements were chosen of a weight that is not packed", weight.shape());
    return s;
  }

  /// The panels of a weight that trains, as it is now, where it is multiplied in bf16.
  const PackedWeight<T, B>* narrow() const requires B::on_host {
    return narrowed && weight.trainable() && !weight.perturbed() ? &narrowed->of(weight.value()) : nullptr;
  }

  static void parts(auto& self, auto&& visit) {
    visit("weight", self.weight);
    visit("weight", self.packed);
    visit("bias", self.bias);
    visit("", self.update);
  }

 private:
  Var<T, B> trained(const Var<T, B>& x) const {
    if constexpr (B::on_host)
      if (const auto* panels = narrow()) return narrow_linear(x, *panels, weight, bias);
    return linear(x, weight, bias);
  }
  bool plain() const { return packed.defined() && !update.index(); }
  bool changes_output() const { return update.index() && !std::holds_alternative<Sparse<T, B>>(update); }
};

/// Sets in what the linear layers below `module` are packed; do it before they are.
template <Real T, Backend B, class Module>
void set_precision(Module& module, Precision precision) {
  walk(module, [&](const std::string&, Linear<T, B>& layer) { layer.precision = precision; });
}

/// Packs every frozen linear layer below `module`.
template <Real T, Backend B, class Module>
void pack(Module& module) {
  walk(module, [](const std::string&, Linear<T, B>& layer) { layer.pack(); });
}

/// Writes what trains of the packed weights below `module` into them: once before they are multiplied with.
template <Real T, Backend B, class Module>
void fold(const Module& module) {
  walk(module, [](const std::string&, const Linear<T, B>& layer) { layer.fold(); });
}

}  // namespace meft::nn
