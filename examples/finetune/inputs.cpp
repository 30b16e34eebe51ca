#include "inputs.hpp"

#include <algorithm>
#include <iterator>

#include <meft/checkpoints/tokenizer.hpp>
#include <meft/data/batches.hpp>
#include <meft/data/lines.hpp>
#include <meft/task/template.hpp>
#include <meft/task/written.hpp>

#include "help.hpp"
#include "report.hpp"
#include "terminal.hpp"

namespace finetune {

using namespace meft;

namespace {

std::size_t length(const Flags& flags) { return static_cast<std::size_t>(flags.max_length); }

data::ImageProcessor processor_of(const Flags& flags) {
  const auto processor = data::ImageProcessor::read(flags.model);
  if (processor.defaults) say(flags.model + " has no preprocessor_config.json: 224 x 224, mean and deviation 0.5");
  return processor;
}

void say_files(const std::string& path, const data::SplitFiles& files) {
  if (const std::string text = files.text(); !text.empty()) say(path + ": " + text);
}

/// What --eval-only scores. Of data without a dev set that is the tenth that the run held out of it, or, where it is
/// not the run's, all.
template <class Data>
Data scored_of(const Flags& flags, Data data, data::SplitFiles Data::*files) {
  if (!flags.eval_only || !data.held_out) return data;
  if (!flags.trained_on.empty() && fingerprint_of(data).starts_with(flags.trained_on)) return data;
  data.held_out = false;
  data.dev.insert(data.dev.end(), std::make_move_iterator(data.train.begin()),
                  std::make_move_iterator(data.train.end()));
  data.train.clear();
  std::swap((data.*files).train, (data.*files).dev);
  return data;
}
data::Dataset load(const Flags& flags, const std::string& task, data::LoadOptions columns) {
  columns.scored = flags.eval_only;
  return scored_of(flags, data::load(task, flags.data, columns), &data::Dataset::files);
}
data::ChoiceDataset load_questions(const Flags& flags) {
  return scored_of(flags, data::choices(flags.task, flags.data), &data::ChoiceDataset::files);
}

/// Why a test set is not scored.
template <class Data>
void say_unscored(const Flags& flags, const Data& data) {
  if (data.test_unlabelled == 0) return;
  const auto count = [](std::size_t n) { return grouped(static_cast<std::int64_t>(n)); };
  say(flags.data + ": test is not scored: " + count(data.test_unlabelled) + " of its " + count(data.test.size()) +
      " rows have no label");
}

/// The rows that are not taken.
void say_left_out(const data::Dataset& data) {
  for (const auto& left : data.left_out) say(left.text());
  if (data.dropped > 0)
    say(grouped(static_cast<std::int64_t>(data.dropped)) + " rows below the threshold, or cut in two, are left out");
}

/// What of an image folder is not read: files, and folders, whose names end in a slash.
void say_skipped(std::vector<std::string> names) {
  const auto folders =
      std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return !name.ends_with('/'); });
  const auto say_these = [](const std::vector<std::string>& some, const std::string& what) {
    if (!some.empty()) say(grouped(std::ssize(some)) + what + joined(some));
  };
  say_these({names.begin(), folders}, " files are no images by their names, left out: ");
  say_these({folders, names.end()}, " folders inside of class folders, or without images, are not read: ");
}

/// Texts without a word, of which nothing but the tokens around is learned.
void say_blank(const std::vector<data::Example>& examples, const std::string& what) {
  const auto count = std::count_if(examples.begin(), examples.end(), [](const data::Example& e) {
    return (e.text + e.pair).find_first_not_of(" \t\r\n") == std::string::npos;
  });
  if (count > 0) say(grouped(count) + " of " + grouped(std::ssize(examples)) + " " + what + " are empty");
}

std::optional<data::Augment> augment_of(const Flags& flags) {
  if (!flags.augment) return {};
  return data::Augment{.seed = flags.seed};
}

