// Owns: what an interrupted run needs to go on with the same bits, and its one file: trained tensors, moments, and the
// place in the run as JSON in the metadata. Must not know: models and batches.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <meft/io/json.hpp>
#include <meft/optim/adamw.hpp>
#include <meft/train/learner.hpp>

namespace meft::train {

/// An epoch that has ended.
struct EpochScores {
  double loss = 0;  // mean over its steps
  std::int64_t step = 0;
  std::vector<Score> scores;
};

/// A place in a run, always between two optimizer steps.
struct Place {
  std::int64_t epoch = 0, group = 0;   // done groups of the running epoch, each one optimizer step
  std::int64_t step = 0, batches = 0;  // optimizer steps, and batches seen
  double loss = 0;                     // sum of the running epoch's step losses
  double recent_loss = 0;              // the same since the last line of the log
  std::int64_t recent_steps = 0;
  std::int64_t best_epoch = -1;
  bool finished = false;
  std::uint64_t log_bytes = 0;  // of the log that belong to what is done
  std::vector<EpochScores> epochs;
};

namespace detail {

inline nlohmann::json to_json(const Place& p) {
  nlohmann::json epochs = nlohmann::json::array();
  for (const auto& e : p.epochs) {
    nlohmann::json scores = nlohmann::json::array();
    for (const auto& s : e.scores) scores.push_back({s.name, s.value});
    epochs.push_back({{"loss", e.loss}, {"step", e.step}, {"scores", scores}});
  }
  return {{"epoch", p.epoch},
          {"group", p.group},
          {"step", p.step},
          {"batches", p.batches},
          {"loss", p.loss},
          {"recent_loss", p.recent_loss},
          {"recent_steps", p.recent_steps},
          {"best_epoch", p.best_epoch},
          {"finished", p.finished},
          {"log_bytes", p.log_bytes},
          {"epochs", epochs}};
}

inline Place place_from(const nlohmann::json& tree, const std::string& path) {
  try {
    Place p;
    tree.at("epoch").get_to(p.epoch);
    tree.at("group").get_to(p.group);
    tree.at("step").get_to(p.step);
    tree.at("batches").get_to(p.batches);
    tree.at("loss").get_to(p.loss);
    tree.at("recent_loss").get_to(p.recent_loss);
    tree.at("recent_steps").get_to(p.recent_steps);
    tree.at("best_epoch").get_to(p.best_epoch);
    tree.at("finished").get_to(p.finished);
    tree.at("log_bytes").get_to(p.log_bytes);
    for (const auto& e : tree.at("epochs")) {
      EpochScores scores{e.at("loss"), e.at("step"), {}};
      for (const auto& s : e.at("scores")) scores.scores.push_back({s.at(0), s.at(1)});
      p.epochs.push_back(std::move(scores));
    }
    const auto count = static_cast<std::int64_t>(p.epochs.size());
    if (p.epoch != count || p.group < 0 || p.step < 0 || p.batches < p.step || p.best_epoch >= count)
      fail(path + ": state: impossible values");
    return p;
  } catch (const nlohmann::json::exception& error) {
    fail(path + ": state: not a place in a run", error.what());
  }
}

}  // namespace detail

/// Throws when the run described by `stored` is not the one described by `now` (objects whose keys are the options'
/// names), naming the first option that differs and both values.
inline void require_same_run(const nlohmann::json& stored, const nlohmann::json& now, const std::string& path,
                             Where where = Where::current()) {
  const auto text = [](const nlohmann::json& tree, const std::string& key) {
    const auto at = tree.find(key);
    return at == tree.end() ? std::string("nothing") : at->is_string() ? at->get<std::string>() : at->dump();
  };
  nlohmann::json keys = now.is_object() ? now : nlohmann::json::object();
  if (stored.is_object()) keys.update(stored);
  for (const auto& [key, value] : keys.items())
    if (!stored.is_object() || !now.is_object() || !stored.contains(key) || !now.contains(key) ||
        stored[key] != now[key])
      fail({"resume: option --" + key + " is not the run's: " + path + " has " + text(stored, key) + ", found " +
                text(now, key),
            where});
}

/// Writes the state, whole or not at all.
template <Real T, Backend B>
void save_state(const std::string& path, optim::State<T, B>& optimizer, const Place& place,
                const nlohmann::json& identity, Where where = Where::current()) {
  detail::NamedTensors<T> tensors;
  optimizer.for_each_state([&](const std::string& name, Tensor<T, B>& x) { tensors.add(name, x); });
  tensors.write(path, {{"format", "meft-state-1"}, {"place", detail::to_json(place).dump()}, {"run", identity.dump()}},
                where);
}

/// Reads it into the optimizer and its parameters. Throws, having changed nothing, when it belongs to another run.
template <Real T, Backend B>
Place load_state(const std::string& path, optim::State<T, B>& optimizer, const nlohmann::json& identity,
                 Where where = Where::current()) {
  const io::Safetensors file(path, where);
  const auto read = [&](const char* key) {
    const auto at = file.metadata().find(key);
    if (at == file.metadata().end())
      fail({path + ": not the state of a run: no `" + std::string(key) + "` in its metadata", where});
    return parse_json(at->second, path + ": " + key, where);
  };
  require_same_run(read("run"), identity, path, where);
  Place place = detail::place_from(read("place"), path);
  std::size_t count = 0;
  optimizer.for_each_state([&](const std::string& name, Tensor<T, B>& x) {
    detail::read_into(x, file, name, where);
    ++count;
  });
  require(count == file.size(), {path + ": state: the number of tensors differs, expected and found", where}, count,
          file.size());
  optimizer.set_steps(place.step);
  return place;
}

}  // namespace meft::train
