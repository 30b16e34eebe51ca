// Owns: metrics.json and the lines of log.jsonl: how a run went, as a program reads it.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <meft/io/json.hpp>
#include <meft/train/memory.hpp>
#include <meft/train/state.hpp>

namespace meft::train {

/// The value of `metric` among an epoch's scores.
inline double value_of(const EpochScores& epoch, const std::string& metric) {
  for (const auto& s : epoch.scores)
    if (s.name == metric) return s.value;
  fail("trainer: the main metric is not among the metrics", metric);
}

/// The earlier of equals is the better; what is no number is worse than any.
inline bool better(double now, double before) { return now > before || (std::isnan(before) && !std::isnan(now)); }

inline nlohmann::ordered_json memory_json(std::size_t activation, const MemoryReport& m) {
  return {{"activation_bytes", activation},
          {"weight_bytes", m.weights},
          {"gradient_bytes", m.gradients},
          {"optimizer_bytes", m.optimizer},
          {"feature_bytes", m.features},
          {"stream_bytes", m.streams},
          {"digit_bytes", m.digits},
          {"slice_bytes", m.slices},
          {"reserved_bytes", m.held},
          {"resident_own_bytes", m.resident.own},
          {"resident_file_bytes", m.resident.file},
          {"resident_peak_bytes", m.resident.peak}};
}

/// Lines of the log: of steps, whose mean loss is `loss`; of an epoch; of a step that was done again.
inline nlohmann::ordered_json log_line(const StepReport& r, double loss, double seconds) {
  nlohmann::ordered_json line{{"step", r.step},
                              {"epoch", r.epoch},
                              {"loss", loss},
                              {"rate", r.rate},
                              {"gradient_norm", r.gradient_norm},
                              {"sequences_per_second", r.sequences_per_second},
                              {"activation_bytes", r.activation_bytes},
                              {"reserved_bytes", r.memory.held},
                              {"resident_own_bytes", r.memory.resident.own},
                              {"resident_file_bytes", r.memory.resident.file},
                              {"seconds", seconds}};
  if (r.light > 0) line["speed_of_light"] = r.light;
  return line;
}
inline nlohmann::ordered_json log_line(const EpochReport& r, nlohmann::ordered_json memory, double seconds) {
  nlohmann::ordered_json line{{"step", r.step}, {"epoch", r.epoch}, {"train_loss", r.mean_loss}, {"best", r.best}};
  for (const auto& s : r.scores) line["dev"][s.name] = to_json(s.value);
  line["memory"] = std::move(memory);
  line["seconds"] = seconds;
  return line;
}
inline nlohmann::ordered_json log_line(const RangeReport& r) {
  return {{"step", r.step}, {"widened_features", r.by.features}, {"least_fraction_bits", r.by.least}};
}

struct RunSizes {
  std::size_t train_examples = 0, dev_examples = 0;
  Index trained_parameters = 0;
};

inline nlohmann::ordered_json to_json(const std::vector<task::Score>& scores) {
  auto out = nlohmann::ordered_json::object();
  for (const auto& s : scores) out[s.name] = to_json(s.value);
  return out;
}

/// What the same options give again, bit for bit, but for the last entry, `memory`; no times. An epoch has ended.
inline nlohmann::ordered_json summary(const Place& place, const std::string& main_metric, nlohmann::ordered_json memory,
                                      const RunSizes& sizes) {
  const auto scores = [](const EpochScores& e) { return to_json(e.scores); };
  nlohmann::ordered_json epochs = nlohmann::ordered_json::array();
  for (const auto& e : place.epochs)
    epochs.push_back({{"epoch", e.epoch + 1}, {"step", e.step}, {"train_loss", e.loss}, {"dev", scores(e)}});
  return {{"metric", main_metric},
          {"value", to_json(value_of(place.best(), main_metric))},
          {"best_epoch", place.best().epoch + 1},
          {"dev", scores(place.best())},
          {"steps", place.step},
          {"finished", place.finished},
          {"train_examples", sizes.train_examples},
          {"dev_examples", sizes.dev_examples},
          {"trained_parameters", sizes.trained_parameters},
          {"epochs", epochs},
          {"memory", std::move(memory)}};
}

/// Adds the scores of a further set, under its name, to the metrics.json of a run that has ended.
inline void add_scores(const std::string& path, const std::string& set, const std::vector<task::Score>& scores) {
  const auto wrong = [&](const std::string& what) { fail(path + ": expected a run's metrics, found " + what); };
  auto tree = nlohmann::ordered_json::parse(io::read_text(path), nullptr, false);
  if (!tree.is_object()) wrong(tree.is_discarded() ? "no JSON" : "another value");
  if (!tree.contains("memory")) wrong("no `memory` in them");
  auto memory = tree["memory"];
  tree.erase("memory");
  tree[set] = to_json(scores);
  tree["memory"] = std::move(memory);
  io::write_atomically(path, tree.dump(2) + "\n");
}

}  // namespace meft::train
