// Owns: the fine-tuner's command line as a record; identity.cpp has the JSON that says which run it is.
#pragma once

#include <exception>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <meft/base/json.hpp>
#include <meft/data/form.hpp>
#include <meft/method/any.hpp>

namespace finetune {

/// A wrong flag: exit status 2.
class FlagError : public std::exception {
 public:
  /// `flag: expected …, found …`
  FlagError(const std::string& flag, const std::string& expected, const std::string& found)
      : message_(flag + ": expected " + expected + ", found " + found) {}
  explicit FlagError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// What a task works on.
enum class Kind { texts, choices, language, writing, images };

struct Flags {
  std::string model, task, data, output = "finetuned", predict, predictions, merge;
  std::string device = "cpu";
  meft::data::LoadOptions columns;
  std::string encoding = "utf-8", header = "auto";

  meft::AnyMethod method = meft::DefaultMethod{};
  std::map<std::string, std::string> method_options;  // by flag name, as given
  meft::AdaptOptions adapt{.precision = meft::Precision::f32};
  std::string pooling = "model";  // the family's own
  bool augment = false, prune_embeddings = false;
  std::string losses, prompt;            // of ranked answers: task::Losses by name; the template that asks
  std::vector<std::string> label_words;  // a class each

  std::int64_t batch = 16, accumulate = 1, epochs = 3, max_steps = 0, max_length = 128, threads = 0;
  std::int64_t max_target_length = 0;
  meft::Recipe recipe;  // the method's, but for what is given
  std::uint64_t seed = 0;

  bool resume = false, overwrite = false, eval_only = false;
  std::int64_t log_every = 10, save_steps = 0;
  double save_seconds = 60;

  std::string trained_on;       // the fingerprint of an earlier run's data
  std::set<std::string> given;  // names of the flags on the command line, without dashes

  Kind kind() const;
  /// A language model ranks answers; no head is made.
  bool ranks() const { return !losses.empty(); }
  bool regresses() const { return task == "stsb" || columns.regression; }
  /// Whether the task has a head of its own; questions have none where the model is causal.
  bool has_head() const { return !ranks() && kind() != Kind::language && kind() != Kind::writing; }
  /// Whether --head-lr asks for a rate.
  bool gives_head_rate() const { return given.contains("head-lr") && recipe.head_rate > 0; }
  /// Uses what an earlier run left instead of training.
  bool loads() const { return eval_only || !predict.empty() || !merge.empty(); }
  /// Where predictions go.
  std::string predictions_path() const { return predictions.empty() ? output + "/predictions.tsv" : predictions; }
};

/// Gives the method the options that were on the command line, and takes its recipe for what was not. Throws FlagError
/// for an option that it does not have or take.
void set_method_options(Flags& flags);

/// The same for a method that is told by a file at `path`: the options on the command line must be as there.
void require_same_options(Flags& flags, const std::string& path);

/// All flags, without dashes.
std::vector<std::string> flag_names();

/// Throws FlagError; gives false when only help or the version was asked for, and printed.
bool parse(int argc, char** argv, Flags& flags);

/// Throws FlagError for a flag that does not go with the task or with others beside it.
void check_task(const Flags& flags);

/// The options that make a run, by flag name; those that the method or task does not have are left out.
nlohmann::json describe(const Flags& flags);

/// Takes the options of `config` (a `describe` from an earlier run). Throws FlagError for a given flag that differs, or
/// that the run did not have.
void take(Flags& flags, const nlohmann::json& config, const std::string& path);

}  // namespace finetune