/// The token types of pairs must have rows in the checkpoint.
void check_pairs(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family) {
  if (tokenizer.types() <= family.types) return;
  const bool table = flags.task == "tsv";
  throw FlagError(table ? "--text-pair" : "--task",
                  "no pairs of texts: the tokenizer gives them " + std::to_string(tokenizer.types()) +
                      " token types, the checkpoint's type_vocab_size is " + std::to_string(family.types),
                  table ? flags.columns.pair : flags.task);
}

/// Where a causal model begins.
void check_bos(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family) {
  if (family.causal && tokenizer.bos() < 0)
    fail(flags.model + ": the tokenizer has no bos token (bos_token in tokenizer_config.json), which --task " +
         flags.task + " needs");
}

task::EncodedChoices encode(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family,
                            const std::vector<data::Choice>& set) {
  check_bos(flags, tokenizer, family);
  if (!family.causal) check_pairs(flags, tokenizer, family);
  return family.causal ? task::encode_causal(tokenizer, set, length(flags))
                       : task::encode_pairs(tokenizer, set, length(flags));
}

/// Whether the tokenizer puts its first token in front of a text: not where, as in T5, it has one of that kind alone.
bool begins_texts(const text::Tokenizer& tokenizer) {
  const auto around = tokenizer.encode("").ids;
  return !around.empty() && around.front() == tokenizer.bos() &&
         (around.size() > 1 || around.front() != tokenizer.eos());
}

}  // namespace

task::RankedForm ranked_form(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family) {
  check_bos(flags, tokenizer, family);
  const auto one = [](std::int32_t id) { return id < 0 ? task::Tokens{} : task::Tokens{id}; };
  task::RankedForm out{.max_length = length(flags),
                       .max_written = static_cast<std::size_t>(flags.max_target_length),
                       .before = one(tokenizer.bos())};
  const bool writes = flags.kind() == Kind::writing;
  if (writes && tokenizer.eos() < 0)
    fail(flags.model + ": the tokenizer has no eos token, at which --task " + flags.task + " stops writing");
  if (writes) out.end = one(tokenizer.eos());
  if (family.causal) return out;
  out.after = one(tokenizer.eos());
  if (family.decodes) {
    out.answered = task::Answered::by_decoder;
    if (!begins_texts(tokenizer)) out.before = {};
    out.start = out.before;
    out.end = one(tokenizer.eos());
    return out;
  }
  out.answered = task::Answered::at_mask;
  out.mask = tokenizer.mask();
  if (out.mask < 0)
    fail(flags.model + ": the tokenizer has no mask token, at which --losses has a masked model answer");
  if (flags.kind() == Kind::choices)
    throw FlagError("--losses", "a model that can go on with the options of --task " + flags.task + ", which are texts",
                    flags.model + ", which predicts masked tokens");
  return out;
}

namespace {

task::RankedQuestions ranked(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family,
                             const std::vector<data::Example>& examples, bool pairs) {
  return task::rank_classes(tokenizer, examples, task::Template(flags.prompt, pairs), flags.label_words,
                            ranked_form(flags, tokenizer, family));
}
task::RankedQuestions ranked(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family,
                             const std::vector<data::Choice>& questions) {
  return task::rank_options(tokenizer, questions, ranked_form(flags, tokenizer, family));
}

}  // namespace

text::Tokenizer tokenizer_of(Flags& flags, const Family& family) {
  auto tokenizer = checkpoints::read_tokenizer(flags.model);
  const auto told = static_cast<std::int64_t>(std::min<std::size_t>(tokenizer.longest(), INT64_MAX));
  if (!flags.given.contains("max-length"))
    flags.max_length = std::min({flags.max_length, std::int64_t{family.longest}, told});
  if (flags.max_length > family.longest)
    throw FlagError("--max-length", "at most " + std::to_string(family.longest) + ", the checkpoint's positions",
                    std::to_string(flags.max_length));
  if (flags.max_length > told)
    say("--max-length " + std::to_string(flags.max_length) + " is more than the tokenizer's model_max_length, " +
        std::to_string(told));
  if (static_cast<Index>(tokenizer.size()) > family.vocabulary)
    fail(flags.model + ": the tokenizer has more tokens than the model's vocab_size", tokenizer.size(),
         family.vocabulary);
  return tokenizer;
}

