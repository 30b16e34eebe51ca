// Owns: what an interrupted run needs to go on with the same bits, and its one file: the optimizer's tensors, and the
// place in the run as JSON in the metadata. Must not know: models and batches.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <meft/base/target.hpp>
#include <meft/checkpoints/trained.hpp>
#include <meft/io/json.hpp>
#include <meft/optim/optimizer.hpp>
#include <meft/train/observer.hpp>

namespace meft::train {

/// An epoch that has ended, or that the last step cut short.
struct EpochScores {
  double loss = 0;  // mean over its steps
  std::int64_t step = 0;
  std::vector<task::Score> scores;
  std::int64_t epoch = 0;  // from 0
};

/// A place in a run, always between two optimizer steps.
struct Place {
  std::int64_t epoch = 0, group = 0;   // whole epochs, and done groups of the next, each one optimizer step
  std::int64_t step = 0, batches = 0;  // optimizer steps, and batches seen
  double loss = 0;                     // sum of the running epoch's step losses
  double recent_loss = 0;              // the same since the last line of the log
  std::int64_t recent_steps = 0;
  std::int64_t best_epoch = -1;  // its place in `epochs`; the adapter is of it; -1: there is none
  bool finished = false;
  std::uint64_t log_bytes = 0;  // of the log that belong to what is done
  std::vector<EpochScores> epochs;
  nlohmann::json fraction_bits{};  // of the streams' features, as checkpoints/streams.hpp has them

