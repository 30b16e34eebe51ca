// The feed-forward ops of a host: bit for bit the two maps and the activation one by one, of every activation, frozen
// in bf16 and in blocks, and trained; what they keep; errors.
#include <doctest/doctest.h>

#include <utility>
#include <vector>

#include <meft/nn/transformer.hpp>
#include <meft/ops/activation.hpp>
#include <meft/ops/arithmetic.hpp>
#include <meft/ops/gated.hpp>
#include <meft/ops/host_feed_forward.hpp>
#include <meft/ops/host_gated.hpp>
#include <meft/ops/narrow_linear.hpp>
#include <meft/tensor/random.hpp>

#include "tools.hpp"

using namespace meft;

namespace {

Tensor<float> gaussian(const Shape& shape, std::uint32_t site) {
  Tensor<float> out(shape);
  fill_normal(out, {31, site, 0}, 1.0);
  return out;
}

/// y and the gradients of x and of the biases that train, of f(x, up_bias, down_bias).
template <class F>
std::vector<std::vector<float>> results(const F& f, const Tensor<float>& x, const Tensor<float>& up_bias,
                                        const Tensor<float>& down_bias, bool biases, const Tensor<float>& dy) {
  Tape tape;
  const auto in = tape.watch(x);
  const Var<float> b = biases ? tape.watch(up_bias) : Var<float>(up_bias),
                   c = biases && down_bias.defined() ? tape.watch(down_bias) : Var<float>(down_bias);
  const Var<float> y = f(in, b, c);
  std::vector<std::vector<float>> out{y.value().values()};
  tape.backward(y, dy.clone());
  out.push_back(tape.gradient(in).values());
  if (biases) out.push_back(tape.gradient(b).values());
  if (biases && down_bias.defined()) out.push_back(tape.gradient(c).values());
  return out;
}

}  // namespace

TEST_CASE("feed forward: the bits of two linear maps and an activation, whatever trains") {
  struct Size {
    Index rows, in, inner, out;
  };
  const int before = threads();
  for (const auto& s : {Size{1, 16, 16, 16}, {37, 48, 100, 33}, {300, 64, 144, 48}, {70, 800, 96, 800}})
    for (const auto precision : {Precision::bf16, Precision::q8}) {
      if (precision == Precision::q8 && (s.in % 32 || s.inner % 32)) continue;
      const PackedWeight<float> up(gaussian({s.inner, s.in}, 1), precision),
          down(gaussian({s.out, s.inner}, 2), precision);
      REQUIRE(up.fuses() == has_avx2());
      if (!up.fuses()) return;
      const auto x = gaussian({s.rows, s.in}, 3), b = gaussian({s.inner}, 4), c = gaussian({s.out}, 5),
                 dy = gaussian({s.rows, s.out}, 6);
      for (const auto f :
           {Activation::relu, Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::tanh})
        for (const bool biases : {false, true})
          for (const auto& last : {c, Tensor<float>()}) {
            CAPTURE(s.rows);
            CAPTURE(static_cast<int>(f));
            const auto fused = [&](const auto& in, const auto& bias, const auto& more) {
              return feed_forward(in, up, bias, down, more, f);
            };
            set_threads(1);
            const auto one = results(fused, x, b, last, biases, dy);
            const auto apart =
                results([&](const auto& in, const auto& bias,
                            const auto& more) { return linear(linear_activation(in, up, bias, f), down, more); },
                        x, b, last, biases, dy);
            CHECK(one == apart);
            CHECK(feed_forward(x, up, b, down, Var<float>(last), f).value().values() == one[0]);
            set_threads(2);
            CHECK(results(fused, x, b, last, biases, dy) == one);
          }
    }
  set_threads(before);
}

TEST_CASE("feed forward: the bits of two maps that train in bf16 and an activation") {
  if (!has_avx2()) return;
  const Index rows = 150, in = 40, inner = 70, out = 40;
  Parameter<float> up(gaussian({inner, in}, 1)), down(gaussian({out, inner}, 2)), b(gaussian({inner}, 4)),
      c(gaussian({out}, 5));
  Narrowed<float> up_panels(std::as_const(up).value()), down_panels(std::as_const(down).value());
  const auto x = gaussian({rows, in}, 3), dy = gaussian({rows, out}, 6);
  const auto bits = [&](bool fused, bool first, bool last, Activation f) {
    Tape tape;
    const auto at = first ? tape.watch(x) : Var<float>(x);
    const auto &u = up_panels.of(std::as_const(up).value()), &d = down_panels.of(std::as_const(down).value());
    const Var<float> more = last ? c.variable() : Var<float>();
    const auto y = fused ? narrow_feed_forward(at, u, up, b, d, down, more, f)
                         : narrow_linear(narrow_linear_activation(at, u, up, b, f), d, down, more);
    std::vector<std::vector<float>> out{y.value().values()};
    for (auto* p : {&up, &down, &b, &c}) p->gradient() = {};
    tape.backward(y, dy.clone());
    if (first) out.push_back(tape.gradient(at).values());
    for (auto* p : {&up, &down, &b, &c})
      if (p->gradient().defined()) out.push_back(p->gradient().values());
    return out;
  };
  for (const auto f : {Activation::relu, Activation::gelu})
    for (const bool first : {false, true})
      for (const bool last : {false, true}) {
        const auto fused = bits(true, first, last, f);
        CHECK(fused.size() == 4 + std::size_t{first} + std::size_t{last});
        CHECK(fused == bits(false, first, last, f));
        set_threads(2);
        CHECK(bits(true, first, last, f) == fused);
        set_threads(1);
      }
  for (auto* p : {&up, &b}) p->set_trainable(false);  // nothing goes through the activation
  CHECK(bits(true, false, true, Activation::gelu) == bits(false, false, true, Activation::gelu));
}

