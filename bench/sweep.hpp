// Owns: what the benches of a training step share: the flags for shape, methods and the axis that varies, a measured
// row's JSON fields, and the files written from the rows.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <meft/io/file.hpp>

#include "device.hpp"
#include "plot.hpp"
#include "rate.hpp"
#include "step.hpp"

namespace bench {

/// Seconds of the fastest step, as tables show them; `-` where each step's batch is another.
inline std::string seconds(const Setup& setup, const Cost& cost) {
  char text[32] = "-";
  if (!setup.ragged) std::snprintf(text, sizeof text, "%.3f", cost.least().step);
  return text;
}

/// The error of the gradient, as tables show it; `-` where it was not measured or no layer trains.
inline std::string gradient_error(const Cost& cost) {
  char text[32] = "-";
  const auto error = cost.gradient_error;
  if (error) std::snprintf(text, sizeof text, *error == 0 ? "0" : "%.1e", *error);
  return cost.finite ? text : "not finite";
}

/// The flags.
struct Sweep {
  std::string device = "cpu", model = "bert-base", precision = "f32", vary = "depth", json, plot;
  Index hidden = 0, heads = 0, ffn = 0, batch = 16, seq = 128, slice_tokens = -1;
  std::vector<Index> layers, values;
  std::vector<std::string> methods;
  int threads = 0, steps = 2;
  std::uint64_t seed = 1;
  bool log = false, ragged = false;

  /// Declares them; what they hold then are the defaults.
  void add_to(CLI::App& app) {
    const auto positive = [&](const char* name, auto& value, const char* meaning) {
      return app.add_option(name, value, meaning)->check(CLI::PositiveNumber);
    };
    app.add_option("--model", model, "shape to start from")
        ->check(CLI::IsMember({"bert-base", "bert-large", "minilm6"}))
        ->capture_default_str();
    positive("--hidden", hidden, "width, in place of the model's");
    positive("--heads", heads, "attention heads, in place of the model's");
    positive("--ffn", ffn, "width of the feed-forward block, in place of the model's");
    positive("--layers", layers, "depths a,b,c, in place of the model's")->delimiter(',');
    positive("--batch", batch, "sequences")->capture_default_str();
    positive("--seq", seq, "tokens in a sequence")->capture_default_str();
    app.add_option("--vary", vary, "what --values are of, and the plot's axis")
        ->check(CLI::IsMember({"depth", "batch", "length"}))
        ->capture_default_str();
    positive("--values", values, "a,b,c, in place of --layers, --batch or --seq")->delimiter(',');
    app.add_option("--methods", methods, "a,b,c")
        ->delimiter(',')
        ->check(CLI::IsMember(every_method()))
        ->capture_default_str();
    app.add_option("--precision", precision, "of frozen weights, and of full fine-tuning's products")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    add_device(app, device);
    positive("--slice-tokens", slice_tokens, "tokens in a slice, in place of the device's default");
    positive("--threads", threads, "all processors by default");
    positive("--steps", steps, "measured steps, after one that is not")->capture_default_str();
    app.add_option("--seed", seed, "of weights, tokens and dropout")->capture_default_str();
    app.add_option("--json", json, "file for the rows, a JSON object a line");
    app.add_option("--plot", plot, "file for the plot, SVG");
  }
  /// Declares --log, for benches whose plot is over the sizes.
  void add_log(CLI::App& app) { app.add_flag("--log", log, "logarithmic axes in the plot"); }

  /// Declares --ragged, for benches of memory: the steps of a ragged run do not compare in time.
  void add_ragged(CLI::App& app) {
    app.add_flag("--ragged", ragged, "each step's sequences have lengths of their own, from 1 to --seq: no s/step");
  }
  /// Ragged steps are 200 where the flags do not say how many.
  void settle(const CLI::App& app) {
    if (ragged && !app.count("--steps")) steps = 200;
  }

  /// What varies, of a setup.
  auto& axis(auto& setup) const {
    return vary == "depth" ? setup.config.num_hidden_layers : vary == "batch" ? setup.batch : setup.seq;
  }

  /// The sizes to measure, without methods.
  std::vector<Setup> sizes() const {
    Setup base{.config = config_of(model), .batch = batch, .seq = seq, .stack = {}, .seed = seed, .ragged = ragged};
    if (hidden) base.config.hidden_size = hidden;
    if (heads) base.config.num_attention_heads = heads;
    if (ffn) base.config.intermediate_size = ffn;
    base.stack.slice_tokens = slice_tokens;
    base.precision = precision_from(precision);
    require(base.config.hidden_size % base.config.num_attention_heads == 0, "--hidden is not a multiple of --heads",
            base.config.hidden_size, base.config.num_attention_heads);
    const bool depths = vary == "depth";
    require(layers.size() <= (values.empty() ? depths ? layers.size() : 1 : !depths),
            depths ? "--layers: --values are depths too" : "--layers: one depth at most beside --values",
            layers.size());
    if (!layers.empty()) base.config.num_hidden_layers = layers.front();
    auto points = depths && values.empty() ? layers : values;
    if (points.empty()) points.push_back(axis(base));
    std::vector<Setup> out;
    for (const Index value : points) {
      out.push_back(base);
      axis(out.back()) = value;
    }
    return out;
  }