  const EpochScores& best() const { return epochs[static_cast<std::size_t>(best_epoch)]; }
};

/// A number for a file: JSON has none that are not finite, so these are "inf", "-inf" and "nan".
inline nlohmann::json to_json(double x) {
  if (std::isfinite(x)) return x;
  return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
}

namespace detail {

inline double number_from(const JsonField& field) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const nlohmann::json& x = field.value();
  if (x == "inf") return inf;
  if (x == "-inf") return -inf;
  if (x == "nan") return std::numeric_limits<double>::quiet_NaN();
  return field.number();
}

inline nlohmann::json to_json(const Place& p) {
  nlohmann::json epochs = nlohmann::json::array();
  for (const auto& e : p.epochs) {
    nlohmann::json scores = nlohmann::json::array();
    for (const auto& s : e.scores) scores.push_back({s.name, train::to_json(s.value)});
    epochs.push_back({{"loss", e.loss}, {"step", e.step}, {"epoch", e.epoch}, {"scores", scores}});
  }
  nlohmann::json out{{"epoch", p.epoch},
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
  if (!p.fraction_bits.is_null()) out["fraction_bits"] = p.fraction_bits;
  return out;
}

inline Place place_from(const nlohmann::json& tree, const std::string& path) {
  const JsonField root(tree, path + ": state: not a place in a run", "the place");
  const auto whole = [](const JsonField& in, std::string_view key, std::int64_t low = 0) {
    return in.at(key).integer(low, std::int64_t{1} << 53);
  };
  Place p;
  p.epoch = whole(root, "epoch");
  p.group = whole(root, "group");
  p.step = whole(root, "step");
  p.batches = whole(root, "batches");
  p.loss = root.at("loss").number();
  p.recent_loss = root.at("recent_loss").number();
  p.recent_steps = whole(root, "recent_steps");
  p.best_epoch = whole(root, "best_epoch", -1);
  p.finished = root.at("finished").boolean();
  p.log_bytes = static_cast<std::uint64_t>(whole(root, "log_bytes"));
  if (const auto bits = root.find("fraction_bits")) p.fraction_bits = bits->value();
  const JsonField epochs = root.at("epochs");
  for (std::size_t i = 0; i < epochs.array().size(); ++i) {
    const JsonField e = epochs.at(i), scores = e.at("scores");
    EpochScores& out = p.epochs.emplace_back();
    out.loss = e.at("loss").number();
    out.step = whole(e, "step");
    out.epoch = whole(e, "epoch");
    for (std::size_t s = 0; s < scores.array().size(); ++s)
      out.scores.push_back({scores.at(s).at(std::size_t{0}).string(), number_from(scores.at(s).at(1))});
  }
  const auto count = static_cast<std::int64_t>(p.epochs.size());
  if (p.epoch > count || p.batches < p.step || p.best_epoch >= count) fail(path + ": state: impossible values");
  return p;
}

}  // namespace detail

/// Throws when the run described by `stored` is not the one described by `now` (objects whose keys are the options'
/// names), naming the first option that differs and both values. Gives those that differ and `may_change`.
inline std::vector<Change> require_same_run(const nlohmann::json& stored, const nlohmann::json& now,
                                            const std::string& path, const std::vector<std::string>& may_change = {},
                                            Where where = Where::current()) {
  const auto text = [](const nlohmann::json& tree, const std::string& key) {
    const auto at = tree.find(key);
    return at == tree.end() ? std::string("nothing") : at->is_string() ? at->get<std::string>() : at->dump();
  };
  nlohmann::json keys = now.is_object() ? now : nlohmann::json::object();
  if (stored.is_object()) keys.update(stored);
  const auto both = [&](const std::string& key) {
    return stored.is_object() && now.is_object() && stored.contains(key) && now.contains(key);
  };
  std::vector<Change> out;
  const auto compare = [&](const std::string& key) {
    if (both(key) && stored[key] == now[key]) return;
    if (std::find(may_change.begin(), may_change.end(), key) == may_change.end())
      fail({"resume: option --" + key + " is not the run's: " + path + " has " + text(stored, key) + ", found " +
                text(now, key) +
                (key == "data" ? " (rows or files were added, changed or deleted since it began: put them back, or "
                                 "start anew)"
                               : ""),
            where});
    out.push_back({key, text(stored, key), text(now, key)});
  };
  for (const bool shared : {true, false})  // what one alone has follows from what both have
    for (const auto& [key, value] : keys.items())
      if (both(key) == shared) compare(key);
  return out;
}

/// The format of the file below.
inline constexpr const char* state_format = "meft-state-2";

/// What a state's metadata say of its run: an object whose keys are the options' names. Throws for a file that is no
/// state, or one of another version of the library.
inline nlohmann::json run_of(const io::Safetensors& file, const char* key = "run", Where where = Where::current()) {
  const auto& metadata = file.metadata();
  for (const char* needed : {"format", key})
    if (!metadata.contains(needed))
      fail({file.path() + ": not the state of a run: no `" + needed + "` in its metadata", where});
  if (metadata.at("format") != state_format)
    fail({file.path() + ": the state of another version of this library: expected " + state_format + ", found " +
              metadata.at("format"),
          where});
  return parse_json(metadata.at(key), file.path() + ": " + key, where);
}

/// Where the best epoch ended that a state knows; −1: it knows none.
inline std::int64_t best_step(const std::string& path, Where where = Where::current()) {
  const Place place = detail::place_from(run_of(io::Safetensors(path, where), "place", where), path);
  return place.best_epoch >= 0 ? place.best().step : -1;
}

/// Writes the state, and which elements of weights train, whole or not at all.
template <Real T, Backend B>
void save_state(const std::string& path, optim::State<T, B>& optimizer, const Place& place,
                const nlohmann::json& identity, const nn::Indices<B>& indices = {}, Where where = Where::current()) {
  checkpoints::detail::NamedTensors tensors;
  optimizer.for_each_state([&](const std::string& name, Tensor<T, B>& x) { tensors.add(name, x); });
  checkpoints::detail::add_indices(tensors, indices);
  tensors.write(path,
                {{"format", state_format},
                 {"place", detail::to_json(place).dump()},
                 {"run", identity.dump()},
                 {"isa", name_of(isa())}},
                where);
}

/// A run that goes on from its state.
struct Resumed {
  Place place;
  std::vector<Change> changed;  // options, and `isa` where another instruction set computes now
};

/// Reads it into the optimizer and its parameters. Throws, having changed nothing, when it is damaged or belongs to
/// another run: one whose description differs in more than `may_change`.
template <Real T, Backend B>
Resumed load_state(const std::string& path, optim::State<T, B>& optimizer, const nlohmann::json& identity,
                   const std::vector<std::string>& may_change = {}, const nn::Indices<B>& indices = {},
                   Where where = Where::current()) {
  const io::Safetensors file(path, where);
  Resumed out;
  out.changed = require_same_run(run_of(file, "run", where), identity, path, may_change, where);
  checkpoints::require_checksum(file, where);
  out.place = detail::place_from(run_of(file, "place", where), path);
  if (const auto at = file.metadata().find("isa"); at != file.metadata().end() && at->second != name_of(isa()))
    out.changed.push_back({"isa", at->second, name_of(isa())});
  std::size_t bytes = 0;
  for (const auto& name : file.names()) bytes += file.find(name, where).bytes.size();
  require(static_cast<std::size_t>(out.place.step) <= optimizer.steps_in(bytes),
          {path + ": state: too small for its number of steps", where}, out.place.step, bytes);
  const std::int64_t steps = optimizer.steps();
  optimizer.set_steps(out.place.step);
  try {
    checkpoints::detail::check_indices(file, indices, where);
    std::size_t count = indices.size();
    optimizer.for_each_state([&](const std::string& name, Tensor<T, B>& x) {
      (void)checkpoints::detail::entry_of(file, name, x.shape(), where);
      ++count;
    });
    require(count == file.size(), {path + ": state: the number of tensors differs, expected and found", where}, count,
            file.size());
  } catch (...) {
    optimizer.set_steps(steps);
    throw;
  }
  optimizer.for_each_state([&](const std::string& name, Tensor<T, B>& x) {
    x.fill([&](auto to) { io::copy_to(file.find(name, where), to, where); });
  });
  optimizer.restored();
  return out;
}

}  // namespace meft::train
