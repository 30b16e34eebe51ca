// Owns: the bench of kernels that memory bounds: the bytes that each must read and write over its time, beside a copy
// of the same run, on any backend. Prints a table; writes JSON lines on request.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <meft/backend/cpu/kernels.hpp>
#include <meft/backend/kernels/bottleneck.hpp>
#include <meft/base/compose.hpp>
#include <meft/io/file.hpp>
#include <meft/reversible/reports.hpp>

#include "count.hpp"
#include "device.hpp"
#include "rate.hpp"

namespace {

using namespace meft;

struct Options {
  std::string device = "cpu", json;
  std::vector<std::string> only;
  Index rows = 16384, width = 1024;
  int runs = 5, calls = 10, threads = 0;
  bool count = false;
};

struct Row {
  std::string kernel;
  double bytes, rate;  // of a call; GB/s
  double seconds() const { return bytes / rate * 1e-9; }
};

/// Measures kernels on backend B and prints each as it is done.
template <Backend B>
class Table {
 public:
  explicit Table(const Options& o) : o_(o) {}

  /// A call of f reads and writes `bytes`. The seconds of a call are those of o.calls in a row, the least of o.runs.
  template <class F>
  void add(const std::string& kernel, double bytes, const F& f) {
    known_.push_back(kernel);
    const bool wanted = o_.only.empty() || std::find(o_.only.begin(), o_.only.end(), kernel) != o_.only.end();
    if (o_.count) return wanted ? show_count(kernel, bytes, f) : void();
    if (!wanted && !rows_.empty()) return;  // the copy comes first and is always measured
    const double rate = bench::rate(bytes * o_.calls, o_.runs, [&] {
      for (int k = 0; k < o_.calls; ++k) f();
      B::synchronize();
    });
    rows_.push_back({kernel, bytes, rate});
    std::printf("%-28s %9.1f %10.3f %8.1f %6.0f%%\n", kernel.c_str(), bytes / (1 << 20), rows_.back().seconds() * 1e3,
                rate, 100 * rate / rows_.front().rate);
    std::fflush(stdout);
    save();
  }

  /// Once all are added: a name in o.only that is none of theirs is an Error.
  void check() const {
    for (const auto& name : o_.only)
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
        std::string all;
        for (const auto& one : known_) all += (all.empty() ? "" : ", ") + one;
        fail("--kernels: expected some of " + all + ", found", name);
      }
  }

 private:
  template <class F>
  void show_count(const std::string& kernel, double bytes, const F& f) const {
    const bench::Counting counting(true, !B::on_host);
    f();
    B::synchronize();
    bench::Tally sum;
    for (const auto& entry : counting.counts()) {
      sum.launches += entry.second.launches;
      sum.read += entry.second.read;
      sum.written += entry.second.written;
    }
    std::printf("%-28s %9.1f %10.1f %8.1f %6llu %6.2f\n", kernel.c_str(), bytes / (1 << 20),
                static_cast<double>(sum.read) / (1 << 20), static_cast<double>(sum.written) / (1 << 20),
                static_cast<unsigned long long>(sum.launches), static_cast<double>(sum.read + sum.written) / bytes);
  }

  void save() const {
    if (o_.json.empty()) return;
    std::string lines;
    for (const auto& r : rows_)
      lines += nlohmann::ordered_json{{"kernel", r.kernel},
                                      {"device", o_.device},
                                      {"rows", o_.rows},
                                      {"width", o_.width},
                                      {"bytes", r.bytes},
                                      {"seconds", r.seconds()},
                                      {"gigabytes_per_second", r.rate},
                                      {"share_of_copy", r.rate / rows_.front().rate},
                                      {"threads", meft::threads()},
                                      {"processor", bench::processor()}}
                   .dump() +
               "\n";
    io::write_atomically(o_.json, lines);
  }

  const Options& o_;
  std::vector<Row> rows_;
  std::vector<std::string> known_;
};

template <Backend B>
Tensor<std::int32_t, B> numbers(Index count, Index limit) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<std::int32_t>(random_bits({.seed = 2}, i) % static_cast<std::uint32_t>(limit));
  return Tensor<std::int32_t, B>::from({count}, out);
}

