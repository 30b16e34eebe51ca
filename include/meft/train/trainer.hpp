// Owns: the training loop: batches by length, accumulation, warm-up and decay, the dev scores after each epoch, the
// best epoch kept, a state to resume from. Every random draw is keyed by seed and batch number, so a run has the
// same bits however often it was interrupted, on any number of threads. Must not know: command lines, and how progress
// is shown.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <meft/checkpoints/streams.hpp>
#include <meft/memory/pool.hpp>
#include <meft/train/job.hpp>
#include <meft/train/observer.hpp>
#include <meft/train/options.hpp>
#include <meft/train/plan.hpp>
#include <meft/train/run_files.hpp>
#include <meft/train/state.hpp>
#include <meft/train/steps.hpp>
#include <meft/train/summary.hpp>
#include <meft/train/usage.hpp>

namespace meft::train {

/// How a run ended. Sizes and times are those since it was started or resumed.
struct Outcome {
  bool finished = false;
  Place place;
  std::size_t activation_bytes = 0;  // the highest step's, or that of scoring where it is higher
  MemoryReport memory{};             // the highest
  double seconds = 0;
};

/// Trains a job, or a learner on examples (see Job::of).
template <Real T, Backend B>
class Trainer {
 public:
  template <class L, class Data, class DevData>
  Trainer(L& learner, const Data& train, const DevData& dev, TrainOptions options, Observer observer = {},
          Where where = Where::current())
      : Trainer(Job<T, B>::of(learner, train, dev), std::move(options), std::move(observer), where) {}

  /// Both sets have labels. What the optimizer keeps is allocated here. Throws for options outside their range.
  Trainer(Job<T, B> job, TrainOptions options, Observer observer = {}, Where where = Where::current())
      : job_(std::move(job)),
        o_(std::move(options)),
        observer_(std::move(observer)),
        files_(o_.folder),
        log_(o_.folder.empty() ? "" : files_.log),
        optimizer_(state_over(o_.optimizer, job_.parameters)),
        passes_(job_.loss, o_.recordings, optimizer_.get()),
        plan_(job_.lengths, {o_.batch, o_.accumulate, o_.seed, inner_of(o_.optimizer)}) {
    require(o_.batch > 0 && o_.accumulate > 0 && o_.epochs > 0 && o_.max_steps >= 0,
            {"trainer: batch, accumulate and epochs are positive, max_steps is not negative", where}, o_.batch,
            o_.accumulate, o_.epochs, o_.max_steps);
    require(o_.warmup >= 0 && o_.warmup < 1, {"trainer: warmup is a share of the steps, in [0, 1), found", where},
            o_.warmup);
    require(!o_.resume || !o_.overwrite, {"trainer: a run is resumed or overwritten, not both", where});
    require(!job_.lengths.empty() && job_.scored > 0, {"trainer: no examples to train on, or none to score", where},
            job_.lengths.size(), job_.scored);
    require(optimizer_->parameters() > 0, {"trainer: nothing trains", where});
    if (std::find(o_.metrics.begin(), o_.metrics.end(), o_.main_metric) == o_.metrics.end())
      fail({"trainer: the main metric `" + o_.main_metric + "` is none of the metrics, found", where},
           nlohmann::json(o_.metrics).dump());
    groups_ = plan_.steps();
    steps_ = groups_ * o_.epochs;
    if (o_.max_steps > 0) steps_ = std::min(steps_, o_.max_steps);
    epochs_ = (steps_ + groups_ - 1) / groups_;
  }

  std::int64_t steps() const { return steps_; }
  optim::State<T, B>& optimizer() { return *optimizer_; }

