#include "report.hpp"

#include "memory.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string_view>

#include "terminal.hpp"

namespace finetune {

using namespace meft;

namespace {

template <class... Args>
std::string format(const char* form, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, form, args...);
  return text;
}

std::string of(std::int64_t done, std::int64_t all) { return std::to_string(done) + "/" + std::to_string(all); }

std::string duration(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  return s >= 3600 ? format("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60)
                   : format("%lld:%02lld", s / 60, s % 60);
}

/// Of 1 feature or more, with a wider range.
std::string features(const Widened& w) {
  return std::to_string(w.features) + (w.features == 1 ? " feature has" : " features have") +
         " a wider range, the widest +-" + grouped(std::int64_t{1} << (31 - w.least));
}

}  // namespace

std::string joined(const std::vector<std::string>& names, std::size_t most) {
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) out += (i ? ", " : "") + names[i];
  return out + (names.size() > most ? ", ... (" + std::to_string(names.size()) + ")" : "");
}

std::string grouped(std::int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string mebibytes(double bytes) {
  const double mib = bytes / (1 << 20);
  return format(mib < 100 ? "%.1f MiB" : "%.0f MiB", mib);
}

std::string text(const std::vector<task::Score>& scores) {
  std::string out;
  for (const auto& s : scores) out += (out.empty() ? "" : ", ") + s.name + format(" %.4f", s.value);
  return out;
}

Progress::Progress() : terminal_(on_terminal()) {
  const char* kind = std::getenv("TERM");
  clears_ = !kind || std::string_view(kind) != "dumb";
}

void Progress::end_line() {
  if (open_) std::fputs(passing_ && clears_ ? "\r\x1b[K" : "\n", stdout), std::fflush(stdout);
  open_ = passing_ = false;
  width_ = 0;
}

/// Whether it is time for a line.
bool Progress::due(bool last) {
  const auto now = std::chrono::steady_clock::now();
  if (!last && std::chrono::duration<double>(now - shown_).count() < (terminal_ ? 0.1 : 10.0)) return false;
  shown_ = now;
  return true;
}

void Progress::write(std::vector<Field> fields) {
  const auto line = [&] {
    std::string out;
    for (const auto& field : fields)
      if (!field.text.empty()) out += (out.empty() ? "" : "  ") + field.text;
    return out;
  };
  if (!terminal_) return say(line());
  const std::size_t room = std::max<std::size_t>(terminal_width(), 2) - 1;  // the last column would make some wrap
  while (fields.size() > 1 && columns(line()) > room)
    fields.erase(std::max_element(fields.begin(), fields.end(),
                                  [](const Field& a, const Field& b) { return a.importance < b.importance; }));
  std::string out = cut(line(), room);
  const std::size_t width = columns(out);
  if (clears_) out += "\x1b[K";
  else if (width < std::min(width_, room)) out.append(std::min(width_, room) - width, ' ');
  width_ = width;
  std::fputs(("\r" + out).c_str(), stdout);
  std::fflush(stdout);
  open_ = true;
}

void Progress::step(const train::StepReport& r) {
  if (!due(r.step == r.steps)) return;
  passing_ = false;
  write({{3, "epoch " + of(r.epoch, r.epochs)},
         {0, "step " + of(r.step, r.steps)},
         {1, format("loss %.4f", r.mean_loss)},
         {4, format("%.1f sequences/s", r.sequences_per_second)},
         {7, r.light > 0 ? format("sol %.0f %%", 100 * r.light) : ""},
         {5, "activation " + mebibytes(static_cast<double>(r.activation_bytes))},
         {6, "peak " + mebibytes(static_cast<double>(r.peak_activation_bytes))},
         {2, "left " + duration(r.seconds_left)}});
}

void Progress::pass(const char* verb, std::size_t done, std::size_t of) {
  if (!due(terminal_ && done == 0)) return;
  passing_ = true;
  write({{0, verb + (" " + std::to_string(done) + "/" + std::to_string(of))}});
}

task::Asked Progress::watch(const char* verb, const Stop& stop) {
  shown_ = std::chrono::steady_clock::now();
  return [this, verb, &stop](std::size_t done, std::size_t of) {
    pass(verb, done, of);
    return stop();
  };
}

train::Observer Progress::observer(const std::string& folder) {
  return {.started =
              [this, folder](const train::StartReport& r) {
                if (r.nothing_to_resume) say("nothing to resume in " + folder + ": a new run starts");
                bool planned = false;
                for (const auto& change : r.changed) {
                  const bool isa = change.name == "isa";
                  planned = planned || !isa;
                  say((isa ? "the instruction set" : "--" + change.name) + " was " + change.before + " and is " +
                      change.now + ": from here on the bits are not those of either run as a whole");
                }
                if (planned)
                  say("the learning rate goes on at " + format("%.3g", r.rate) +
                      (r.schedule == Schedule::constant ? " and does not fall"
                                                        : " and falls to 0 at step " + std::to_string(r.steps)));
                if (r.resumed)
                  say(r.step == r.steps ? "the run ended at step " + std::to_string(r.step) + ": no step is left"
                                        : "resumed at step " + std::to_string(r.step) + " of " +
                                              std::to_string(r.steps) + ", in epoch " + std::to_string(r.epoch));
                // The first step is shown at once on a terminal, after ten seconds elsewhere.
                shown_ = terminal_ ? std::chrono::steady_clock::time_point{} : std::chrono::steady_clock::now();
              },
          .stepped = [this](const train::StepReport& r) { step(r); },
          .evaluated =
              [this](const train::EpochReport& r) {
                end_line();
                say("epoch " + of(r.epoch, r.epochs) + " done at step " + std::to_string(r.step) +
                    format(": train loss %.4f; dev ", r.mean_loss) + text(r.scores) + (r.best ? "  (best)" : ""));
              },
          .widened =
              [this](const train::RangeReport& r) {
                end_line();
                say("a stream left its range at step " + std::to_string(r.step) +
                    ", which is done again: " + features(r.by) + " now");
              },
          .scoring = [this](std::size_t done, std::size_t of) { pass("scoring dev examples", done, of); }};
}

void say_classes(const Goal& goal, const std::vector<float>& labels) {
  if (goal.labels.empty()) return;
  std::vector<std::size_t> counts(goal.labels.size());
  for (const float label : labels)
    if (label >= 0 && label < static_cast<float>(counts.size())) ++counts[static_cast<std::size_t>(label)];
  constexpr std::size_t most = 20;
  std::string line = std::to_string(counts.size()) + " classes, with their training examples: ";
  for (std::size_t i = 0; i < std::min(counts.size(), most); ++i)
    line += (i ? ", " : "") + shown(goal.labels[i]) + " " + grouped(static_cast<std::int64_t>(counts[i]));
  if (counts.size() > most) line += ", ...";
  if (std::find(goal.metrics.begin(), goal.metrics.end(), "f1") != goal.metrics.end())
    line += "; f1 is that of " + shown(goal.labels.back());
  say(line);
}

void say_cut(std::size_t count, std::size_t of, std::int64_t most, const std::string& what, const std::string& flag) {
  if (count == 0) return;
  say(grouped(static_cast<std::int64_t>(count)) + " of " + grouped(static_cast<std::int64_t>(of)) + " " + what +
      " are cut to " + std::to_string(most) + " tokens (" + flag + ")");
}

void say_loaded(const checkpoints::LoadReport& report) {
  if (!report.initialised.empty()) say("not in the checkpoint, newly made: " + joined(report.initialised));
  for (const auto& note : report.notes) say(note);
  if (!report.unused.empty()) say("in the checkpoint, not used: " + joined(report.unused));
}

void say_cost(const std::string& name, Index trained, double weight_bytes, double mapped_bytes, double kept_bytes,
              double activation_bytes) {
  say(name + ": " + grouped(trained) + " parameters train; weights " + mebibytes(weight_bytes) +
      (mapped_bytes > 0 ? " and " + mebibytes(mapped_bytes) + " mapped from the checkpoint" : "") +
      ", gradients and moments " + mebibytes(kept_bytes) + ", activation (expected) " + mebibytes(activation_bytes));
}

void say_batch(const Offsets& batch) {
  say("(largest batch: " + std::to_string(batch.sequences()) + " sequences, " + grouped(batch.tokens()) +
      " tokens, the longest " + std::to_string(batch.longest()) + ")");
}

void say_range(const Widened& range) {
  if (range.features) say("streams: " + features(range) + " (" + std::to_string(range.least) + " fraction bits)");
}

void say_distance(const train::StartDistance& start) {
  say(start.divergence
          ? format("at the start the model's predictions are %.4f nats a token from the plain model's "
                   "(Kullback-Leibler divergence)",
                   start.value)
          : format("at the start the model's pooled features have a cosine of %.4f to the plain model's", start.value));
}

void say_start(const Goal& goal, std::size_t train, std::size_t dev, std::int64_t steps) {
  say(std::to_string(train) + " examples to train on, " + std::to_string(dev) +
      (goal.held_out ? " held out" : " to score on") + "; task " + goal.task + ", " + std::to_string(steps) + " steps");
}

void say_scores(const std::vector<task::Score>& scores, std::size_t examples, const std::string& set) {
  say(std::to_string(examples) + " " + set + " examples: " + text(scores));
}

std::string remedy_of_range() {
  return "--streams rounded, which has no range, or a method without streams: --method " +
         method_names([](const AnyMethod& m) { return !method_facts(m).reversible; });
}

std::string remedy(const train::StepError& error, const Flags& flags) {
  bool range = false;
  try {
    std::rethrow_if_nested(error);
  } catch (const StreamError& inner) {
    range = std::isfinite(inner.value);
  } catch (const std::exception&) {
  }
  std::string out;
  if (error.trained) out = "A lower --lr may help";
  else if (range) out = "The checkpoint's own values are too large for any range; they run with " + remedy_of_range();
  else return "Look at the checkpoint and at the data: it failed before anything was learned";
  if (error.kept >= 0)
    out += "; --resume with another --lr goes on from step " + std::to_string(error.kept) + " in " + flags.output +
           ", --overwrite begins anew";
  return out;
}

void say_outcome(const Flags& flags, const train::Outcome& outcome, std::int64_t steps) {
  const train::RunFiles files(flags.output);
  const bool ran = outcome.memory.held > 0;  // a step or a pass: no resumption of a run that had ended
  if (ran) say_memory("highest", outcome.memory);
  if (!outcome.finished) {
    say("stopped at step " + std::to_string(outcome.place.step) + " of " + std::to_string(steps) +
        "; --resume goes on from " + files.state);
    return;
  }
  const auto& best = outcome.place.epochs[static_cast<std::size_t>(outcome.place.best_epoch)];
  say("best: epoch " + std::to_string(best.epoch + 1) + ", dev " + text(best.scores) +
      (ran ? "; activation memory " + mebibytes(static_cast<double>(outcome.activation_bytes)) + ", reserved " +
                 mebibytes(static_cast<double>(outcome.memory.held))
           : "") +
      "; " + files.adapter);
}

}  // namespace finetune
