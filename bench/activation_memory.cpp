// Owns: the bench of one training step of BERT by method, depth and stream policy: activation memory, memory by use,
// time, and the error of the lowest trained layer's gradient. Prints a table; writes JSON lines and an SVG plot on
// request.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include <meft/io/file.hpp>

#include "plot.hpp"
#include "step.hpp"

namespace {

using namespace meft;

struct Flags {
  std::string model = "bert-base", json, plot;
  Index hidden = 0, heads = 0, ffn = 0, batch = 16, seq = 128, slice_tokens = StackOptions{}.slice_tokens;
  std::vector<Index> layers;
  std::vector<std::string> methods{"full", "recompute", "lora", "meft1", "meft2", "meft3"}, streams{"exact"};
  int threads = 0, steps = 2;
  std::uint64_t seed = 1;
  bool no_cache = false, no_error = false, log = false;
};

struct Row {
  std::string method, streams;  // streams is empty where there are none
  Index layers = 0;
  bench::Cost cost;
  std::optional<double> error{};

  std::string name() const { return streams.empty() || streams == "exact" ? method : method + " " + streams; }
};

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

double mib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::string head(bool heap) {
  char text[200];
  std::snprintf(text, sizeof text, "%-16s %-8s %6s %11s %7s %10s %9s %10s %10s%s %8s %10s", "method", "streams",
                "layers", "activation", "/full", "parameters", "gradients", "optimizer", "reserved",
                heap ? "       heap" : "", "s/step", "grad error");
  return text;
}

std::string show(const Row& row, std::optional<double> full) {
  const auto& c = row.cost;
  char text[200], ratio[32] = "-", error[32] = "-", heap[32] = "";
  if (full) std::snprintf(ratio, sizeof ratio, "%.3f", static_cast<double>(c.activation) / *full);
  if (row.error) std::snprintf(error, sizeof error, *row.error == 0 ? "0" : "%.1e", *row.error);
  if (!c.finite) std::snprintf(error, sizeof error, "not finite");
  if (c.heap) std::snprintf(heap, sizeof heap, " %10.1f", mib(*c.heap));
  std::snprintf(text, sizeof text, "%-16s %-8s %6lld %11.1f %7s %10.1f %9.1f %10.1f %10.1f%s %8.3f %10s",
                row.method.c_str(), row.streams.empty() ? "-" : row.streams.c_str(), static_cast<long long>(row.layers),
                mib(c.activation), ratio, mib(c.parameter), mib(c.gradient), mib(c.optimizer), mib(c.reserved), heap,
                c.least(), error);
  return text;
}

nlohmann::ordered_json json_of(const Row& row, const Flags& flags, const model::BertConfig& config) {
  const auto& c = row.cost;
  nlohmann::ordered_json out{{"method", row.method},
                             {"streams", nullptr},
                             {"precision", "f32"},
                             {"model", flags.model},
                             {"layers", row.layers},
                             {"batch", flags.batch},
                             {"seq", flags.seq},
                             {"activation_bytes", c.activation},
                             {"parameter_bytes", c.parameter},
                             {"gradient_bytes", c.gradient},
                             {"optimizer_bytes", c.optimizer},
                             {"reserved_bytes", c.reserved},
                             {"heap_bytes", nullptr},
                             {"step_seconds", c.least()},
                             {"step_seconds_median", c.median()},
                             {"gradient_error", nullptr},
                             {"gradient_finite", c.finite},
                             {"threads", threads()},
                             {"slice_tokens", flags.slice_tokens},
                             {"seed", flags.seed},
                             {"processor", processor()}};
  out["hidden"] = config.hidden_size;
  out["heads"] = config.num_attention_heads;
  out["ffn"] = config.intermediate_size;
  if (!row.streams.empty()) out["streams"] = row.streams;
  if (c.heap) out["heap_bytes"] = *c.heap;
  if (row.error && std::isfinite(*row.error)) out["gradient_error"] = *row.error;
  return out;
}

std::string plot_of(const std::vector<Row>& rows, const Flags& flags, const model::BertConfig& config) {
  bench::plot::Figure figure{.title = "Activation memory of a training step",
                             .subtitle = flags.model + ", hidden " + std::to_string(config.hidden_size) + ", batch " +
                                         std::to_string(flags.batch) + " x " + std::to_string(flags.seq) +
                                         " tokens, f32",
                             .x_label = "layers",
                             .y_label = "activation memory, MiB",
                             .lines = {},
                             .log_y = flags.log};
  for (const auto& row : rows) {
    auto& lines = figure.lines;
    auto line = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.name == row.name(); });
    if (line == lines.end()) line = lines.insert(lines.end(), {row.name(), {}});
    line->points.push_back({static_cast<double>(row.layers), mib(row.cost.activation)});
  }
  for (auto& line : figure.lines) std::sort(line.points.begin(), line.points.end());
  return bench::plot::svg(figure);
}

void save(const Flags& flags, const model::BertConfig& config, const std::vector<Row>& rows) {
  if (!flags.json.empty()) {
    std::string lines;
    for (const auto& row : rows) lines += json_of(row, flags, config).dump() + "\n";
    io::write_atomically(flags.json, lines);
  }
  if (!flags.plot.empty()) io::write_atomically(flags.plot, plot_of(rows, flags, config));
}

