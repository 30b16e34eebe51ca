// Owns: the bench of one training step of BERT by method, size and stream policy: activation memory, memory by use,
// time, and the error of the lowest trained layer's gradient. Prints a table; writes JSON lines and an SVG plot on
// request.
#include <cstdio>
#include <exception>

#include "sweep.hpp"

namespace {

using namespace meft;

struct Row {
  bench::Setup setup;
  bench::Cost cost;

  bool reversible() const { return bench::reversible(setup.method); }
  std::string name() const {
    const bool exact = setup.stack.streams == Streams::exact;
    return exact || !reversible() ? setup.method : setup.method + " " + name_of(setup.stack.streams);
  }
  double height() const { return bench::mib(cost.activation); }
  nlohmann::ordered_json json(const bench::Sweep& sweep) const { return sweep.fields(setup, cost); }
};

std::string head(bool heap) {
  char text[200];
  std::snprintf(text, sizeof text, "%-20s %-8s %6s %6s %6s %11s %7s %10s %9s %10s %10s %10s%s %8s %10s", "method",
                "streams", "layers", "batch", "seq", "activation", "/full", "parameters", "gradients", "optimizer",
                "reserved", "resident", heap ? "       heap" : "", "s/step", "grad error");
  return text;
}

std::string show(const Row& row, std::optional<double> full) {
  using bench::mib;
  const auto& c = row.cost;
  const auto& s = row.setup;
  char text[240], ratio[32] = "-", heap[32] = "";
  if (full) std::snprintf(ratio, sizeof ratio, "%.3f", mib(c.activation) / *full);
  if (c.heap) std::snprintf(heap, sizeof heap, " %10.1f", mib(*c.heap));
  std::snprintf(
      text, sizeof text, "%-20s %-8s %6lld %6lld %6lld %11.1f %7s %10.1f %9.1f %10.1f %10.1f %10.1f%s %8s %10s",
      s.method.c_str(), row.reversible() ? name_of(s.stack.streams) : "-",
      static_cast<long long>(s.config.num_hidden_layers), static_cast<long long>(s.batch),
      static_cast<long long>(s.seq), mib(c.activation), ratio, mib(c.parameter), mib(c.gradient), mib(c.optimizer),
      mib(c.reserved), mib(c.resident.own), heap, bench::seconds(s, c).c_str(), bench::gradient_error(c).c_str());
  return text;
}

/// The rows of one size, one for each method and policy, added to `rows` and shown as soon as they are measured.
template <Backend B>
void run(const bench::Sweep& sweep, const bench::Setup& size, const std::vector<std::string>& policies, bool error,
         std::vector<Row>& rows) {
  std::optional<double> full;
  for (const auto& method : sweep.methods) {
    auto setup = size;
    setup.method = method;
    const bool reversible = bench::reversible(method);
    std::optional<std::vector<float>> oracle;
    if (reversible && error && policies != std::vector<std::string>{"stored"})
      oracle = bench::first_gradient<B>(*bench::stored(setup));
    for (const auto& policy : reversible ? policies : std::vector<std::string>{"exact"}) {
      setup.stack.streams = streams_from(policy);
      Row row{setup, bench::measure<B>(setup, sweep.steps)};
      if (oracle && policy != "stored")
        row.cost.gradient_error = bench::relative_error(row.cost.gradient_values, *oracle);
      row.cost.gradient_values.clear();
      if (method == meft::method_name(meft::ReferenceMethod{})) full = row.height();
      std::printf("%s\n", show(row, full).c_str());
      std::fflush(stdout);
      rows.push_back(std::move(row));
      sweep.save(rows, "Activation memory of a training step", "activation memory, MiB");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Sweep sweep;
  sweep.methods = {"full", "recompute", "lora", "meft1", "meft2", "meft3"};
  std::vector<std::string> policies{"exact"};
  bool no_cache = false, no_error = false;
  CLI::App app("Activation memory of one training step of BERT, by method, size and stream policy.");
  sweep.add_to(app);
  sweep.add_ragged(app);
  sweep.add_log(app);
  app.add_option("--streams", policies, "policies of the reversible methods, a,b,c")
      ->delimiter(',')
      ->check(CLI::IsMember({"exact", "rounded", "stored"}))
      ->capture_default_str();
  app.add_flag("--no-cache", no_cache, "the pool keeps nothing: for comparing it with a heap meter");
  app.add_flag("--no-error", no_error, "no gradient error: spares the memory and time of the stored run");
  CLI11_PARSE(app, argc, argv);
  sweep.settle(app);

  try {
    const auto sizes = sweep.sizes();
    if (sweep.threads) set_threads(sweep.threads);
    std::printf("%s\nmemory in MiB; resident: the process's own pages%s\n\n%s\n", sweep.describe(sizes.front()).c_str(),
                sweep.ragged ? "; batches of drawn lengths" : "", head(bool(bench::HeapMeter())).c_str());
    std::vector<Row> rows;
    with_device(sweep.device, [&]<Backend B>() {
      B::pool().set_caching(!no_cache);
      for (const auto& size : sizes) run<B>(sweep, size, policies, !no_error, rows);
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "activation_memory: %s\n", error.what());
    return 1;
  }
}
