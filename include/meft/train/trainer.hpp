// Owns: the training loop: batches by length, accumulation, AdamW, warm-up and decay, the dev scores after each epoch,
// the best epoch kept, a state to resume from. Every random draw is keyed by seed and batch number, so a run has the
// same bits however often it was interrupted, on any number of threads. Must not know: command lines, and how progress
// is shown.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/memory/pool.hpp>
#include <meft/optim/schedule.hpp>
#include <meft/train/observer.hpp>
#include <meft/train/state.hpp>
#include <meft/train/steps.hpp>

namespace meft::train {

struct TrainOptions {
  std::size_t batch = 16, accumulate = 1;  // sequences a batch, batches a step
  std::int64_t epochs = 3;
  std::int64_t max_steps = 0;  // 0: all steps of the epochs
  optim::AdamW optimizer{.rate = 5e-4, .decay = 0.1, .clip = 1.0};
  double warmup = 0.06;  // share of the steps
  std::uint64_t seed = 0;
  std::vector<std::string> metrics{"accuracy"};
  std::string main_metric = "accuracy";

  std::string folder{};                              // of the files below, made when missing; empty: none is written
  nlohmann::json run = nlohmann::json::object();     // the options that make the run; a state of another is refused
  nlohmann::json config = nlohmann::json::object();  // goes into adapter.safetensors
  bool resume = false;                               // from the folder's state, if it has one
  std::size_t recordings = 8;                        // of steps on a device, at most; 0: none (see Steps)
  std::int64_t log_every = 10;                       // steps
  std::int64_t save_steps = 0;                       // save the state every so many steps; 0: never
  double save_seconds = 60;                          // and every so many seconds; 0: never
  std::function<bool()> stop{};                      // asked between batches; true: save and return
};

/// How a run ended. Sizes and times are those since it was started or resumed.
struct Outcome {
  bool finished = false;
  Place place;
  std::size_t activation_bytes = 0;  // the highest step's
  double seconds = 0;
};

/// The files of a run's folder.
struct RunFiles {
  std::string log, metrics, adapter, state;
  explicit RunFiles(const std::string& folder)
      : log(folder + "/log.jsonl"),
        metrics(folder + "/metrics.json"),
        adapter(folder + "/adapter.safetensors"),
        state(folder + "/state.safetensors") {}
};

/// Trains a Learner, or anything with its `batch(data, rows, run)`, `loss(batch)`, `scores(data, metrics, stop)` and
/// parts, on data with `size()` and `lengths()`, such as Encoded. Data that is to be prepared ahead has
/// `expect(batches, epoch)` besides.
template <class L, class Data, class DevData = Data>
class Trainer {
 public:
  using T = typename L::T;
  using B = typename L::B;

  /// Both sets have labels. Gradients and moments are allocated here. Throws for options outside their range.
  Trainer(L& learner, const Data& train, const DevData& dev, TrainOptions options, Observer observer = {},
          Where where = Where::current())
      : learner_(learner),
        train_(train),
        dev_(dev),
        o_(std::move(options)),
        observer_(std::move(observer)),
        files_(o_.folder),
        passes_(learner, o_.recordings),
        optimizer_(o_.optimizer.over<T, B>(learner)),
        lengths_(train.lengths()) {
    require(o_.batch > 0 && o_.accumulate > 0 && o_.epochs > 0 && o_.max_steps >= 0,
            {"trainer: batch, accumulate and epochs are positive, max_steps is not negative", where}, o_.batch,
            o_.accumulate, o_.epochs, o_.max_steps);
    require(o_.warmup >= 0 && o_.warmup < 1, {"trainer: warmup is a share of the steps, in [0, 1), found", where},
            o_.warmup);
    require(train.size() > 0 && dev.size() > 0, {"trainer: no examples to train on, or none to score", where},
            train.size(), dev.size());
    require(optimizer_.parameters() > 0, {"trainer: nothing trains", where});
    const auto batches = static_cast<std::int64_t>((train.size() + o_.batch - 1) / o_.batch),
               each = static_cast<std::int64_t>(o_.accumulate);
    groups_ = (batches + each - 1) / each;
    steps_ = groups_ * o_.epochs;
    if (o_.max_steps > 0) steps_ = std::min(steps_, o_.max_steps);
    epochs_ = (steps_ + groups_ - 1) / groups_;
  }

  std::int64_t steps() const { return steps_; }
  optim::State<T, B>& optimizer() { return optimizer_; }