/// One row for each depth, method and policy, given to `done` as soon as it is measured.
void run(const Flags& flags, const model::BertConfig& config,
         const std::function<void(const Row&, const std::vector<Row>&)>& done) {
  std::vector<Row> rows;
  for (Index layers : flags.layers)
    for (const auto& method : flags.methods) {
      bench::Setup setup{
          .config = config, .batch = flags.batch, .seq = flags.seq, .method = method, .stack = {}, .seed = flags.seed};
      setup.config.num_hidden_layers = layers;
      setup.stack.slice_tokens = flags.slice_tokens;
      std::optional<std::vector<float>> oracle;
      if (bench::reversible(method) && !flags.no_error && flags.streams != std::vector<std::string>{"stored"}) {
        setup.stack.streams = Streams::stored;
        bench::Step step(setup);
        step.differentiate();
        oracle = step.lowest_gradient();
      }
      for (const auto& streams : bench::reversible(method) ? flags.streams : std::vector<std::string>{""}) {
        if (!streams.empty()) setup.stack.streams = streams_from(streams);
        Row row{method, streams, layers, bench::measure(setup, flags.steps)};
        if (oracle && streams != "stored") row.error = bench::relative_error(row.cost.gradient_values, *oracle);
        row.cost.gradient_values.clear();
        rows.push_back(row);
        done(row, rows);
      }
    }
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Activation memory of one training step of BERT, by method, depth and stream policy.");
  app.add_option("--model", flags.model, "shape to start from")
      ->check(CLI::IsMember({"bert-base", "bert-large", "minilm6"}))
      ->capture_default_str();
  app.add_option("--hidden", flags.hidden, "width, in place of the model's")->check(CLI::PositiveNumber);
  app.add_option("--heads", flags.heads, "attention heads, in place of the model's")->check(CLI::PositiveNumber);
  app.add_option("--ffn", flags.ffn, "width of the feed-forward block, in place of the model's")
      ->check(CLI::PositiveNumber);
  app.add_option("--layers", flags.layers, "depths a,b,c, in place of the model's")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--batch", flags.batch, "sequences")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--seq", flags.seq, "tokens in a sequence")->check(CLI::PositiveNumber)->capture_default_str();
  const std::vector<std::string> methods{"full",
                                         "recompute",
                                         "head",
                                         "bitfit",
                                         "adapter",
                                         "lora",
                                         "head+recompute",
                                         "bitfit+recompute",
                                         "adapter+recompute",
                                         "lora+recompute",
                                         "meft1",
                                         "meft2",
                                         "meft3"};
  app.add_option("--methods", flags.methods, "a,b,c")
      ->delimiter(',')
      ->check(CLI::IsMember(methods))
      ->capture_default_str();
  app.add_option("--streams", flags.streams, "policies of the reversible methods, a,b,c")
      ->delimiter(',')
      ->check(CLI::IsMember({"exact", "rounded", "stored"}))
      ->capture_default_str();
  app.add_option("--slice-tokens", flags.slice_tokens, "tokens in a slice")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "all processors by default")->check(CLI::PositiveNumber);
  app.add_option("--steps", flags.steps, "measured steps, after one that is not")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "of weights, tokens and dropout")->capture_default_str();
  app.add_option("--json", flags.json, "file for the rows, a JSON object a line");
  app.add_option("--plot", flags.plot, "file for the plot, SVG");
  app.add_flag("--log", flags.log, "logarithmic memory axis in the plot");
  app.add_flag("--no-cache", flags.no_cache, "the pool keeps nothing: for comparing it with a heap meter");
  app.add_flag("--no-error", flags.no_error, "no gradient error: spares the memory and time of the stored run");
  CLI11_PARSE(app, argc, argv);

  try {
    auto config = bench::config_of(flags.model);
    if (flags.hidden) config.hidden_size = flags.hidden;
    if (flags.heads) config.num_attention_heads = flags.heads;
    if (flags.ffn) config.intermediate_size = flags.ffn;
    require(config.hidden_size % config.num_attention_heads == 0, "--hidden is not a multiple of --heads",
            config.hidden_size, config.num_attention_heads);
    if (flags.layers.empty()) flags.layers = {config.num_hidden_layers};
    if (flags.threads) set_threads(flags.threads);
    Cpu::pool().set_caching(!flags.no_cache);

    std::printf("%s: hidden %lld, heads %lld, ffn %lld, batch %lld x %lld, f32, %d threads, %s\nmemory in MiB\n\n%s\n",
                flags.model.c_str(), static_cast<long long>(config.hidden_size),
                static_cast<long long>(config.num_attention_heads), static_cast<long long>(config.intermediate_size),
                static_cast<long long>(flags.batch), static_cast<long long>(flags.seq), threads(), processor().c_str(),
                head(bool(bench::HeapMeter())).c_str());
    run(flags, config, [&](const Row& row, const std::vector<Row>& rows) {
      std::optional<double> full;
      for (const auto& other : rows)
        if (other.method == "full" && other.layers == row.layers) full = static_cast<double>(other.cost.activation);
      std::printf("%s\n", show(row, full).c_str());
      std::fflush(stdout);
      save(flags, config, rows);  // after each row, so that a run that ends early leaves what it measured
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "activation_memory: %s\n", error.what());
    return 1;
  }
}