TEST_CASE("feed forward: keeps the activation's argument, and what it gave, rounded, where that is multiplied") {
  const PackedWeight<float> up(gaussian({96, 32}, 1), Precision::bf16), down(gaussian({32, 96}, 2), Precision::bf16);
  if (!up.fuses()) return;
  const auto x = gaussian({40, 32}, 3), b = gaussian({96}, 4);
  Cpu::pool().set_caching(false);
  {
    Tape tape;
    const auto in = tape.watch(x.clone());
    const auto before = Cpu::pool().read().total;
    const auto y = feed_forward(in, up, b, down, Var<float>(), Activation::gelu);
    CHECK(Cpu::pool().read().total - before == test::block(40 * 96) + test::block(40 * 32));
  }
  {
    const Parameter<float> w(gaussian({96, 32}, 1)), v(gaussian({32, 96}, 2));
    Tape tape;
    const auto before = Cpu::pool().read().total;
    const auto y = narrow_feed_forward(x, up, w, b, down, v, Var<float>(), Activation::gelu);
    CHECK(Cpu::pool().read().total - before == test::block(40 * 96) + test::block(40 * 96 / 2) + test::block(40 * 32));
  }
  Cpu::pool().set_caching(true);
}

TEST_CASE("feed forward: the bits of a gate between three linear maps, beside another reader of x") {
  const Index rows = 77, in = 64, inner = 96, out = 64;
  for (const auto precision : {Precision::bf16, Precision::q4}) {
    const PackedWeight<float> gate(gaussian({inner, in}, 1), precision), up(gaussian({inner, in}, 2), precision),
        down(gaussian({out, inner}, 3), precision), other(gaussian({out, in}, 4), precision);
    if (!up.fuses()) return;
    const auto x = gaussian({rows, in}, 5), c = gaussian({out}, 6), dy = gaussian({rows, out}, 7);
    for (const auto f : {Activation::silu, Activation::gelu_tanh})
      for (const bool bias : {false, true}) {
        const auto bits = [&](bool fused) {
          return results(
              [&](const auto& at, const auto& /*b*/, const auto& last) {
                Var<float> y;
                if (fused) y = host_gated(at, gate, up, down, last, f);
                else {
                  const auto u = linear(at, up), g = linear(at, gate);
                  y = linear(gated(g, u, f), down, last);
                }
                return y + linear(at, other);
              },
              x, c, bias ? c : Tensor<float>(), false, dy);
        };
        set_threads(1);
        const auto fused = bits(true);
        CHECK(fused == bits(false));
        CHECK(host_gated(x, gate, up, down, Var<float>(), f).value().values() ==
              linear(gated(linear(x, gate), linear(x, up), f), down).value().values());
        set_threads(2);
        CHECK(bits(true) == fused);
        set_threads(1);
      }
  }
}

TEST_CASE("feed forward: layers in bf16 take what they can hand on rounded: frozen, trained, gated") {
  constexpr Index rows = 96, width = 64, ffn = 256;
  static const nn::LayerNames names{"q", "k", "v", "o", "attention_norm", "up", "down", "mlp_norm"};
  const auto peak = [&](Precision precision, bool frozen, bool gated) {
    auto layer = nn::TransformerLayer<float>::empty(
        names, {.width = width, .heads = 2, .ffn = ffn, .gated = gated, .bias = !gated}, 0);
    std::uint32_t site = 20;
    nn::for_each_parameter(layer, [&](const std::string&, Parameter<float>& p) {
      fill_normal(p.value(), {31, site++, 0}, 0.1);
      p.set_trainable(!frozen);
    });
    nn::set_precision<float, Cpu>(layer, precision);
    nn::pack<float, Cpu>(layer);
    const auto x = gaussian({rows, width}, 3);
    Tape tape;
    const auto in = tape.watch(x);
    const Measure meter(Cpu::pool());
    const auto y = layer.feed(in, {Offsets({0, rows})});
    return meter.activation();
  };
  if (!has_avx2()) return;
  for (const auto& kind : {std::pair{true, false}, {false, false}, {true, true}}) {
    const auto frozen = kind.first, gated = kind.second;
    CAPTURE(frozen);
    CAPTURE(gated);
    CHECK(peak(Precision::bf16, frozen, gated) <= peak(Precision::f32, frozen, gated) - rows * ffn * 2 + 4096);
  }
}

TEST_CASE("feed forward: errors name the shapes") {
  const PackedWeight<float> up(gaussian({6, 4}, 1), Precision::bf16), down(gaussian({4, 7}, 2), Precision::bf16);
  const auto x = gaussian({3, 4}, 3), b = gaussian({6}, 4);
  const auto found = test::message_of([&] { feed_forward(x, up, b, down, Var<float>(), Activation::gelu); });
  CHECK(found.find("feed_forward: the weights do not fit x") != std::string::npos);
}