template <Backend B>
void run(const Options& o) {
  const Index rows = o.rows, width = o.width, n = rows * width;
  const double array = 4.0 * static_cast<double>(n), line = 4.0 * static_cast<double>(width);
  const auto a = bench::random<B>({rows, width}, 0), b = bench::random<B>({rows, width}, 1),
             gamma = bench::random<B>({width}, 2), beta = bench::random<B>({width}, 3);
  Tensor<float, B> y({rows, width}), s({rows, width}), mean(Shape{rows}), rstd(Shape{rows}), sums(Shape{width});
  const Key key{1, 2, 3};
  Table<B> table(o);

  const auto copied = [&](Index begin, Index end) {
    B::copy(y.data() + begin, a.data() + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
  };
  table.add("copy", 2 * array, [&] {
    if constexpr (B::on_host) parallel_chunks(n, (n + meft::threads() - 1) / meft::threads(), copied);  // past caches
    else copied(0, n);
  });
  table.add("add", 3 * array, [&] { map(B{}, Add{}, n, y.data(), a.data(), b.data()); });
  table.add("add bias", 2 * array + line,
            [&] { map_broadcast(B{}, Add{}, a.shape(), y.data(), a.shape(), a.data(), gamma.shape(), gamma.data()); });
  table.add("gelu", 2 * array, [&] { map(B{}, Gelu{}, n, y.data(), a.data()); });
  table.add("gelu backward", 3 * array, [&] { map(B{}, Slope<Gelu>{}, n, y.data(), a.data(), b.data()); });
  table.add("dropout", 2 * array, [&] { map_dropped(B{}, Identity{}, n, y.data(), 0.1, key, 0, a.data()); });
  table.add("gelu dropout", 2 * array, [&] { map_dropped(B{}, Gelu{}, n, y.data(), 0.1, key, 0, a.data()); });
  table.add("residual dropout", 3 * array, [&] { add_dropped(B{}, n, a.data(), b.data(), y.data(), 0.1, key, 0); });
  table.add("layer norm", 2 * array, [&] {
    layer_norm(B{}, rows, width, a.data(), gamma.data(), beta.data(), 1e-5f, y.data(), mean.data(), rstd.data());
  });
  table.add("residual dropout layer norm", 4 * array, [&] {
    residual_norm(B{}, rows, width, a.data(), b.data(), static_cast<const float*>(nullptr), 0.1, key, 0, gamma.data(),
                  beta.data(), 1e-5f, s.data(), y.data(), mean.data(), rstd.data());
  });
  const auto centre = std::as_const(mean).data(), spread = std::as_const(rstd).data();
  table.add("layer norm backward", 3 * array,
            [&] { layer_norm_backward(B{}, rows, width, a.data(), gamma.data(), centre, spread, b.data(), y.data()); });
  table.add("layer norm weights", 2 * array, [&] {
    layer_norm_weights(B{}, rows, width, a.data(), centre, spread, b.data(), sums.data(), static_cast<float*>(nullptr));
  });
  const float* const none = nullptr;
  table.add("rms norm", 2 * array, [&] {
    layer_norm(B{}, rows, width, a.data(), gamma.data(), none, 1e-6f, y.data(), static_cast<float*>(nullptr),
               rstd.data());
  });
  table.add("rms norm backward", 3 * array,
            [&] { layer_norm_backward(B{}, rows, width, a.data(), gamma.data(), none, spread, b.data(), y.data()); });
  table.add("gated silu", 3 * array, [&] { map(B{}, Gate<Silu>{}, n, y.data(), a.data(), b.data()); });
  table.add("gated silu backward", 4 * array,
            [&] { map(B{}, GateSlope<Silu>{}, n, y.data(), a.data(), b.data(), std::as_const(s).data()); });
  const Index heads = width % 64 ? 1 : width / 64;
  const RotarySpec rotary{.rotated = std::min<Index>(width / heads / 2, RotarySpec::most) * 2};
  const auto where = numbers<B>(rows, 2048);
  if (rotary.rotated)
    table.add("rotary", 2 * array,
              [&] { rotate_pairs(B{}, rows, heads, width / heads, rotary, false, where.data(), a.data(), y.data()); });
  table.add("softmax", 2 * array, [&] { softmax(B{}, rows, width, a.data(), y.data(), false); });
  table.add("softmax backward", 3 * array,
            [&] { softmax_backward(B{}, rows, width, a.data(), b.data(), y.data(), false); });
  table.add("sum over rows", array, [&] { sum(B{}, 1, rows, width, a.data(), sums.data()); });
  table.add("transpose", 2 * array, [&] { permute(B{}, a.shape(), AxisOrder{1, 0}, a.data(), y.data()); });

  constexpr Index tokens = 512, head = 64;  // of a sequence; features
  if (!B::on_host && rows % tokens == 0 && width % head == 0) {
    std::vector<Span> spans;
    for (Index at = 0; at < rows; at += tokens) spans.push_back({at, tokens, at, tokens});
    const auto v = bench::random<B>({rows, width}, 4), dout = bench::random<B>({rows, width}, 5);
    Tensor<float, B> lse({rows, width / head}), dq({rows, width}), dk({rows, width}), dv({rows, width});
    const auto out = std::as_const(y).data(), logs = std::as_const(lse).data();
    for (const float dropout : {0.0f, 0.1f}) {
      const AttentionSpec<float> spec{width / head, head, false, 0.125f, dropout, key, 0, Precision::bf16};
      const std::string name = dropout > 0 ? "attention dropout" : "attention";
      table.add(name, 4 * array,
                [&] { attention(B{}, spec, spans, a.data(), b.data(), v.data(), y.data(), lse.data()); });
      table.add(name + " backward", 8 * array, [&] {
        attention_backward(B{}, spec, spans, a.data(), b.data(), v.data(), out, logs, dout.data(), dq.data(), dk.data(),
                           dv.data(), static_cast<float*>(nullptr));
      });
    }
  }

  if constexpr (!B::on_host) {
    constexpr Index inner = 8;
    const auto down = bench::random<B>({inner, width}, 6), up = bench::random<B>({width, inner}, 7),
               bias = bench::random<B>({inner}, 8);
    Tensor<float, B> z({rows, inner}), by_down({inner, width}), by_up({width, inner}), by_bias({inner});
    const BottleneckWeights<float> weights{width, inner, down.data(), bias.data(), up.data(), gamma.data()};
    table.add("bottleneck", 2 * array,
              [&] { bottleneck(B{}, Activation::gelu, rows, weights, a.data(), z.data(), y.data()); });
    table.add("bottleneck backward", 3 * array, [&] {
      bottleneck_backward(B{}, Activation::gelu, rows, weights, a.data(), std::as_const(z).data(), b.data(),
                          static_cast<const float*>(nullptr), y.data(),
                          {by_down.data(), by_bias.data(), by_up.data(), sums.data()});
    });
  }
  const auto labels = numbers<B>(rows, width), places = numbers<B>(rows, rows);
  table.add("cross entropy", array,
            [&] { cross_entropy(B{}, rows, width, a.data(), labels.data(), -100, mean.data(), rstd.data()); });
  const auto slope = Tensor<float, B>::from({1}, {1.0f});
  table.add("cross entropy backward", 2 * array, [&] {
    cross_entropy_backward(B{}, rows, width, a.data(), labels.data(), -100, spread, slope.data(), y.data());
  });
  table.add("gather rows", 2 * array, [&] { gather_rows(B{}, rows, width, a.data(), places.data(), y.data()); });
  table.add("scatter rows", 3 * array, [&] { scatter_rows(B{}, rows, width, a.data(), places.data(), y.data()); });

  // A call of the CPU's runs on one thread: as in a step, each takes rows of its own.
  const Lambda tenth{1, 10};
  const Index pieces = B::on_host ? std::min<Index>(meft::threads(), rows) : 1;
  const auto start = [&](Index piece) { return rows * piece / pieces * width; };
  const Index room = digit_words<std::int32_t>(B{}, start(pieces) / pieces + width, tenth);
  const Buffer state(B::pool(), static_cast<std::size_t>(n) * sizeof(std::int32_t)),
      digits(B::pool(), static_cast<std::size_t>(pieces * room) * sizeof(std::uint32_t));
  const detail::ShearReports<B> reports(pieces);
  auto* const fixed = static_cast<std::int32_t*>(state.data());
  const auto in_pieces = [&](const auto& f) {
    const auto run = [&](Index piece) {
      const Index at = start(piece);
      f(at, start(piece + 1) - at, fixed + at, static_cast<std::uint32_t*>(digits.data()) + piece * room,
        reports.at(piece));
    };
    if constexpr (B::on_host) parallel_for(pieces, run);
    else run(0);
  };
  const auto sheared = [&](Index at, Index count, std::int32_t* x, std::uint32_t* words, ShearSlot* told) {
    shear(B{}, count, x, b.data() + at, tenth, 20, words, told);
  };
  const double nibbles = array / 8;
  table.add("to fixed", 2 * array, [&] {
    in_pieces([&](Index at, Index count, std::int32_t* x, std::uint32_t*, ShearSlot* told) {
      to_fixed(B{}, count, a.data() + at, x, 20, told);
    });
  });
  table.add("shear", 3 * array + nibbles, [&] { in_pieces(sheared); });
  table.add("shear and undo", 2 * (3 * array + nibbles), [&] {
    in_pieces(sheared);
    in_pieces([&](Index at, Index count, std::int32_t* x, std::uint32_t* words, ShearSlot* told) {
      unshear(B{}, count, x, b.data() + at, tenth, 20, words, told);
    });
  });
  table.add("from fixed", 2 * array, [&] {
    in_pieces([&](Index at, Index count, const std::int32_t* x, std::uint32_t*, ShearSlot*) {
      from_fixed(B{}, count, x, y.data() + at, 20);
    });
  });

  auto value = a.clone(), gradient = b.clone(), first = Tensor<float, B>::zeros({rows, width}),
       second = Tensor<float, B>::zeros({rows, width});
  const AdamWSlot<float> slot{n, gradient.data(), value.data(), first.data(), second.data(), true};
  const AdamWStep step{1e-4, 0.9, 0.999, 1e-8, 0, 0.1, 0.001, 1};
  table.add("adamw", 8 * array, [&] { adamw(B{}, 1, &slot, step); });
  table.add("sum of squares", array, [&] { sum_squares(B{}, 1, &slot); });
  table.check();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Bandwidth of kernels that memory bounds, beside that of a copy.");
  bench::add_device(app, o.device);
  app.add_option("--rows", o.rows, "of the arrays")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--width", o.width, "elements of a row")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--kernels", o.only, "a,b,c in place of all; the copy is always measured")->delimiter(',');
  app.add_option("--runs", o.runs, "the least of these counts")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--calls", o.calls, "in a row, to a run")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--threads", o.threads, "all processors by default")->check(CLI::PositiveNumber);
  auto* const json = app.add_option("--json", o.json, "file for the rows, a JSON object a line");
  app.add_flag("--count", o.count, "on the emulated device: the bytes and launches of a call in place of its time")
      ->excludes(json, app.get_option("--runs"), app.get_option("--calls"));
  CLI11_PARSE(app, argc, argv);

  try {
    if (o.threads) set_threads(o.threads);
    std::printf("%s, %lld rows of %lld floats, %d threads, %s\n\n", o.device.c_str(), static_cast<long long>(o.rows),
                static_cast<long long>(o.width), meft::threads(), bench::processor().c_str());
    if (o.count) std::printf("%-28s %9s %10s %8s %6s %6s\n", "kernel", "MiB", "MiB read", "written", "calls", "share");
    else std::printf("%-28s %9s %10s %8s %7s\n", "kernel", "MiB", "ms", "GB/s", "/copy");
    with_device(o.device, [&]<Backend B>() { run<B>(o); });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernels: %s\n", error.what());
    return 1;
  }
}