Texts read_texts(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, Sets sets) {
  const auto data = load(flags, flags.task, flags.columns);
  if (data.task.pair) check_pairs(flags, tokenizer, family);
  const auto encoded = [&](const std::vector<data::Example>& examples) {
    auto out = task::encode(tokenizer, examples, data.task.pair, length(flags));
    out.drop_behind(family.pad);
    return out;
  };
  Texts out;
  out.goal.labels = data.task.label_names;
  out.goal.metrics = data.task.metrics;
  out.goal.held_out = data.held_out;
  out.labels = data.task.labels;
  out.dev = encoded(data.dev);
  for (const auto& split : data.more_dev) out.more.emplace_back(split.name + " dev", encoded(split.examples));
  if (data.test_labelled) out.more.emplace_back("test", encoded(data.test));
  say_files(flags.data, data.files);
  say_unscored(flags, data);
  say_left_out(data);
  if (sets == Sets::dev) return out;
  out.train = encoded(data.train);
  out.goal.task = data.task.name;
  out.goal.model = fingerprint_of_model(flags.model);
  out.goal.data = fingerprint_of(data);
  out.goal.main_metric = data.task.main_metric;
  out.goal.pair = data.task.pair;
  say_classes(out.goal, out.train.labels);
  say_blank(data.train, "training texts");
  say_blank(data.dev, "dev texts");
  say_cut(out.train.cut, out.train.size(), flags.max_length, "training texts");
  say_cut(out.dev.cut, out.dev.size(), flags.max_length, "dev texts");
  return out;
}

Questions read_questions(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, Sets sets) {
  const auto data = load_questions(flags);
  Questions out;
  out.goal.metrics = {"accuracy", "accuracy_norm"};
  out.goal.held_out = data.held_out;
  out.dev = encode(flags, tokenizer, family, data.dev);
  if (data.test_labelled) out.more.emplace_back("test", encode(flags, tokenizer, family, data.test));
  say_files(flags.data, data.files);
  say_unscored(flags, data);
  if (sets == Sets::dev) return out;
  out.train = encode(flags, tokenizer, family, data.train);
  out.lengths = out.train.lengths();
  if (family.causal) {
    const auto rows = out.train.answer_rows();
    for (std::size_t q = 0; q < out.lengths.size(); ++q)
      out.lengths[q] = static_cast<std::uint32_t>(out.train.ids[rows[q]].size());
  }
  out.goal.task = flags.task;
  out.goal.model = fingerprint_of_model(flags.model);
  out.goal.data = fingerprint_of(data);
  out.goal.main_metric = "accuracy";
  say_cut(out.train.cut, out.train.ids.size(), flags.max_length, "training questions with an option");
  say_cut(out.dev.cut, out.dev.ids.size(), flags.max_length, "dev questions with an option");
  return out;
}

void set_asking(Flags& flags, const Family& family) {
  if (flags.kind() != Kind::texts) return;
  const auto usual = task::asking(flags.task);
  if (flags.prompt.empty()) {
    if (!usual)
      throw FlagError("--template", "a text with {text} and {label}, as --task " + flags.task + " has none", "nothing");
    flags.prompt = family.causal || family.decodes ? usual->causal : usual->masked;
  }
  if (flags.label_words.empty()) {
    if (!usual)
      throw FlagError("--label-words", "a word for each class, as --task " + flags.task + " has none", "nothing");
    flags.label_words = usual->words;
  }
}

