// Owns: what a run reads, by the kind of its task: the data as the learners take it, and the goal. The same for every
// family of models.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <meft/data/choice.hpp>
#include <meft/data/image_inputs.hpp>
#include <meft/data/preprocess.hpp>
#include <meft/data/task.hpp>
#include <meft/task/choice.hpp>
#include <meft/task/encoded.hpp>
#include <meft/task/images.hpp>
#include <meft/task/language_learner.hpp>
#include <meft/task/ranked.hpp>
#include <meft/text/tokenizer.hpp>

#include "goal.hpp"

namespace finetune {

/// What the program asks of the family.
struct Family {
  meft::Index longest = 0, vocabulary = 0;
  bool causal = false, decodes = false;
  meft::Index types = 2;  // rows for token types
  meft::Index pad = -1;   // no class is read from it; -1: none
};

/// The checkpoint's tokenizer. Cuts flags.max_length to what the checkpoint allows, and where it is not given to what
/// the tokenizer does (model_max_length); a longer one that is given is said.
meft::text::Tokenizer tokenizer_of(Flags& flags, const Family& family);

/// Which sets are read: those of a run that trains, or what is scored.
enum class Sets { all, dev };

/// Sets by name that are scored besides: MNLI's mismatched ones, a test set whose labels are told.
template <class Set>
using More = std::vector<std::pair<std::string, Set>>;

/// Texts or pairs with a label.
struct Texts {
  Goal goal;
  int labels = 2;
  meft::task::Encoded train, dev;
  More<meft::task::Encoded> more;
};
Texts read_texts(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family, Sets sets);

/// Questions with options: a causal model goes on with an option, an encoder sees it beside the question.
struct Questions {
  Goal goal;
  meft::task::EncodedChoices train, dev;
  More<meft::task::EncodedChoices> more;
  /// Tokens of what one training example is.
  std::vector<std::uint32_t> lengths;
};
Questions read_questions(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family, Sets sets);

/// Texts with classes, or questions, whose answers a language model ranks.
struct Ranked {
  Goal goal;
  meft::task::RankedQuestions train, dev;
  More<meft::task::RankedQuestions> more;
};
/// Gives the flags the task's template and label words where they have none. Throws FlagError where that has none too.
void set_asking(Flags& flags, const Family& family);
Ranked read_ranked(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family, Sets sets);
/// Texts that a language model is to write, each a question with one answer.
Ranked read_written(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family, Sets sets);
/// How ranked answers, and texts that are written, become tokens.
meft::task::RankedForm ranked_form(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family);

/// Lines of text: a causal model predicts the next token, an encoder masked ones.
struct Lines {
  Goal goal;
  meft::task::Blocks train, dev;
  More<meft::task::Blocks> more;
};
Lines read_lines(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family, Sets sets);
/// How lines are cut, and what an encoder masks.
std::pair<meft::task::BlockOptions, std::optional<meft::task::MaskOptions>> cutting(
    const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family);

/// Images with a class; of an earlier run those that it was trained on. The sets point into the data.
struct Images {
  explicit Images(const Flags& flags, const std::vector<std::string>* trained = nullptr);
  Images(const Images&) = delete;
  Images& operator=(const Images&) = delete;

  meft::data::ImageProcessor processor;
  meft::data::ImageDataset data;
  meft::task::ImageSet train, dev;
  More<meft::task::ImageSet> more;
  Goal goal;
};

/// The sequences of the batch with the most tokens of the run.
meft::train::BatchSizes largest_batch(const Flags& flags, const std::vector<std::uint32_t>& lengths);

/// The same of questions with all of their answers.
meft::train::BatchSizes largest_batch(const Flags& flags, const meft::task::RankedQuestions& questions);

/// What --predict names, read; each throws an error that names the flag and what it expects.
struct TextsToPredict {
  std::vector<meft::data::Example> rows;
  meft::task::Encoded encoded;
};
TextsToPredict texts_to_predict(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family,
                                bool pair);

struct QuestionsToPredict {
  std::vector<meft::data::Choice> rows;
  meft::task::EncodedChoices encoded;
};
QuestionsToPredict questions_to_predict(const Flags& flags, const meft::text::Tokenizer& tokenizer,
                                        const Family& family);

/// Either texts or questions have rows.
struct RankedToPredict {
  std::vector<meft::data::Example> texts;
  std::vector<meft::data::Choice> questions;
  meft::task::RankedQuestions encoded;
};
RankedToPredict ranked_to_predict(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family,
                                  bool pair);

/// Texts for which one is to be written.
RankedToPredict texts_to_write(const Flags& flags, const meft::text::Tokenizer& tokenizer, const Family& family);

std::vector<std::string> lines_to_predict(const Flags& flags);

struct ImagesToPredict {
  explicit ImagesToPredict(const Flags& flags);
  ImagesToPredict(const ImagesToPredict&) = delete;
  ImagesToPredict& operator=(const ImagesToPredict&) = delete;

  meft::data::ImageProcessor processor;
  meft::data::ImageInputs inputs;
  meft::task::ImageSet set;
};

}  // namespace finetune