  /// The line above a table: what all sizes share.
  std::string describe(const Setup& size) const {
    const auto& c = size.config;
    return model + ": hidden " + std::to_string(c.hidden_size) + ", heads " + std::to_string(c.num_attention_heads) +
           ", ffn " + std::to_string(c.intermediate_size) + ", " + precision + ", " + std::to_string(meft::threads()) +
           " threads, " + processor() + (device == "cpu" ? "" : ", " + device);
  }

  /// What was measured, as far as the benches agree on it.
  nlohmann::ordered_json fields(const Setup& setup, const Cost& cost) const {
    nlohmann::ordered_json out{
        {"method", setup.method},
        {"streams", nullptr},
        {"precision", precision},
        {"model", model},
        {"layers", setup.config.num_hidden_layers},
        {"batch", setup.batch},
        {"seq", setup.seq},
        {"activation_bytes", cost.activation},
        {"parameter_bytes", cost.parameter},
        {"gradient_bytes", cost.gradient},
        {"optimizer_bytes", cost.optimizer},
        {"trained_parameters", cost.trained},
        {"needed_bytes", cost.needed},
        {"reserved_bytes", cost.reserved},
        {"resident_own_bytes", cost.resident.own},
        {"resident_file_bytes", cost.resident.file},
        {"ragged", setup.ragged},
        {"heap_bytes", nullptr},
        {"step_seconds", nullptr},
        {"step_seconds_median", nullptr},
        {"gradient_error", nullptr},
        {"gradient_finite", cost.finite},
        {"device", device},
        {"threads", meft::threads()},
        {"slice_tokens", with_device(device, [&]<Backend B>() { return meft::slice_tokens<B>(setup.stack); })},
        {"seed", seed},
        {"processor", processor()},
        {"hidden", setup.config.hidden_size},
        {"heads", setup.config.num_attention_heads},
        {"ffn", setup.config.intermediate_size}};
    if (reversible(setup.method)) out["streams"] = name_of(setup.stack.streams);
    if (cost.heap) out["heap_bytes"] = *cost.heap;
    if (cost.gradient_error && std::isfinite(*cost.gradient_error)) out["gradient_error"] = *cost.gradient_error;
    if (!setup.ragged) out["step_seconds"] = cost.least().step, out["step_seconds_median"] = cost.median();
    return out;
  }

  /// Writes the JSON lines, where they were asked for. A row has a json(sweep).
  template <class Row>
  void save_json(const std::vector<Row>& rows) const {
    if (json.empty()) return;
    std::string lines;
    for (const auto& row : rows) lines += row.json(*this).dump() + "\n";
    io::write_atomically(json, lines);
  }

  /// Writes the files that were asked for. A row has a `setup`, a name() and a height() in the plot, and a json(sweep).
  template <class Row>
  void save(const std::vector<Row>& rows, const char* title, const char* y_label) const {
    save_json(rows);
    if (plot.empty()) return;
    plot::Figure figure;
    figure.title = title;
    figure.y_label = y_label;
    figure.log_x = figure.log_y = log;
    for (const auto& row : rows) {
      auto& lines = figure.lines;
      auto line = std::find_if(lines.begin(), lines.end(), [&](const auto& l) { return l.name == row.name(); });
      if (line == lines.end()) line = lines.insert(lines.end(), {row.name(), {}});
      line->points.push_back({static_cast<double>(axis(row.setup)), row.height()});
    }
    for (auto& line : figure.lines) std::sort(line.points.begin(), line.points.end());
    const auto& fixed = rows.front().setup;
    const auto depth = std::to_string(fixed.config.num_hidden_layers) + " layers, ";
    const auto sequences = std::to_string(fixed.batch), tokens = std::to_string(fixed.seq) + " tokens";
    figure.subtitle = model + ", hidden " + std::to_string(fixed.config.hidden_size) + ", " +
                      (vary == "depth"   ? "batch " + sequences + " x " + tokens
                       : vary == "batch" ? depth + tokens
                                         : depth + "batch " + sequences) +
                      ", " + precision;
    figure.x_label = vary == "depth" ? "layers" : vary == "batch" ? "sequences in a batch" : "tokens in a sequence";
    io::write_atomically(plot, plot::svg(figure));
  }
};

}  // namespace bench
