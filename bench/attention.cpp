// Owns: the bench of attention at the lengths and heads of models, forward and backward, as a share of a packed
// product's rate in the same call. Prints a table; writes JSON lines on request.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/kernels/attention.hpp>
#include <meft/io/file.hpp>
#include <meft/tensor/packed.hpp>

#include "device.hpp"
#include "products.hpp"
#include "rate.hpp"

namespace {

using namespace meft;

struct Size {
  Index heads, width, tokens, length;
};

/// GFLOP/s: two products of the scores' size forward, five backward; together seven over the time of both.
struct Rates {
  double forward, backward, together, product;
};

template <Backend B>
Rates measure(const Size& size, bool causal, float dropout, Precision precision, int runs) {
  const Index rows = size.tokens, features = size.heads * size.width;
  std::vector<Span> spans;
  double scores = 0;  // that are computed
  for (Index at = 0; at < rows; at += size.length) {
    const Index n = std::min(size.length, rows - at);
    spans.push_back({at, n, at, n});
    scores += static_cast<double>(size.heads) * static_cast<double>(n) *
              (causal ? 0.5 * static_cast<double>(n + 1) : static_cast<double>(n));
  }
  const auto input = [&](std::uint32_t site) { return bench::random<B>({rows, features}, site); };
  const auto q = input(0), k = input(1), v = input(2), dout = input(3);
  Tensor<float, B> out({rows, features}), lse({rows, size.heads}), dq({rows, features}), dk({rows, features}),
      dv({rows, features});
  AttentionSpec<float> spec{size.heads, size.width, causal, 1 / std::sqrt(static_cast<float>(size.width)),
                            dropout,    {1, 4, 0}};
  spec.precision = precision;
  const double product = 2 * scores * static_cast<double>(size.width);
  const auto rate = [&](double operations, const auto& call) {
    return bench::rate(operations, runs, [&] {
      call();
      B::synchronize();
    });
  };
  const double forward =
      rate(2 * product, [&] { attention(B{}, spec, spans, q.data(), k.data(), v.data(), out.data(), lse.data()); });
  const double backward = rate(5 * product, [&] {
    attention_backward(B{}, spec, spans, q.data(), k.data(), v.data(), std::as_const(out).data(),
                       std::as_const(lse).data(), dout.data(), dq.data(), dk.data(), dv.data(),
                       static_cast<float*>(nullptr));
  });
  constexpr Index in = 768, wide = 3072, some = 2048;
  const PackedWeight<float, B> packed(bench::random<B>({wide, in}, 5), precision);
  const auto x = bench::random<B>({some, in}, 6);
  Tensor<float, B> y({some, wide});
  return {forward, backward, 7 / (2 / forward + 5 / backward),
          rate(2.0 * in * wide * some, [&] { packed.forward(some, x.data(), nullptr, y.data()); })};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> shapes{"12x32", "12x64"};
  std::vector<Index> lengths{128, 512, 2048, 8192};
  std::string device = "cpu", precision = "f32", json;
  Index tokens = 0;
  int runs = 3, threads = 0;
  bool causal = false;
  float dropout = 0;
  CLI::App app("Rates of attention, beside a packed product's.");
  bench::add_device(app, device);
  app.add_option("--shapes", shapes, "HEADSxWIDTH,…")->delimiter(',')->capture_default_str();
  app.add_option("--lengths", lengths, "tokens of a sequence, a,b,c")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--tokens", tokens, "of a batch; one sequence by default")->check(CLI::PositiveNumber);
  app.add_flag("--causal", causal, "a query sees what is before it");
  app.add_option("--dropout", dropout, "of the probabilities")->check(CLI::Range(0.0, 0.99))->capture_default_str();
  app.add_option("--precision", precision)->check(CLI::IsMember({"f32", "bf16"}))->capture_default_str();
  app.add_option("--runs", runs, "measured calls, after one that is not")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", threads, "all processors by default")->check(CLI::PositiveNumber);
  app.add_option("--json", json, "file for the rows, a JSON object a line");
  CLI11_PARSE(app, argc, argv);

  try {
    if (threads) set_threads(threads);
    std::printf("%s, %s, %d threads; GFLOP/s, shares of the product 2048 x 768 x 3072\n\n", device.c_str(),
                bench::processor().c_str(), meft::threads());
    std::printf("%-9s %7s %7s %9s %9s %9s %9s %7s\n", "heads", "length", "tokens", "product", "forward", "backward",
                "together", "/product");
    std::string lines;
    for (const auto& [heads, width] : bench::pairs(shapes, "--shapes: expected HEADSxWIDTH, found"))
      for (const Index length : lengths) {
        const Size size{heads, width, std::max(tokens, length), length};
        const auto rates = with_device(
            device, [&]<Backend B>() { return measure<B>(size, causal, dropout, precision_from(precision), runs); });
        std::printf("%-9s %7lld %7lld %9.1f %9.1f %9.1f %9.1f %7.2f\n",
                    (std::to_string(heads) + "x" + std::to_string(width)).c_str(), static_cast<long long>(length),
                    static_cast<long long>(size.tokens), rates.product, rates.forward, rates.backward, rates.together,
                    rates.together / rates.product);
        std::fflush(stdout);
        if (json.empty()) continue;
        lines += nlohmann::ordered_json{{"device", device},
                                        {"precision", precision},
                                        {"heads", heads},
                                        {"width", width},
                                        {"length", length},
                                        {"tokens", size.tokens},
                                        {"causal", causal},
                                        {"dropout", dropout},
                                        {"product", rates.product},
                                        {"forward", rates.forward},
                                        {"backward", rates.backward},
                                        {"together", rates.together},
                                        {"threads", meft::threads()},
                                        {"processor", bench::processor()}}
                     .dump() +
                 "\n";
        io::write_atomically(json, lines);
      }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention: %s\n", error.what());
    return 1;
  }
}
