// Owns: reading rotary position from a config.json, in the forms that transformers 4 and 5 write: `rope_theta` beside
// `rope_scaling`, or both within `rope_parameters`. Frequencies are those of transformers' modeling_rope_utils.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <meft/model/config.hpp>

namespace meft::model {

namespace detail {

/// Which pairs YaRN leaves alone and which it divides, and what it multiplies.
inline void read_yarn(RotarySpec& out, const auto& rope, double factor, double original) {
  if (out.base <= 1) fail("config: rope_theta: yarn needs one above 1, found", out.base, rope.path());
  const auto or_default = [](double given, double usual) { return given == 0 ? usual : given; };
  const double fast = or_default(rope.number("beta_fast", 0.0, {0.0, 1e6}), 32),
               slow = or_default(rope.number("beta_slow", 0.0, {0.0, 1e6}), 1);
  const double width = static_cast<double>(out.rotated), turn = 2 * std::acos(-1.0);
  const auto pair_of = [&](double turns) {  // which turns so often in the original context
    return width * std::log(original / (turns * turn)) / (2 * std::log(out.base));
  };
  double low = pair_of(fast), high = pair_of(slow);
  if (rope.flag("truncate", true)) low = std::floor(low), high = std::ceil(high);
  out.keeps = RotarySpec::Keeps::by_number;
  out.low = std::max(low, 0.0);
  out.high = std::min(high, width - 1);
  if (out.low == out.high) out.high += 0.001;
  const auto scale = [&](double by) { return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1; };
  const double one = rope.number("mscale", 0.0, {0.0, 1e6}), all = rope.number("mscale_all_dim", 0.0, {0.0, 1e6});
  out.magnitude =
      rope.number("attention_factor", one != 0 && all != 0 ? scale(one) / scale(all) : scale(1), {1e-6, 1e6});
}

inline void read_llama3(RotarySpec& out, const auto& rope, double original) {
  out.keeps = RotarySpec::Keeps::by_turns;
  out.low = rope.number("low_freq_factor", {0.0, 1e6});
  out.high = rope.number("high_freq_factor", {0.0, 1e6});
  out.original = original;
  if (out.high <= out.low)
    fail("config: high_freq_factor is not above low_freq_factor", out.high, out.low, rope.path());
}

}  // namespace detail

/// Position in heads of `head_width` features as `rope` says it, with the base `theta` where that has none. Throws for
/// a kind that is not supported, naming it.
RotarySpec read_rotary(const auto& c, const auto& rope, double theta, Index head_width) {
  RotarySpec out;
  out.base = rope.number("rope_theta", theta, {1e-3, 1e15});
  const double share = rope.number("partial_rotary_factor", c.number("partial_rotary_factor", 1.0));
  if (share != 1)
    fail("config: partial_rotary_factor: expected 1: these models in transformers turn whole heads, found", share,
         c.path());
  out.rotated = c.integer("rope_dimension_count", head_width, {1, head_width});  // GGUF's alone
  if (out.rotated < 2 || out.rotated % 2 || out.pairs() > RotarySpec::most)
    fail("config: head_dim: expected an even number from 2 to 512 of features to turn, found", out.rotated, c.path());
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  // Dynamic bases change beyond max_position_embeddings, where a sequence is refused.
  if (type == "default" || type == "dynamic") return out;
  if (type != "linear" && type != "llama3" && type != "yarn")
    fail("config: rope_type: expected default, dynamic, linear, llama3 or yarn, found", type, c.path());
  const Index positions = c.integer("max_position_embeddings", 2048, {1, Index{1} << 31}),
              within = rope.integer("original_max_position_embeddings", positions, {1, Index{1} << 31});
  const auto original = static_cast<double>(c.integer("original_max_position_embeddings", within, {1, Index{1} << 31}));
  // YaRN's may be left out: how many times as long the context is.
  const bool told = type != "yarn" || rope.has("factor");
  out.factor = told ? rope.number("factor", {1.0, 1e6}) : std::max(1.0, static_cast<double>(positions) / original);
  if (type == "llama3") detail::read_llama3(out, rope, original);
  if (type == "yarn") detail::read_yarn(out, rope, out.factor, original);
  return out;
}

/// That of all layers.
RotarySpec read_rotary(const auto& c, Index head_width) {
  auto rope = c.object("rope_scaling");
  if (rope.empty()) rope = c.object("rope_parameters");
  for (const char* kind : {"full_attention", "sliding_attention"})
    if (rope.has(kind))
      fail("config: rope_parameters of its own for " + std::string(kind) + " is not supported", c.path());
  return read_rotary(c, rope, c.number("rope_theta", 10000.0, {1e-3, 1e15}), head_width);
}

/// That of the layers which layer_types calls `kind`: within rope_parameters, or, as transformers 4 writes it, in
/// `rope_scaling` where the kind is `scaled`; where both are there the latter's values count. The base may stand beside
/// either under `older`; by default it is `theta`.
RotarySpec read_rotary(const auto& c, const char* kind, const char* older, double theta, bool scaled,
                       Index head_width) {
  auto rope = c.object("rope_parameters").object(kind);
  if (scaled && c.has("rope_scaling")) {
    const auto scaling = c.object("rope_scaling");
    auto tree = rope.tree();
    tree.update(scaling.tree());
    rope = {scaling.path(), std::move(tree)};
  }
  return read_rotary(c, rope, c.number(older, theta, {1e-3, 1e15}), head_width);
}

}  // namespace meft::model