namespace {

/// What `encode` makes of the sets, whose prompts it cuts to `most` tokens, and what a run says of them.
template <class Data, class Encode>
void fill(Ranked& out, const Flags& flags, const Data& data, Sets sets, std::int64_t most, const Encode& encode) {
  out.goal.held_out = data.held_out;
  out.dev = encode(data.dev);
  if (data.test_labelled) out.more.emplace_back("test", encode(data.test));
  say_files(flags.data, data.files);
  say_unscored(flags, data);
  if (sets == Sets::dev) return;
  out.train = encode(data.train);
  out.goal.task = flags.task;
  out.goal.model = fingerprint_of_model(flags.model);
  out.goal.data = fingerprint_of(data);
  say_cut(out.train.cut, out.train.size(), most, "training examples");
  say_cut(out.dev.cut, out.dev.size(), most, "dev examples");
}

}  // namespace

Ranked read_ranked(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, Sets sets) {
  Ranked out;
  if (flags.kind() == Kind::choices) {
    out.goal.metrics = {out.goal.main_metric = "accuracy"};
    fill(out, flags, load_questions(flags), sets, flags.max_length,
         [&](const std::vector<data::Choice>& set) { return ranked(flags, tokenizer, family, set); });
    return out;
  }
  const auto data = load(flags, flags.task, flags.columns);
  if (data.task.regression()) throw FlagError("--losses", "a task with classes", "--task " + flags.task);
  if (flags.label_words.size() != data.task.label_names.size()) {
    std::string names;
    for (const auto& name : data.task.label_names) names += (names.empty() ? "" : ", ") + name;
    throw FlagError("--label-words", "a word for each class (" + names + ")", std::to_string(flags.label_words.size()));
  }
  out.goal.labels = data.task.label_names;
  out.goal.metrics = data.task.metrics;
  out.goal.main_metric = data.task.main_metric;
  out.goal.pair = data.task.pair;
  const auto encode = [&](const std::vector<data::Example>& set) {
    return ranked(flags, tokenizer, family, set, data.task.pair);
  };
  for (const auto& split : data.more_dev) out.more.emplace_back(split.name + " dev", encode(split.examples));
  fill(out, flags, data, sets, flags.max_length, encode);
  say_left_out(data);
  if (sets != Sets::dev) say_classes(out.goal, out.train.labels);
  return out;
}

namespace {

/// The columns of --task text2text.
data::LoadOptions written_columns(const Flags& flags) {
  data::LoadOptions out = flags.columns;
  out.pair = std::exchange(out.label, {});
  out.written = true;
  return out;
}

}  // namespace

Ranked read_written(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, Sets sets) {
  const auto data = load(flags, "tsv", written_columns(flags));
  Ranked out;
  out.goal.metrics = data.task.metrics;
  out.goal.main_metric = data.task.main_metric;
  const auto form = ranked_form(flags, tokenizer, family);
  const task::WrittenRoom room(form);
  fill(out, flags, data, sets, static_cast<std::int64_t>(room.text),
       [&](const std::vector<data::Example>& set) { return task::encode_written(tokenizer, set, form); });
  for (const auto& [set, name] : {std::pair(&out.train, "training"), std::pair(&out.dev, "dev")})
    say_cut(set->cut_answers.size(), set->size(), static_cast<std::int64_t>(room.written),
            "texts to be written of " + std::string(name) + " examples",
            flags.max_target_length > 0 ? "--max-target-length" : "--max-length");
  say_left_out(data);
  return out;
}

std::pair<task::BlockOptions, std::optional<task::MaskOptions>> cutting(const Flags& flags,
                                                                        const text::Tokenizer& tokenizer,
                                                                        const Family& family) {
  check_bos(flags, tokenizer, family);
  task::BlockOptions cut{.max_length = length(flags), .before = {tokenizer.bos()}};
  if (family.causal) return {cut, {}};
  cut.after = {tokenizer.eos()};
  task::MaskOptions mask;
  mask.mask = tokenizer.mask();
  mask.vocabulary = static_cast<std::int32_t>(tokenizer.size());
  for (const auto id : {tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.unk()})
    if (id >= 0) mask.special.push_back(id);
  if (mask.mask < 0) fail(flags.model + ": the tokenizer has no mask token, which --task lm needs");
  return {cut, mask};
}