  /// Trains to the end or until stopped. Then the learner holds the best epoch's parameters where there is a folder,
  /// else the last one's. Errors: StepError where numbers go astray; a folder of another run, files that are damaged.
  Outcome run(Where where = Where::current()) {
    start(where);
    while (!place_.finished)
      if (!epoch() || !score()) return outcome(false);
    if (!o_.folder.empty()) {
      const io::Safetensors best(files_.adapter);
      if (o_.renewal.every > 0) o_.renewal.choose_as_in(best), job_.look_again(job_);
      checkpoints::load_trained(best, job_.parameters, job_.indices, where);
      checkpoints::load_ranges(best, job_.ranges, where);
    }
    return outcome(true);
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Batch = nn::Batch<B>;

  void start(Where where) {
    StartReport report;
    if (!o_.folder.empty()) {
      std::error_code error;
      std::filesystem::create_directories(o_.folder, error);
      if (error) fail({"trainer: cannot make the folder " + o_.folder, where}, error.message());
      if (o_.overwrite) files_.remove(where);
      report.resumed = o_.resume && is_there(files_.state);
      report.nothing_to_resume = o_.resume && !report.resumed;
      if (report.resumed) report.changed = resume(where);
      else files_.require_free(o_.resume, where);
      log_.restore(place_.log_bytes, where);
      if (!report.changed.empty()) save();  // so that a later resumption goes on with what changed
    }
    usage_ = Usage(place_.step);
    saved_ = Clock::now();
    report.step = place_.step;
    report.steps = steps_;
    report.epoch = place_.epoch + 1;
    report.rate = rate_of(o_.optimizer) * factor();
    report.schedule = o_.schedule;
    if (observer_.started) observer_.started(report);
  }

  std::vector<Change> resume(Where where) {
    if (is_there(files_.next_adapter)) files_.settle(best_step(files_.state, where), where);
    const bool there = is_there(files_.adapter);
    try {
      if (there && o_.renewal.every > 0) checkpoints::require_checksum(io::Safetensors(files_.adapter, where), where);
      else if (there)
        checkpoints::check_trained(io::Safetensors(files_.adapter, where), job_.parameters, job_.indices, where);
    } catch (Error& error) {
      error.within("trainer: cannot resume", where);
      throw;
    }
    auto [place, changed] = load_state(files_.state, *optimizer_, o_.run, o_.may_change, job_.indices, where);
    checkpoints::set_ranges(job_.ranges, place.fraction_bits, files_.state, where);
    place_ = place;
    kept_ = place_.step;
    if (o_.renewal.every > 0) optimizer_->made_at(job_.chosen, o_.renewal.last(place_.step));
    if (place_.step > steps_)
      fail({"trainer: cannot resume: " + files_.state + " is at step " + std::to_string(place_.step) +
                ", past the last one (option epochs or option max-steps), " + std::to_string(steps_),
            where});
    place_.finished = place_.finished && place_.step == steps_;
    if (place_.best_epoch >= 0 && !there)
      fail({"trainer: cannot resume: " + files_.adapter + " is missing, which holds epoch " +
                std::to_string(place_.best().epoch + 1) + ", the best so far",
            where});
    return changed;
  }

  /// Of the coming step's rate.
  double factor() const { return o_.factor(place_.step, steps_); }

  bool stopped() const { return o_.stop && o_.stop(); }

  /// The rest of the running epoch's steps. False when stopped, with the state saved.
  bool epoch() {
    if (place_.group >= groups_ || place_.step >= steps_) return true;
    plan_.begin(place_.epoch, [this](Rows rows) { return job_.parts(std::move(rows)); });
    expect();
    while (place_.group < groups_ && place_.step < steps_) {
      if (!step()) {
        optimizer_->zero_gradients();
        if (kept_ != place_.step) save();
        return false;
      }
      if ((o_.save_steps > 0 && place_.step % o_.save_steps == 0) ||
          (o_.save_seconds > 0 && std::chrono::duration<double>(Clock::now() - saved_).count() >= o_.save_seconds))
        save();
    }
    return true;
  }

  /// Says which batches come.
  void expect() {
    if (job_.expect)
      job_.expect(std::span(plan_.rows()).subspan(plan_.first(place_.group)), static_cast<std::uint32_t>(place_.epoch));
    next_.reset();
  }

  /// The examples of a batch of the plan. Where a step has several, each weighs what it counts, so that their gradients
  /// add up to that of one large batch times what that counts.
  Batch batch(std::size_t number) {
    const auto run =
        static_cast<std::uint32_t>(place_.batches + static_cast<std::int64_t>(number - plan_.first(place_.group)));
    auto out = job_.batch(plan_.rows()[number], Run{o_.seed, run, true});
    if (o_.recordings > 0 && job_.fill) out = job_.fill(std::move(out));
    if (!plan_.shares(number)) return out;
    require(out.counted >= 0, "trainer: to accumulate batches, a learner's batch tells what it counts");
    out.weight = Tensor<float, B>::from(Shape{}, {static_cast<float>(out.counted)});
    return out;
  }

  /// Has others train where the coming step is their first. False when stopped: nothing chosen does then, and the state
  /// is that of before.
  bool renewed() {
    if (!o_.renewal.due(place_.step) || std::exchange(renewed_, place_.step) == place_.step) return true;
    if (kept_ != place_.step) save();
    const bool done = o_.renewal.choose();
    job_.look_again(job_);
    optimizer_->follow(job_.parameters, job_.chosen);
    passes_ = Steps<T, B>(job_.loss, o_.recordings, optimizer_.get());
    return done;
  }

  /// One optimizer step over the next batches of the plan. False when stopped before its end.
  bool step() {
    if (!renewed()) return false;
    for (;;) try {
        return add_gradients_and_step();
      } catch (const NumberError& error) {
        optimizer_->zero_gradients();
        const auto forward = [&] {
          expect();
          for (std::size_t i = plan_.first(place_.group); i < plan_.end(place_.group); ++i) (void)job_.loss(batch(i));
          expect();
        };
        if (!widened(error, place_.step + 1, forward)) fail_at("step", place_.step + 1, error);
      } catch (...) {
        optimizer_->zero_gradients();
        throw;
      }
  }

  /// Gives the streams a wider range where leaving theirs is what went wrong, by what they hold in forward().
  bool widened(const NumberError& error, std::int64_t step, const std::function<void()>& forward) {
    const RangeReport report{step, widen_after(error, job_.ranges, forward)};
    if (report.by.features == 0) return false;
    passes_ = Steps<T, B>(job_.loss, o_.recordings, optimizer_.get());  // what was recorded has the units of before
    log_.wait(log_line(report).dump());
    if (observer_.widened) observer_.widened(report);
    return true;
  }

  [[noreturn]] void fail_at(const char* what, std::int64_t step, const NumberError& error) const {
    const bool trained = place_.step > 0;
    std::string text = "trainer: " + std::string(what) + " " + std::to_string(step) + " of " + std::to_string(steps_);
    text += trained ? ", training has diverged: " : ", the first, so the learning rate is not the cause: ";
    text += error.message();
    if (kept_ >= 0) text += "; " + files_.state + " holds step " + std::to_string(kept_);
    std::throw_with_nested(StepError(std::move(text), step, kept_, trained, Where::current()));  // around `error`
  }

  bool add_gradients_and_step() {
    StepReport report;
    double weight = 0;
    const std::size_t first = plan_.first(place_.group), end = plan_.end(place_.group);
    for (std::size_t i = first; i < end; ++i) {
      if (stopped()) return false;
      if (!next_) next_ = batch(i);
      const Batch now = *std::exchange(next_, {});
      if (now.counted == 0) continue;  // none of its tokens is to be predicted
      const double counts = plan_.shares(i) ? static_cast<double>(now.counted) : 1;
      B::Ahead::begin();
      const auto done = passes_.run(
          now,
          [&] {
            if constexpr (!B::on_host)
              if (i + 1 < plan_.rows().size()) {
                const typename B::Ahead ahead;
                next_ = batch(i + 1);
              }
          },
          static_cast<int>(i - first));
      weight += counts;
      report.loss += (done.loss - report.loss) * (counts / weight);
      if (!std::isfinite(done.loss)) throw NumberError("the loss is not finite");
      report.activation_bytes = std::max(report.activation_bytes, done.activation_bytes);
      usage_.raise(MemoryReport::of(B::pool()));
      usage_.add(plan_.rows()[i].size(), o_.light ? o_.light(sizes_of(now)) : 0);
    }
    const double factor = weight > 0 ? this->factor() : 0;  // where nothing counts, nothing moves, by decay neither
    report.gradient_norm = optimizer_->step(factor, std::max(weight, 1.0));
    place_.batches += static_cast<std::int64_t>(end - first);
    ++place_.group;
    ++place_.step;
    place_.loss += report.loss;
    place_.recent_loss += report.loss;
    ++place_.recent_steps;
    // A run that fails in its first step leaves nothing in its folder; the state comes before all other files.
    if (kept_ < 0) save();
    log_.add_waiting();
    usage_.raise(report.activation_bytes);

    report.epoch = place_.epoch + 1;
    report.epochs = epochs_;
    report.step = place_.step;
    report.steps = steps_;
    report.mean_loss = place_.loss / static_cast<double>(place_.group);
    report.rate = rate_of(o_.optimizer) * factor;
    usage_.tell(report);
    if (place_.recent_steps >= o_.log_every) log_step(report);
    if (observer_.stepped) observer_.stepped(report);
    return true;
  }

  /// The scores of dev examples; nothing when stopped. What ends it, an example that cannot be read for one, does not
  /// cost the epoch: the state is saved.
  std::optional<std::vector<task::Score>> dev_scores() {
    const auto pass = [this] {
      return job_.scores(o_.metrics, scored_at_once(o_.batch), [this](std::size_t done, std::size_t of) {
        if (observer_.scoring) observer_.scoring(done, of);
        return stopped();
      });
    };
    for (;;) try {
        const Measure measure(B::pool());
        auto scores = pass();
        usage_.raise(measure.activation());
        if (!scores) save();
        return scores;
      } catch (const NumberError& error) {
        if (!widened(error, place_.step, [&] { (void)pass(); })) fail_at("scores after step", place_.step, error);
      } catch (const Error&) {
        if (kept_ != place_.step) save();
        throw;
      }
  }

  /// Scores at an epoch's end, or where the last step cut it short. False when stopped, with the state saved.
  bool score() {
    auto scores = dev_scores();
    if (!scores) return false;
    usage_.raise(MemoryReport::of(B::pool()));
    EpochReport report{place_.epoch + 1,   epochs_,
                       place_.step,        place_.loss / static_cast<double>(std::max<std::int64_t>(1, place_.group)),
                       std::move(*scores), false};
    place_.epochs.push_back({report.mean_loss, place_.step, report.scores, place_.epoch});
    report.best = place_.best_epoch < 0 ||
                  better(value_of(place_.epochs.back(), o_.main_metric), value_of(place_.best(), o_.main_metric));
    if (report.best) place_.best_epoch = static_cast<std::int64_t>(place_.epochs.size()) - 1;
    if (place_.group >= groups_) {
      ++place_.epoch;
      place_.group = 0;
      place_.loss = 0;
    }
    place_.finished = place_.step >= steps_;
    if (!o_.folder.empty()) {
      log_.add_waiting();
      const auto memory = memory_json(usage_.activation_bytes(), usage_.memory());
      log_.add(log_line(report, memory, usage_.seconds()).dump());
      // Until there is a state that knows them a resumed run makes these files again; the adapter before stays till then.
      if (report.best) {
        io::Metadata about{
            {"format", "meft-adapter-1"}, {"config", o_.config.dump()}, {"step", std::to_string(place_.step)}};
        checkpoints::add_ranges(about, job_.ranges);
        checkpoints::save_trained(files_.next_adapter, job_.parameters, about, job_.indices);
      }
      io::write_atomically(files_.metrics, summary(place_, o_.main_metric, memory,
                                                   {job_.lengths.size(), job_.scored, optimizer_->parameters()})
                                                   .dump(2) +
                                               "\n");
      save();
      if (report.best) files_.take_next();
    }
    if (observer_.evaluated) observer_.evaluated(report);
    return true;
  }

  void save() {
    if (o_.folder.empty()) return;
    place_.fraction_bits = checkpoints::ranges_to_json(job_.ranges);
    place_.log_bytes = log_.bytes();
    save_state(files_.state, *optimizer_, place_, o_.run, job_.indices);
    kept_ = place_.step;
    saved_ = Clock::now();
  }

  void log_step(const StepReport& r) {
    const double mean =
        std::exchange(place_.recent_loss, 0) / static_cast<double>(std::exchange(place_.recent_steps, 0));
    log_.add(log_line(r, mean, usage_.seconds()).dump());
  }

  Outcome outcome(bool finished) const {
    return {finished, place_, usage_.activation_bytes(), usage_.memory(), usage_.seconds()};
  }

  Job<T, B> job_;
  TrainOptions o_;
  Observer observer_;
  RunFiles files_;
  RunLog log_;
  std::unique_ptr<optim::State<T, B>> optimizer_;
  Steps<T, B> passes_;
  Plan plan_;                  // of the running epoch
  std::optional<Batch> next_;  // was made while the device worked
  std::int64_t groups_ = 0, steps_ = 0, epochs_ = 0;
  Place place_;
  Usage usage_;
  Clock::time_point saved_{};
  std::int64_t kept_ = -1, renewed_ = -1;  // the steps of the saved state, and those behind which was chosen last
};

template <class L, class Data, class DevData, class... More>
Trainer(L&, const Data&, const DevData&, More...) -> Trainer<typename L::T, typename L::B>;

}  // namespace meft::train
