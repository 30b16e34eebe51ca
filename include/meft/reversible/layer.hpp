// Owns: a reversible layer as a list of shears and swaps, and the options of a stack of them.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include <meft/base/lambda.hpp>
#include <meft/reversible/context.hpp>
#include <meft/reversible/phases.hpp>

namespace meft {

/// A function of a stream: x [rows, width] → [rows, width]. Deterministic; it may use parameters, dropout from the
/// context's key and the context's sides; it never mixes sequences.
template <Real T, Backend B = Cpu>
using Function = std::function<Var<T, B>(const Var<T, B>& x, const Context<T, B>& context)>;

/// x[dst] ← λ·x[dst] + then(f(x[src])); without `then` it is f alone, without both a swap of the two streams. `then`
/// sees each row on its own and no side. It goes through a slice in chunks of rows, forward, undo and backward of one
/// before the next, so that a wide hidden layer never exists for a long sequence. Balanced, it is λ·(x[dst] − x[src])
/// in place of λ·x[dst].
template <Real T, Backend B = Cpu>
struct Step {
  int dst = 0, src = 1;
  Lambda lambda{};
  Function<T, B> f{}, then{};
  bool balanced = false;
  Hand reads = Hand::in_full;  // how x is handed to f; not rounded alone

  bool swaps() const { return !f && !then; }
};

/// The shear x[dst] ← λ·x[dst] + then(f(x[src])) of streams 0 and 1; see Step.
template <Real T, Backend B>
Step<T, B> shear(int dst, int src, Lambda lambda, Function<T, B> f, Function<T, B> then = {}) {
  return {dst, src, lambda, std::move(f), std::move(then)};
}
/// The exchange of the two streams: the last step of its layer.
template <Real T, Backend B>
Step<T, B> swap_streams() {
  return {};
}

/// What forward, inverse and backward are derived from.
template <Real T, Backend B = Cpu>
using ReversibleLayer = std::vector<Step<T, B>>;

/// How the streams are brought back in the backward pass.
enum class Streams {
  exact,    // fixed point, undone bit for bit
  rounded,  // the paper's floating-point division: wrong below the top layers, kept to show it
  stored    // the forward of `exact` with every activation kept: the oracle
};

/// What a stack gives back: average (x[0] + x[1])/2; carrier, that stream alone; learned α·carrier + (1 − α)·other, α
/// trained from 1 on; mix and scaled as below; concat both beside each other, [tokens, 2·width].
struct Readout {
  enum class Kind { average, carrier, learned, mix, scaled, concat };
  Kind kind = Kind::average;
  double first = 0.5, second = 0.5;  // mix: y = first·x[0] + second·x[1]; scaled: first·carrier + second·other
};

/// How a ReversibleStack keeps, cuts and reads its streams.
struct StackOptions {
  Streams streams = Streams::exact;
  int word_bits = 32;       // of a fixed-point element: 32 or 64
  int fraction_bits = 20;   // s: the value is X·2⁻ˢ
  Index stored_layers = 0;  // of exact streams: so many of the highest layers keep every activation, as `stored` does
  Index slice_tokens = -1;  // a slice is as many whole sequences as fit, at least one; a chunk is no longer than this;
                            // -1: the backend's default
  Readout readout{};
  int carrier = 1;           // the stream that carries the wrapped model at the end
  Phases* phases = nullptr;  // where given, backward passes add their time
};

/// Tokens of a slice on backend B.
template <Backend B>
Index slice_tokens(const StackOptions& options) {
  return options.slice_tokens == -1 ? B::slice_tokens : options.slice_tokens;
}

/// "exact" | "rounded" | "stored".
inline Streams streams_from(std::string_view name, Where where = Where::current()) {
  if (name == "exact") return Streams::exact;
  if (name == "rounded") return Streams::rounded;
  require(name == "stored", {"streams: expected exact, rounded or stored, found", where}, name);
  return Streams::stored;
}
inline const char* name_of(Streams s) {
  return s == Streams::exact ? "exact" : s == Streams::rounded ? "rounded" : "stored";
}

/// "average" | "plm" | "learned" | "scaled" (plm + other/10, as MEFT's authors do with OPT) | "concat".
inline Readout readout_from(std::string_view name, Where where = Where::current()) {
  if (name == "average") return {Readout::Kind::average};
  if (name == "plm") return {Readout::Kind::carrier};
  if (name == "learned") return {Readout::Kind::learned};
  if (name == "scaled") return {Readout::Kind::scaled, 1, 0.1};
  require(name == "concat", {"readout: expected average, plm, learned, scaled or concat, found", where}, name);
  return {Readout::Kind::concat};
}
inline const char* name_of(const Readout& readout) {
  switch (readout.kind) {
    case Readout::Kind::average: return "average";
    case Readout::Kind::carrier: return "plm";
    case Readout::Kind::learned: return "learned";
    case Readout::Kind::scaled: return "scaled";
    case Readout::Kind::concat: return "concat";
    default: return "mix";
  }
}

}  // namespace meft
