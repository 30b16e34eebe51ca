// Owns: the bench of matrix products at the shapes of transformer layers: a packed weight used forward and transposed,
// and the product without packing, each as a share of the processor's peak, on a device of what a large square product
// reaches there. Prints a table; writes JSON lines on request.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <meft/io/file.hpp>
#include <meft/tensor/packed.hpp>

#include "device.hpp"
#include "products.hpp"
#include "rate.hpp"

namespace {

using namespace meft;

struct Size {
  Index rows, in, out;
};

/// GFLOP/s.
struct Rates {
  double forward, backward;          // x·Wᵀ and dy·W with W packed
  std::optional<double> unpacked{};  // x·Wᵀ
  // relu(x·Wᵀ), on a device in bf16 rounded, where a product may end in it: so, and as a product and a map.
  std::optional<double> activated{}, mapped{};
};

template <Backend B>
Rates measure(const Size& size, Precision precision, int runs) {
  const auto [rows, in, out] = size;
  const auto weight = bench::random<B>({out, in}, 0), x = bench::random<B>({rows, in}, 1),
             dy = bench::random<B>({rows, out}, 2);
  Tensor<float, B> y({rows, out}), dx({rows, in});
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
  constexpr int calls = B::on_host ? 1 : 20;  // of a device, which would wait for each
  const auto rate = [&](const auto& call) {
    return bench::rate(calls * operations, runs, [&] {
      for (int i = 0; i < calls; ++i) call();
      B::synchronize();
    });
  };
  const PackedWeight<float, B> packed(weight, precision);
  Rates rates{rate([&] { packed.forward(size.rows, x.data(), nullptr, y.data()); }),
              rate([&] { packed.backward(size.rows, dy.data(), dx.data()); })};
  if (precision == Precision::f32) {
    const Product<float> product{rows, out, in, {x.data(), in, 1}, y.data(), out};
    const Strided<float> transposed{weight.data(), 1, in};
    rates.unpacked = rate([&] { gemm(B{}, product, transposed); });
  }
  if constexpr (Tensor<float, B>::rounds)
    if (packed.rounds()) {  // the result rounded, as a feed-forward block has it
      const auto bias = bench::random<B>({out}, 3);
      auto h = Tensor<float, B>::handed({rows, out}, Hand::rounded);
      const auto ends = [&] { return packed.activated(Activation::relu, x, bias, nullptr, h); };
      if (!ends()) return rates;
      rates.activated = rate(ends);
      rates.mapped = rate([&] {
        packed.forward(x, bias, y);
        map(B{}, Relu{}, y.size(), h.fill_rounded(Hand::rounded), std::as_const(y).data());
      });
      return rates;
    }
  const auto activated = [&] {
    return packed.forward_activated(Activation::relu, size.rows, x.data(), nullptr, y.data(), y.data());
  };
  if (activated()) {
    rates.activated = rate(activated);
    rates.mapped = rate([&] {
      packed.forward(size.rows, x.data(), nullptr, y.data());
      map(B{}, Relu{}, y.size(), y.data(), std::as_const(y).data());
    });
  }
  return rates;
}

/// What the shares are of, in float.
template <Backend B>
bench::Peak peak(Index square, int runs) {
  if constexpr (B::on_host) return bench::peak();
  else return {measure<B>({square, square, square}, Precision::f32, runs).forward, "square product"};
}

/// A rate and its share of the peak.
std::string show(std::optional<double> rate, double peak) {
  char text[40] = "        -      -";
  if (rate) std::snprintf(text, sizeof text, "%9.1f %5.1f%%", *rate, 100 * *rate / peak);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  bench::ProductFlags flags{
      {128, 512, 2048, 4096},
      {"384x384", "384x1536", "1536x384", "768x768", "768x3072", "3072x768", "1024x1024", "1024x4096", "4096x1024"}};
  std::vector<std::string> chosen{"f32"};
  std::string device = "cpu";
  Index square = 4096;
  CLI::App app("Rates of matrix products at the shapes of transformer layers.");
  bench::add_device(app, device);
  app.add_option("--square", square, "on a device, extent of the square product that shares are of")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--precision", chosen, "a,b,c")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  flags.add(app);
  CLI11_PARSE(app, argc, argv);

  try {
    const auto layers = flags.layers();
    if (flags.threads) set_threads(flags.threads);
    const auto best = with_device(device, [&]<Backend B>() { return peak<B>(square, flags.runs); });
    std::printf("%s, %s, %d threads, peak %.1f GFLOP/s (float, %s); GFLOP/s and shares of the peak\n\n", device.c_str(),
                bench::processor().c_str(), meft::threads(), best.rate, best.with);
    std::printf("%-9s %6s %6s %6s %9s %6s %9s %6s %9s %6s %9s %6s %9s %6s\n", "precision", "rows", "in", "out",
                "forward", "/peak", "backward", "/peak", "unpacked", "/peak", "with relu", "/peak", "then relu",
                "/peak");
    std::string lines;
    for (const auto& precision : chosen)
      for (const auto& layer : layers)
        for (const Index count : flags.rows) {
          const Size size{count, layer.first, layer.second};
          const auto rates =
              with_device(device, [&]<Backend B>() { return measure<B>(size, precision_from(precision), flags.runs); });
          std::printf("%-9s %6lld %6lld %6lld %s %s %s %s %s\n", precision.c_str(), static_cast<long long>(size.rows),
                      static_cast<long long>(size.in), static_cast<long long>(size.out),
                      show(rates.forward, best.rate).c_str(), show(rates.backward, best.rate).c_str(),
                      show(rates.unpacked, best.rate).c_str(), show(rates.activated, best.rate).c_str(),
                      show(rates.mapped, best.rate).c_str());
          std::fflush(stdout);
          if (flags.json.empty()) continue;
          nlohmann::ordered_json row{{"device", device},
                                     {"precision", precision},
                                     {"rows", size.rows},
                                     {"in", size.in},
                                     {"out", size.out},
                                     {"forward", rates.forward},
                                     {"backward", rates.backward},
                                     {"unpacked", nullptr},
                                     {"peak", best.rate},
                                     {"instructions", best.with},
                                     {"threads", meft::threads()},
                                     {"processor", bench::processor()}};
          if (rates.unpacked) row["unpacked"] = *rates.unpacked;
          if (rates.activated) row["with_relu"] = *rates.activated, row["then_relu"] = *rates.mapped;
          lines += row.dump() + "\n";
          io::write_atomically(flags.json, lines);
        }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gemm: %s\n", error.what());
    return 1;
  }
}
