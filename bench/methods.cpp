// Owns: the bench of every method on one shape: what trains, memory by use, seconds, the error of its gradient; beside
// them the scores that scores.py kept. Prints a table; writes JSON lines and an SVG plot of score over memory.
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <map>
#include <sstream>

#include <meft/io/json.hpp>

#include "sweep.hpp"

namespace {

using namespace meft;

/// Mean score by method, as `scores.py --means` writes them. Recomputation has the same bits, and so the same score.
struct Scores {
  std::string of;
  std::map<std::string, double> by_method{};

  std::optional<double> find(const std::string& name) const {
    const auto found = by_method.find(method_title(bench::Named::of(name).method));
    return found == by_method.end() ? std::nullopt : std::optional(found->second);
  }
};

struct Row {
  bench::Setup setup;
  bench::Cost cost;
  std::optional<double> score{};

  nlohmann::ordered_json json(const bench::Sweep& sweep) const {
    auto out = sweep.fields(setup, cost);
    out["score"] = nullptr;
    if (score) out["score"] = *score;
    return out;
  }
};

constexpr const char* head =
    "method                activation       trained  gradients  optimizer     needed   s/step  grad error   score";

void show(const Row& row) {
  using bench::mib;
  const auto& c = row.cost;
  char score[32] = "-";
  if (row.score) std::snprintf(score, sizeof score, "%.1f", 100 * *row.score);
  std::printf("%-20s %11.1f %13lld %10.1f %10.1f %10.1f %8s %11s %7s\n", row.setup.method.c_str(), mib(c.activation),
              static_cast<long long>(c.trained), mib(c.gradient), mib(c.optimizer), mib(c.needed),
              bench::seconds(row.setup, c).c_str(), bench::gradient_error(c).c_str(), score);
  std::fflush(stdout);
}

constexpr std::array groups{"keeps activations", "keeps layers' inputs", "computes them back: reversible layers",
                            "keeps little or nothing of frozen layers", "forward passes alone"};
/// What a step of it keeps, as a place in `groups`.
std::size_t group_of(const std::string& name) {
  const auto [method, recompute] = bench::Named::of(name);
  const auto facts = method_facts(method);
  const auto recipe = method_recipe(method);
  return facts.reversible                      ? 2
         : !facts.trains_layers                ? 3
         : recipe.epsilon > 0 && !recipe.inner ? 4
                                               : recompute || recipe.inner;
}

using Json = nlohmann::ordered_json;

/// The rows that `--json` wrote.
std::vector<Json> rows_of(const std::string& path) {
  std::istringstream file(read_file(path));
  std::vector<Json> out;
  for (std::string line; std::getline(file, line);)
    if (!line.empty()) out.emplace_back(parse_json(line, "--rows " + path + ", row " + std::to_string(out.size() + 1)));
  return out;
}

std::string plot_of(const std::vector<Json>& rows, const Scores& scores) {
  require(!rows.empty(), "--plot: there are no rows");
  const auto& size = rows.front();
  const auto number = [&](const char* name) { return std::to_string(size.at(name).get<Index>()); };
  bench::plot::Figure figure;
  figure.title = "Score over activation memory";
  figure.subtitle = "memory: " + size.at("model").get<std::string>() + ", " + number("layers") + " layers, batch " +
                    number("batch") + " x " + number("seq") + " tokens, " + size.at("precision").get<std::string>();
  figure.x_label = "activation memory of a step, MiB";
  figure.y_label = scores.of;
  figure.points = figure.log_x = true;
  figure.x_at_points = false;
  figure.width = 920, figure.height = 600;
  figure.groups.assign(groups.begin(), groups.end());
  for (const auto& row : rows) {
    const std::string name = row.at("method");
    const auto [method, recompute] = bench::Named::of(name);
    if (const auto score = scores.find(name))
      figure.lines.push_back({method_title(method) + (recompute ? "+recompute" : ""),
                              {{bench::mib(row.at("activation_bytes")), 100 * *score}},
                              group_of(name)});
  }
  require(!figure.lines.empty(), "--plot: none of the methods has a score in --scores");
  return bench::plot::svg(figure);
}

}  // namespace

int main(int argc, char** argv) {
  bench::Sweep sweep;
  sweep.methods = bench::every_method();
  sweep.steps = 3;
  bool no_error = false;
  std::string scores_file, rows_file;
  CLI::App app("Every method on one shape of BERT: what trains, memory, time, the error of its gradient, its score.");
  sweep.add_to(app);
  sweep.add_ragged(app);
  app.add_flag("--no-error", no_error, "no gradient error: spares the memory and time of the stored runs");
  app.add_option("--scores", scores_file, "file of mean scores by method, from scores.py --means");
  app.add_option("--rows", rows_file, "file that --json wrote: they are drawn, and nothing is measured");
  CLI11_PARSE(app, argc, argv);
  sweep.settle(app);

  try {
    const auto sizes = sweep.sizes();
    require(sizes.size() == 1, "methods: measures one size, found --values of", sizes.size());
    require(sweep.plot.empty() || !scores_file.empty(), "--plot: the scores are missing: --scores FILE");
    require(rows_file.empty() || !sweep.plot.empty(), "--rows: where to draw them is missing: --plot FILE");
    if (sweep.threads) set_threads(sweep.threads);
    Scores scores;
    if (!scores_file.empty()) {
      const auto file = io::read_json(scores_file, 1 << 20);
      require(file.is_object() && file.contains("of") && file.contains("scores"),
              "--scores: expected what scores.py --means writes, `of` and `scores`", scores_file);
      scores = {file.at("of"), file.at("scores")};
    }
    if (!rows_file.empty()) {
      io::write_atomically(sweep.plot, plot_of(rows_of(rows_file), scores));
      return 0;
    }
    std::printf("%s\nmemory in MiB\n\n%s\n", sweep.describe(sizes.front()).c_str(), head);
    std::vector<Row> rows;
    with_device(sweep.device, [&]<Backend B>() {
      for (const auto& method : sweep.methods) {
        auto setup = sizes.front();
        setup.method = method;
        Row row{setup, bench::measure<B>(setup, sweep.steps)};
        if (const auto oracle = bench::stored(setup); oracle && !no_error)
          row.cost.gradient_error = bench::relative_error(row.cost.gradient_values, bench::first_gradient<B>(*oracle));
        row.cost.gradient_values.clear();
        row.score = scores.find(method);
        show(row);
        rows.push_back(std::move(row));
        sweep.save_json(rows);
      }
    });
    std::vector<Json> kept;
    for (const auto& row : rows) kept.push_back(row.json(sweep));
    if (!sweep.plot.empty()) io::write_atomically(sweep.plot, plot_of(kept, scores));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "methods: %s\n", error.what());
    return 1;
  }
}