Lines read_lines(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, Sets sets) {
  const auto [cut, mask] = cutting(flags, tokenizer, family);
  const auto lines =
      scored_of(flags, data::lines(flags.data, {.encoding = flags.columns.encoding, .scored = flags.eval_only}),
                &data::LineDataset::files);
  const auto blocks = [&, &cut = cut, &mask = mask](const std::vector<std::string>& set) {
    return task::Blocks{task::blocks(tokenizer, set, cut), mask, flags.seed};
  };
  Lines out;
  out.goal.metrics = {"log_likelihood", "perplexity"};
  out.goal.held_out = lines.held_out;
  out.dev = blocks(lines.dev);
  if (!lines.test.empty()) out.more.emplace_back("test", blocks(lines.test));
  say_files(flags.data, lines.files);
  if (sets == Sets::dev) return out;
  out.train = blocks(lines.train);
  out.goal.task = flags.task;
  out.goal.model = fingerprint_of_model(flags.model);
  out.goal.data = fingerprint_of(lines);
  out.goal.main_metric = "log_likelihood";
  return out;
}

Images::Images(const Flags& flags, const std::vector<std::string>* trained)
    : processor(processor_of(flags)),
      data(scored_of(flags, data::load_images(flags.data, {.decode = !flags.loads()}), &data::ImageDataset::splits)),
      train(data, data.train, processor, augment_of(flags)),
      dev(data, data.dev, processor) {
  if (trained && data.label_names != *trained)
    fail(flags.data + ": other classes than those of the run in " + flags.output + ": expected " +
         joined(*trained, 10) + ", found " + joined(data.label_names, 10));
  goal.labels = data.label_names;
  goal.metrics = {"accuracy"};
  goal.main_metric = "accuracy";
  goal.held_out = data.held_out;
  if (!data.test.empty()) more.emplace_back("test", meft::task::ImageSet(data, data.test, processor));
  say_files(flags.data, data.splits);
  if (!data.skipped.empty()) say_skipped(data.skipped);
  if (flags.loads()) return;
  goal.task = flags.task;
  goal.model = fingerprint_of_model(flags.model);
  goal.data = fingerprint_of(data);
  say_classes(goal, train.labels);
}

namespace {

/// The examples of the batch with the most tokens of the run.
std::vector<std::uint32_t> largest_rows(const Flags& flags, const std::vector<std::uint32_t>& lengths) {
  std::vector<std::uint32_t> largest;
  std::uint64_t most = 0;
  for (std::int64_t epoch = 0; epoch < std::min<std::int64_t>(flags.epochs, 8); ++epoch)
    for (auto& rows :
         data::step_batches(lengths, static_cast<std::size_t>(flags.batch), static_cast<std::size_t>(flags.accumulate),
                            flags.seed, static_cast<std::uint64_t>(epoch))) {
      std::uint64_t tokens = 0;
      for (const auto row : rows) tokens += lengths[row];
      if (tokens > most) most = tokens, largest = std::move(rows);
    }
  return largest;
}

}  // namespace

train::BatchSizes largest_batch(const Flags& flags, const std::vector<std::uint32_t>& lengths) {
  std::vector<std::int32_t> out;
  for (const auto row : largest_rows(flags, lengths)) out.push_back(static_cast<std::int32_t>(lengths[row]));
  return {Offsets::of_lengths(out)};
}
train::BatchSizes largest_batch(const Flags& flags, const task::RankedQuestions& questions) {
  const bool apart = questions.answered == task::Answered::by_decoder;
  std::vector<std::int32_t> out, answers;
  for (const auto row : largest_rows(flags, questions.lengths())) {
    const auto lengths = questions.sequences(row);
    for (std::size_t i = 0; i < lengths.size(); ++i) (apart && i > 0 ? answers : out).push_back(lengths[i]);
  }
  out.insert(out.end(), answers.begin(), answers.end());
  return {Offsets::of_lengths(out), Offsets::of_lengths(answers)};
}

