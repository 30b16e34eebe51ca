// Owns: what the program prints of a run: progress, costs, scores, and the form of numbers.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <meft/checkpoints/hf.hpp>
#include <meft/train/observer.hpp>
#include <meft/train/prepare.hpp>
#include <meft/train/trainer.hpp>

#include "flags.hpp"
#include "goal.hpp"

namespace finetune {

/// `1,234,567`
std::string grouped(std::int64_t number);
std::string mebibytes(double bytes);
/// `a, b, ... (7)`: the first of the names, and how many there are.
std::string joined(const std::vector<std::string>& names, std::size_t most = 4);
/// `accuracy 0.8123, f1 0.8011`
std::string text(const std::vector<meft::task::Score>& scores);

/// Progress: one line that is written over on a terminal, a line every ten seconds elsewhere.
class Progress {
 public:
  Progress();
  ~Progress() { end_line(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Of a run in `folder`.
  meft::train::Observer observer(const std::string& folder);
  /// Shows `verb done/of` of what goes on besides training, and asks `stop`. It must not outlive the progress.
  meft::task::Asked watch(const char* verb, const Stop& stop);
  /// Ends the line that is being written over.
  void end_line();

 private:
  struct Field {
    int importance;  // the highest go first where the line is too long
    std::string text;
  };
  void step(const meft::train::StepReport& report);
  void pass(const char* verb, std::size_t done, std::size_t of);
  bool due(bool last);
  void write(std::vector<Field> fields);

  bool terminal_, clears_, open_ = false;
  bool passing_ = false;  // the line is of a pass, and goes when that ends
  std::size_t width_ = 0;
  std::chrono::steady_clock::time_point shown_{};
};

/// The classes with the training examples of each, and which one f1 is of.
void say_classes(const Goal& goal, const std::vector<float>& labels);
/// How many of the texts lost tokens, since `flag` leaves at most so many.
void say_cut(std::size_t count, std::size_t of, std::int64_t most, const std::string& what,
             const std::string& flag = "--max-length");
void say_loaded(const meft::checkpoints::LoadReport& report);
/// Trained parameters, weights in memory and in mapped files, gradients and moments, expected activation.
void say_cost(const std::string& name, meft::Index trained, double weight_bytes, double mapped_bytes, double kept_bytes,
              double activation_bytes);
/// The largest batch, by which activation was expected.
void say_batch(const meft::Offsets& batch);
/// Features whose values need a wider range than the others'.
void say_range(const meft::Widened& range);
/// How far the method's model starts from the plain one.
void say_distance(const meft::train::StartDistance& start);
/// How many examples, of which task, in how many steps.
void say_start(const Goal& goal, std::size_t train, std::size_t dev, std::int64_t steps);
void say_scores(const std::vector<meft::task::Score>& scores, std::size_t examples, const std::string& set);
/// What helps a run whose numbers went out of range, by flags.
std::string remedy(const meft::train::StepError& error, const Flags& flags);
/// What holds a value that is too large for the streams.
std::string remedy_of_range();
void say_outcome(const Flags& flags, const meft::train::Outcome& outcome, std::int64_t steps);

}  // namespace finetune