  /// Trains to the end or until stopped. At the end the learner holds the best epoch's parameters when there is a
  /// folder, the last epoch's otherwise.
  Outcome run(Where where = Where::current()) {
    start(where);
    while (!place_.finished) {
      if (!epoch() || !score()) return outcome(false);
    }
    if (!o_.folder.empty()) load_trained(io::Safetensors(files_.adapter), learner_, where);
    return outcome(true);
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Batch = nn::Batch<B>;

  void start(Where where) {
    namespace fs = std::filesystem;
    bool resumed = false;
    if (!o_.folder.empty()) {
      std::error_code error;
      fs::create_directories(o_.folder, error);
      if (error) fail({"trainer: cannot make the folder " + o_.folder, where}, error.message());
      resumed = o_.resume && is_there(files_.state);
      if (!o_.resume)
        for (const auto& file : {files_.state, files_.adapter})
          if (fs::exists(file))
            fail({"trainer: " + file + " is there already: resume that run, or take another folder", where});
      if (resumed) place_ = load_state(files_.state, optimizer_, o_.run, where);
      restore_log();
      if (!resumed) save();
    }
    started_ = saved_ = Clock::now();
    start_step_ = place_.step;
    if (observer_.started) observer_.started({place_.step, steps_, place_.epoch + 1, resumed});
  }

  /// Cuts off what the log says of steps that will be done again.
  void restore_log() const {
    if (!std::filesystem::exists(files_.log)) return;
    std::string text = io::read_text(files_.log, std::size_t{1} << 32);
    if (text.size() == place_.log_bytes) return;
    if (text.size() < place_.log_bytes)
      text.resize(text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1);  // lost with the power
    else text.resize(place_.log_bytes);
    io::write_atomically(files_.log, text);
  }

  bool stopped() const { return o_.stop && o_.stop(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }

  /// The rest of the running epoch's steps. False when stopped, with the state saved.
  bool epoch() {
    if (place_.group >= groups_ || place_.step >= steps_) return true;
    const auto plan = data::batches(lengths_, o_.batch, o_.seed, static_cast<std::uint64_t>(place_.epoch), true);
    if constexpr (requires { train_.expect(std::span(plan), std::uint32_t{}); })
      train_.expect(
          std::span(plan).subspan(std::min(plan.size(), static_cast<std::size_t>(place_.group) * o_.accumulate)),
          static_cast<std::uint32_t>(place_.epoch));
    next_.reset();
    while (place_.group < groups_ && place_.step < steps_) {
      const std::size_t first = static_cast<std::size_t>(place_.group) * o_.accumulate;
      if (!step(std::span(plan).subspan(first))) {
        optimizer_.zero_gradients();
        save();
        return false;
      }
      const bool due =
          (o_.save_steps > 0 && place_.step % o_.save_steps == 0) ||
          (o_.save_seconds > 0 && std::chrono::duration<double>(Clock::now() - saved_).count() >= o_.save_seconds);
      if (due) save();
    }
    return true;
  }

  /// The examples of a batch, the i-th from now.
  Batch batch(const std::vector<std::uint32_t>& rows, std::size_t i) {
    const Run run{o_.seed, static_cast<std::uint32_t>(place_.batches + static_cast<std::int64_t>(i)), true};
    return learner_.batch(train_, rows, run);
  }

  /// One optimizer step over the first group of an epoch's remaining batches. False when stopped before its end.
  bool step(std::span<const std::vector<std::uint32_t>> rest) {
    StepReport report;
    const auto group = rest.first(std::min(o_.accumulate, rest.size()));
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (stopped()) return false;
      if (!next_) next_ = batch(group[i], i);
      const Batch now = *std::exchange(next_, {});
      B::Ahead::begin();
      const auto done = passes_.run(now, [&] {
        if constexpr (!B::on_host)
          if (i + 1 < rest.size()) {
            const typename B::Ahead ahead;
            next_ = batch(rest[i + 1], i + 1);
          }
      });
      report.loss += done.loss / static_cast<double>(group.size());
      if (!std::isfinite(report.loss))
        fail("trainer: the loss is not finite at step " + std::to_string(place_.step + 1) + " (a lower rate may help)");
      report.activation_bytes = std::max(report.activation_bytes, done.activation_bytes);
      sequences_ += group[i].size();
    }
    const auto warmup = static_cast<std::int64_t>(std::ceil(o_.warmup * static_cast<double>(steps_)));
    const double factor = optim::linear_schedule(place_.step, warmup, steps_);
    report.gradient_norm = optimizer_.step(factor, static_cast<int>(group.size()));
    place_.batches += static_cast<std::int64_t>(group.size());
    ++place_.group;
    ++place_.step;
    place_.loss += report.loss;
    place_.recent_loss += report.loss;
    ++place_.recent_steps;
    activation_ = std::max(activation_, report.activation_bytes);

    report.peak_activation_bytes = activation_;
    report.epoch = place_.epoch + 1;
    report.epochs = epochs_;
    report.step = place_.step;
    report.steps = steps_;
    report.mean_loss = place_.loss / static_cast<double>(place_.group);
    report.rate = o_.optimizer.rate * factor;
    report.sequences_per_second = static_cast<double>(sequences_) / std::max(1e-9, seconds());
    report.seconds_left =
        seconds() / static_cast<double>(place_.step - start_step_) * static_cast<double>(steps_ - place_.step);
    if (place_.recent_steps >= o_.log_every) log_step(report);
    if (observer_.stepped) observer_.stepped(report);
    return true;
  }

  /// The dev scores at an epoch's end. False when stopped, with the state of before saved.
  bool score() {
    auto scores = learner_.scores(dev_, o_.metrics, [this](std::size_t done, std::size_t of) {
      if (observer_.scoring) observer_.scoring(done, of);
      return stopped();
    });
    if (!scores) {
      save();
      return false;
    }
    EpochReport report{place_.epoch + 1,   epochs_,
                       place_.step,        place_.loss / static_cast<double>(std::max<std::int64_t>(1, place_.group)),
                       std::move(*scores), false};
    place_.epochs.push_back({report.mean_loss, place_.step, report.scores});
    report.best = place_.best_epoch < 0 ||
                  main_of(place_.epochs.back()) > main_of(place_.epochs[static_cast<std::size_t>(place_.best_epoch)]);
    if (report.best) place_.best_epoch = place_.epoch;
    ++place_.epoch;
    place_.group = 0;
    place_.loss = 0;
    place_.finished = place_.step >= steps_;
    if (!o_.folder.empty()) {
      log_epoch(report);
      // The state comes last: until it is there, a resumed run makes the same files again.
      if (report.best)
        save_trained(files_.adapter, learner_, {{"format", "meft-adapter-1"}, {"config", o_.config.dump()}});
      io::write_atomically(files_.metrics, summary().dump(2) + "\n");
      save();
    }
    if (observer_.evaluated) observer_.evaluated(report);
    return true;
  }

  double main_of(const EpochScores& epoch) const {
    for (const auto& s : epoch.scores)
      if (s.name == o_.main_metric) return s.value;
    fail("trainer: the main metric is not among the metrics", o_.main_metric);
  }

  void save() {
    if (o_.folder.empty()) return;
    save_state(files_.state, optimizer_, place_, o_.run);
    saved_ = Clock::now();
  }

  void log(const nlohmann::ordered_json& line) {
    const std::string text = line.dump();
    io::append_line(files_.log, text);
    place_.log_bytes += text.size() + 1;
  }
  void log_step(const StepReport& r) {
    const double mean =
        std::exchange(place_.recent_loss, 0) / static_cast<double>(std::exchange(place_.recent_steps, 0));
    if (o_.folder.empty()) return;
    log({{"step", r.step},
         {"epoch", r.epoch},
         {"loss", mean},
         {"rate", r.rate},
         {"gradient_norm", r.gradient_norm},
         {"sequences_per_second", r.sequences_per_second},
         {"activation_bytes", r.activation_bytes},
         {"seconds", seconds()}});
  }
  void log_epoch(const EpochReport& r) {
    nlohmann::ordered_json line{{"step", r.step}, {"epoch", r.epoch}, {"train_loss", r.mean_loss}, {"best", r.best}};
    for (const auto& s : r.scores) line["dev"][s.name] = s.value;
    line["activation_bytes"] = activation_;
    line["seconds"] = seconds();
    log(line);
  }

  /// metrics.json: what the same options give again, bit for bit; no times.
  nlohmann::ordered_json summary() const {
    const auto scores = [](const EpochScores& e) {
      nlohmann::ordered_json out = nlohmann::ordered_json::object();
      for (const auto& s : e.scores) out[s.name] = s.value;
      return out;
    };
    nlohmann::ordered_json epochs = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < place_.epochs.size(); ++i) {
      const auto& e = place_.epochs[i];
      epochs.push_back({{"epoch", i + 1}, {"step", e.step}, {"train_loss", e.loss}, {"dev", scores(e)}});
    }
    const auto& best = place_.epochs[static_cast<std::size_t>(place_.best_epoch)];
    return {{"metric", o_.main_metric},
            {"value", main_of(best)},
            {"best_epoch", place_.best_epoch + 1},
            {"dev", scores(best)},
            {"steps", place_.step},
            {"finished", place_.finished},
            {"train_examples", train_.size()},
            {"dev_examples", dev_.size()},
            {"trained_parameters", optimizer_.parameters()},
            {"epochs", epochs}};
  }

  Outcome outcome(bool finished) const { return {finished, place_, activation_, seconds()}; }

  L& learner_;
  const Data& train_;
  const DevData& dev_;
  TrainOptions o_;
  Observer observer_;
  RunFiles files_;
  Steps<L> passes_;
  std::optional<Batch> next_;  // was made while the device worked
  optim::State<T, B> optimizer_;
  std::vector<std::uint32_t> lengths_;
  std::int64_t groups_ = 0, steps_ = 0, epochs_ = 0;
  Place place_;
  Clock::time_point started_{}, saved_{};
  std::int64_t start_step_ = 0;
  std::size_t sequences_ = 0, activation_ = 0;
};

}  // namespace meft::train