namespace {

/// Names the flag, and what it expects, where the reading fails.
template <class Read>
auto predicted(const Flags& flags, const std::string& expected, bool folder, Read&& read) {
  std::error_code ignored;
  const auto status = std::filesystem::status(flags.predict, ignored);
  const std::string wanted = expected + ", for --task " + flags.task;
  if (!std::filesystem::exists(status)) throw FlagError("--predict", wanted, flags.predict + ", which is not there");
  if (!folder && std::filesystem::is_directory(status))
    throw FlagError("--predict", wanted, "the folder " + flags.predict);
  try {
    return read();
  } catch (const Error& error) {
    throw FlagError("--predict: expected " + wanted + ": " + in_flags(error.message()));
  }
}

}  // namespace

TextsToPredict texts_to_predict(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family, bool pair) {
  return predicted(flags, pair ? "a file of pairs of texts" : "a file of texts", false, [&] {
    TextsToPredict out{data::load_inputs(flags.task, flags.predict, flags.columns), {}};
    out.encoded = task::encode(tokenizer, out.rows, pair, length(flags));
    out.encoded.drop_behind(family.pad);
    say_cut(out.encoded.cut, out.rows.size(), flags.max_length, "texts");
    return out;
  });
}

QuestionsToPredict questions_to_predict(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family) {
  return predicted(flags, "a file of questions, JSON lines", false, [&] {
    QuestionsToPredict out{data::choice_inputs(flags.task, flags.predict), {}};
    out.encoded = encode(flags, tokenizer, family, out.rows);
    say_cut(out.encoded.cut, out.encoded.ids.size(), flags.max_length, "questions with an option");
    return out;
  });
}

RankedToPredict ranked_to_predict(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family,
                                  bool pair) {
  const bool texts = flags.kind() == Kind::texts;
  const std::string expected = !texts ? "a file of questions, JSON lines"
                               : pair ? "a file of pairs of texts"
                                      : "a file of texts";
  return predicted(flags, expected, false, [&] {
    RankedToPredict out;
    if (texts) out.texts = data::load_inputs(flags.task, flags.predict, flags.columns);
    else out.questions = data::choice_inputs(flags.task, flags.predict);
    out.encoded =
        texts ? ranked(flags, tokenizer, family, out.texts, pair) : ranked(flags, tokenizer, family, out.questions);
    say_cut(out.encoded.cut, out.encoded.size(), flags.max_length, texts ? "texts" : "questions");
    return out;
  });
}

RankedToPredict texts_to_write(const Flags& flags, const text::Tokenizer& tokenizer, const Family& family) {
  return predicted(flags, "a file of texts", false, [&] {
    RankedToPredict out;
    out.texts = data::load_inputs("tsv", flags.predict, written_columns(flags));
    const auto form = ranked_form(flags, tokenizer, family);
    out.encoded = task::encode_written(tokenizer, out.texts, form, false);
    say_cut(out.encoded.cut, out.texts.size(), static_cast<std::int64_t>(task::WrittenRoom(form).text), "texts");
    return out;
  });
}

std::vector<std::string> lines_to_predict(const Flags& flags) {
  return predicted(flags, "a file of lines of text", false,
                   [&] { return data::input_lines(flags.predict, flags.columns.encoding); });
}

ImagesToPredict::ImagesToPredict(const Flags& flags)
    : processor(processor_of(flags)),
      inputs(predicted(flags, "a folder of images, an image, a CIFAR-10 file .bin or an MNIST file .csv", true,
                       [&] { return data::image_inputs(flags.predict); })),
      set(inputs.data, inputs.data.train, processor) {
  if (inputs.skipped > 0)
    say(grouped(static_cast<std::int64_t>(inputs.skipped)) + " files in " + flags.predict +
        " are no images by their names: left out");
}

}  // namespace finetune
