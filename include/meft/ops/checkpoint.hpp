// Owns: recomputation. A checkpointed function keeps its inputs only and runs again in the backward pass.
// Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174.
#pragma once

#include <memory>
#include <tuple>
#include <utility>

#include <meft/autodiff/op.hpp>

namespace meft {

namespace detail {

/// Moves the parameter gradients that `inner` collected on to `outer`. Throws where `op`, made at that time, runs
/// functions again, and a parameter of theirs was changed since.
template <Real T, Backend B>
void pass_on(Tape& inner, Tape& outer, const char* op = "", std::uint64_t made = ~std::uint64_t{0}) {
  for (auto& [parameter, gradient] : inner.collected<T, B>()) {
    check_unchanged(op, parameter->value.written(), made);
    outer.deliver(parameter, std::move(gradient));
  }
}

template <class F, class T, class B, std::size_t N>
struct CheckpointNode final : Slot<T, B> {
  CheckpointNode(F f, std::array<Tensor<T, B>, N> x, std::array<int, N> i)
      : Slot<T, B>("checkpoint"), function(std::move(f)), saved(std::move(x)), inputs(i) {}

  void backward(Tape& outer) override {
    for (const auto& x : saved) check_unchanged(this->name, x.written(), made);
    Tape tape;
    tape.collect();
    std::array<Var<T, B>, N> x;
    for (std::size_t i = 0; i < N; ++i) x[i] = inputs[i] < 0 ? Var<T, B>(saved[i]) : tape.watch(saved[i]);
    const auto y = std::apply(function, x);
    tape.pause();
    if (!y.recorded()) return;
    tape.backward(y, std::exchange(this->gradient, {}));
    for (std::size_t i = 0; i < N; ++i)
      if (inputs[i] >= 0)
        if (auto g = tape.gradient(x[i]); g.defined()) outer.add(inputs[i], std::move(g));
    pass_on<T, B>(tape, outer, this->name, made);
  }

  F function;
  std::array<Tensor<T, B>, N> saved;
  std::array<int, N> inputs;
  std::uint64_t made = ++clock();
};

}  // namespace detail

/// f(x…) whose activations are not kept: the backward pass runs f again. f is a deterministic function of variables and
/// parameters; what it captures must not be recorded on the current tape.
template <class F, Operand First, Operand... Rest>
VarOf<First> checkpoint(F f, const First& first, const Rest&... rest) {
  using T = typename VarOf<First>::value_type;
  using B = typename VarOf<First>::backend;
  constexpr std::size_t count = 1 + sizeof...(Rest);
  Tape* tape = Tape::current();
  const std::array<VarOf<First>, count> x{as_var(first), as_var(rest)...};
  if (!tape) return std::apply(f, x);
  std::array<Tensor<T, B>, count> values;
  std::array<int, count> inputs;
  for (std::size_t i = 0; i < count; ++i) {
    if (!x[i].defined()) detail::refuse_empty("checkpoint", Where::current());
    inputs[i] = tape->wants(x[i], "checkpoint", Where::current()) ? Tape::node(x[i]) : -1;
    values[i] = x[i].value();
  }
  Tensor<T, B> y;
  {
    const NoTape none;
    std::array<Var<T, B>, count> plain;
    for (std::size_t i = 0; i < count; ++i) plain[i] = values[i];
    y = std::apply(f, plain).value();
  }
  return tape->attach<T, B>(
      std::move(y), std::make_unique<detail::CheckpointNode<F, T, B, count>>(std::move(f), std::move(values), inputs));
}

}  // namespace meft
