// Owns: the bench of the time of one training step of BERT by method and size: seconds of its parts, and the rate of
// its arithmetic as a share of a packed product's. Prints a table; writes JSON lines and an SVG plot on request.
#include <cstdio>
#include <exception>

#include <meft/tensor/packed.hpp>
#include <meft/tensor/random.hpp>

#include "sweep.hpp"

namespace {

using namespace meft;

struct Row {
  bench::Setup setup;
  bench::Cost cost;
  double packed;  // GFLOP/s of the packed product

  bool in_parts() const { return !bench::probes(setup.method); }
  /// None of two levels: the fastest step is one of the lower, `operations` are a mean.
  std::optional<double> rate() const {
    if (method_recipe(bench::Named::of(setup.method).method).inner) return {};
    return bench::operations(setup) / cost.least().step * 1e-9;
  }
  std::string name() const { return setup.method; }
  double height() const { return cost.least().step; }
  nlohmann::ordered_json json(const bench::Sweep& sweep) const {
    auto out = sweep.fields(setup, cost);
    const auto& t = cost.least();
    for (const char* name : {"forward_seconds", "undo_seconds", "gradient_seconds", "gflops"}) out[name] = nullptr;
    if (in_parts()) out["forward_seconds"] = t.forward, out["gradient_seconds"] = t.backward - t.undo;
    if (in_parts() && bench::reversible(setup.method)) out["undo_seconds"] = t.undo;
    out["optimizer_seconds"] = t.update;
    out["operations"] = bench::operations(setup);
    if (const auto found = rate()) out["gflops"] = *found;
    out["packed_gflops"] = packed;
    return out;
  }
};

/// GFLOP/s of the packed product of the feed-forward block, x [batch · seq, hidden]·Wᵀ.
template <Backend B>
double packed_rate(const bench::Setup& size) {
  const Index rows = size.batch * size.seq, in = size.config.hidden_size, out = size.config.intermediate_size;
  Tensor<float, B> weight({out, in}), x({rows, in}), y({rows, out});
  fill_normal(weight, {1, 0, 0}, 1);
  fill_normal(x, {1, 1, 0}, 1);
  const PackedWeight<float, B> packed(weight, size.precision);
  return bench::rate(2.0 * static_cast<double>(rows * in * out), 10, [&] {
    packed.forward(rows, std::as_const(x).data(), nullptr, y.data());
    B::synchronize();
  });
}

void show(const Row& row) {
  const auto& t = row.cost.least();
  const auto cell = [](bool there, double value, const char* form) {
    char text[32] = "-";
    if (there) std::snprintf(text, sizeof text, form, value);
    return std::string(text);
  };
  const bool parts = row.in_parts();
  const auto rate = row.rate();
  std::printf("%-20s %8.3f %8.3f %8s %8s %8s %9.3f %8s %7s\n", row.setup.method.c_str(), t.step, row.cost.median(),
              cell(parts, t.forward, "%.3f").c_str(),
              cell(parts && bench::reversible(row.setup.method), t.undo, "%.3f").c_str(),
              cell(parts, t.backward - t.undo, "%.3f").c_str(), t.update,
              cell(rate.has_value(), rate.value_or(0), "%.1f").c_str(),
              cell(rate.has_value(), 100 * rate.value_or(0) / row.packed, "%.1f%%").c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bench::Sweep sweep;
  sweep.methods = bench::every_method();
  sweep.steps = 5;
  CLI::App app("Time of one training step of BERT, by method and size.");
  sweep.add_to(app);
  sweep.add_log(app);
  CLI11_PARSE(app, argc, argv);

  try {
    const auto sizes = sweep.sizes();
    if (sweep.threads) set_threads(sweep.threads);
    std::printf("%s\n", sweep.describe(sizes.front()).c_str());
    std::vector<Row> rows;
    for (const auto& size : sizes) {
      const double packed = with_device(sweep.device, [&]<Backend B>() { return packed_rate<B>(size); });
      std::printf("\n%lld layers, batch %lld x %lld tokens; packed product %lld x %lld x %lld: %.1f GFLOP/s\n",
                  static_cast<long long>(size.config.num_hidden_layers), static_cast<long long>(size.batch),
                  static_cast<long long>(size.seq), static_cast<long long>(size.batch * size.seq),
                  static_cast<long long>(size.config.hidden_size),
                  static_cast<long long>(size.config.intermediate_size), packed);
      std::printf("%-20s %8s %8s %8s %8s %8s %9s %8s %7s\n", "method", "s/step", "median", "forward", "undo",
                  "gradient", "optimizer", "GFLOP/s", "/packed");
      for (const auto& method : sweep.methods) {
        auto setup = size;
        setup.method = method;
        rows.push_back({setup,
                        with_device(sweep.device, [&]<Backend B>() { return bench::measure<B>(setup, sweep.steps); }),
                        packed});
        rows.back().cost.gradient_values.clear();
        show(rows.back());
        sweep.save(rows, "Time of a training step", "seconds a step");
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "step_time: %s\n", error.what());
    return 1;
  }
}
